# The persistent volume at /persist, found by its label and there before anything of the system starts (P-31, Z-40,
# V-53, V-54).
{ config, lib, ... }:
let
  cfg = config.nixvm;
in
{
  imports = [ ./options.nix ];

  config = lib.mkIf (cfg.enable && cfg.persist.mount == "/persist" && cfg.persist.fs == "ext4") {
    fileSystems."/persist" = {
      device = "/dev/disk/by-label/${cfg.persist.label}";
      fsType = "ext4";
      neededForBoot = true;
      # The guest script checks and repairs it.
      noCheck = !cfg.image.standalone;
      options = [
        "noatime"
        "nosuid"
        "nodev"
      ]
      ++ lib.optionals (!cfg.image.standalone) [
        # The script formats a blank volume and mounts it, or memory in its place. What is mounted already stays as it
        # is.
        "x-systemd.after=nixvm-persist.service"
        # With no usable volume the start goes on without it, and the status record says so.
        "nofail"
      ];
    };
  };
}
