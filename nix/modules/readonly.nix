# Root mode "readonly" (T-4, T-7 to T-12): / and /etc never change while the system runs, /var is the persistent disk,
# /home is on it, /tmp is RAM.
{ config, lib, pkgs, ... }:
let
  cfg = config.nixvm;
  nixvm = import ./lib.nix;
  inRoot = import ./in-root.nix { inherit config lib pkgs; };
  # Around NixOS's own activation, which runs between these two points. Wanted and not required: a fault in one of them
  # may not stop the start, as then nobody could ask the guest what is wrong.
  early = {
    wantedBy = [ "initrd-switch-root.service" ];
    after = [ "initrd-switch-root.target" ];
    unitConfig = {
      DefaultDependencies = false;
      RequiresMountsFor = [
        "/sysroot"
        "/sysroot/run"
        "/sysroot/nix/store"
      ];
    };
    serviceConfig = {
      Type = "oneshot";
      TimeoutStartSec = 600;
    };
  };
in
{
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
      "/home" = {
        device = "${cfg.persist.mount}/home";
        fsType = "none";
        options = [
          "bind"
          "nofail"
          "x-systemd.before=local-fs.target"
        ];
      };
    };
    boot.tmp.useTmpfs = true;

    # NixOS's activation writes /etc anew at each start. It may do so here, into the overlay that is thrown away with
    # the next image; before the system itself starts the root is closed. /var is there first, as the activation keeps
    # its user numbers on it.
    boot.initrd.systemd.services = {
      nixvm-persist = lib.recursiveUpdate early {
        description = "Read the seed and mount the persistent disk";
        before = [
          "initrd-nixos-activation.service"
          "initrd-switch-root.service"
        ];
        script = ''
          mount -o remount,rw /sysroot
          mkdir -p /sysroot${cfg.persist.mount} /sysroot/home
          for file in ${toString nixvm.accountFiles}; do
            if [ -L "/sysroot/etc/$file" ]; then rm "/sysroot/etc/$file"; fi
          done
          ${inRoot [
            "seed read"
            "persist"
          ]}
        '';
      };
      # The links take the place of the files that the activation wrote. nixvm-persist takes them away again at the next
      # start: they would point nowhere while the activation asks for the accounts there are.
      nixvm-render = lib.recursiveUpdate early {
        description = "Make the machine's own files of the seed and close the root";
        after = early.after ++ [ "initrd-nixos-activation.service" ];
        before = [ "initrd-switch-root.service" ];
        script = ''
          mkdir -p /run/nixvm/share/etc
          for file in ${toString nixvm.accountFiles}; do
            cp -p "/sysroot/etc/$file" "/run/nixvm/share/etc/$file"
          done
          ${inRoot [ "seed render" ]}
          for file in ${toString nixvm.lateFiles}; do
            ln -sfn "${nixvm.seedFile "$file"}" "/sysroot/etc/$file"
          done
          mount -o remount,ro /sysroot
        '';
      };
    };

    # Both would write to the closed root.
    systemd.services.systemd-machine-id-commit.enable = false;
    systemd.services.systemd-update-done.enable = false;
    # Nothing can be installed into a root that never changes (T-15).
    nix.enable = lib.mkDefault false;
  };
}
