# Root mode "readonly" (T-4, T-7 to T-12): / and /etc never change while the system runs, /var is the persistent disk,
# /home is on it, /tmp is RAM.
#
# NixOS's activation writes /etc anew at each start. It may do so in the initrd, into the overlay that is thrown away
# with the next image; before the system itself starts the root is closed (initrd.nix).
{ config, lib, ... }:
let
  cfg = config.nixvm;
  nixvm = import ./lib.nix;
in
{
  imports = [ ./options.nix ];

  config = lib.mkIf (cfg.enable && cfg.rootMode == "readonly") {
    fileSystems = {
      "/" = {
        device = "/dev/disk/by-label/${nixvm.rootLabel}";
        fsType = "ext4";
        options = [
          "ro"
          "noatime"
        ];
      };
      "/boot" = {
        device = "/dev/disk/by-label/ESP";
        fsType = "vfat";
        options = [
          "ro"
          "umask=0077"
          "nofail"
        ];
      };
      "/home" = lib.mkIf (cfg.home.mode == "persistent") {
        device = "${toString cfg.persist.mount}/home";
        fsType = "none";
        options = [
          "bind"
          "nofail"
          "x-systemd.before=local-fs.target"
        ];
      };
    };

    # Both would write to the closed root.
    systemd.services.systemd-machine-id-commit.enable = false;
    systemd.services.systemd-update-done.enable = false;
  };
}
