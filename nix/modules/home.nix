# /home in memory: gone at power-off by the type of the mount alone, nothing has to clean it up (P-3 to P-9).
{ config, lib, ... }:
let
  cfg = config.nixvm;
in
{
  imports = [ ./options.nix ];

  config = lib.mkIf (cfg.enable && cfg.home.mode == "tmpfs") {
    # The guest script mounts it in the initrd with the size of the seed; this is the size without one.
    fileSystems."/home" = {
      device = "none";
      fsType = "tmpfs";
      options = [
        "defaults"
        "size=${cfg.home.size}"
        "mode=755"
      ];
    };
  };
}
