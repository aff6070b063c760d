# /scratch, a disk encrypted under a key of this boot, by the guest script; the writable layer of the store is on it
# when the seed says so. Whatever fails there, the start goes on and /scratch is in memory (E-7, E-27, E-28).
{ config, lib, pkgs, ... }:
let
  cfg = config.nixvm;
  inRoot = import ./in-root.nix { inherit config lib pkgs; };
in
{
  imports = [ ./options.nix ];

  config = lib.mkIf (cfg.enable && cfg.scratch.enable) {
    nixvm.guestTools = [ pkgs.cryptsetup ];
    boot.initrd = {
      # The script could not load them: it does not run where the modules of the initrd are.
      kernelModules = [
        "dm_mod"
        "dm_crypt"
        "overlay"
      ];
      availableKernelModules = config.boot.initrd.luks.cryptoModules;
      systemd.services.nixvm-scratch = {
        description = "Set up /scratch under a key of this boot";
        wantedBy = [ "initrd-switch-root.service" ];
        # With the plan of the seed, and before programs can look at what the store's layer will cover.
        after = [ "nixvm-render.service" ];
        before = [ "initrd-switch-root.service" ];
        unitConfig = {
          DefaultDependencies = false;
          RequiresMountsFor = [
            "/sysroot"
            "/sysroot/run"
          ];
        };
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          TimeoutStartSec = 600;
        };
        script = ''
          mkdir -p /sysroot/scratch
          ${inRoot [ "scratch" ]}
        '';
      };
    };
    # Where /scratch is, programs that need room find it: TMPDIR is in the file that the script writes (P-34, C-6).
    environment.extraInit = ''
      if [ -r /run/nixvm/environment ]; then . /run/nixvm/environment && export TMPDIR; fi
    '';
    systemd.services.nix-daemon = lib.mkIf config.nix.enable {
      serviceConfig.EnvironmentFile = "-/run/nixvm/environment";
    };
  };
}
