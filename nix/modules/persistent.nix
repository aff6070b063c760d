# Root mode "persistent": the plain root of the image, written to until the next image takes its place (P-20).
{ config, lib, ... }:
let
  cfg = config.nixvm;
  nixvm = import ./lib.nix;
in
{
  imports = [ ./options.nix ];

  config = lib.mkIf (cfg.enable && cfg.rootMode == "persistent") {
    fileSystems = {
      "/" = {
        device = "/dev/disk/by-label/${nixvm.rootLabel}";
        fsType = "ext4";
        options = [ "noatime" ];
      };
      "/boot" = {
        device = "/dev/disk/by-label/ESP";
        fsType = "vfat";
        options = [
          "umask=0077"
          "nofail"
        ];
      };
    };
  };
}
