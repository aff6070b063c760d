# Root mode "tmpfs": an empty root in memory at each start. All that stays is the store, the boot files and the
# allowlist (V-2, V-10, V-52).
{ config, lib, ... }:
let
  cfg = config.nixvm;
  nixvm = import ./lib.nix;
  writable = cfg.store == "partition";
  store =
    if writable then
      {
        "/nix" = {
          device = "/dev/disk/by-label/nix";
          fsType = "ext4";
          options = [ "noatime" ];
          neededForBoot = true;
        };
      }
    else
      {
        "/nix/store" = {
          device = "/dev/disk/by-partlabel/${nixvm.storeLabel}";
          fsType = "squashfs";
          options = [ "ro" ];
          neededForBoot = true;
        };
      };
in
{
  imports = [
    ./options.nix
    ./allow.nix
    ./persist.nix
  ];

  config = lib.mkIf (cfg.enable && cfg.rootMode == "tmpfs") {
    fileSystems = store // {
      "/" = {
        device = "none";
        fsType = "tmpfs";
        options = [
          "defaults"
          "mode=755"
        ];
      };
      "/boot" = {
        device = "/dev/disk/by-label/ESP";
        fsType = "vfat";
        options = lib.optional (!writable) "ro" ++ [
          "umask=0077"
          "nofail"
        ];
      };
    };
  };
}
