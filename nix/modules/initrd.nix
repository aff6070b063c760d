# What the guest scripts do in the initrd, in every root mode. Each unit is wanted and not required: a fault in one of
# them may not stop the start, as then nobody could ask the guest what is wrong.
{ config, lib, pkgs, ... }:
let
  cfg = config.nixvm;
  nixvm = import ./lib.nix;
  text = import ./text.nix;
  inRoot = import ./in-root.nix { inherit config lib pkgs; };
  zfs = cfg.rootMode == "zfs-rollback";
  readonly = cfg.rootMode == "readonly";
  unit = {
    unitConfig = {
      DefaultDependencies = false;
      RequiresMountsFor = [
        "/sysroot"
        "/sysroot/run"
      ]
      ++ lib.optional (!zfs) "/sysroot/nix/store";
    };
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
      TimeoutStartSec = 600;
    };
  };
  # The pool is opened before there is a root, and with it the seed is read and the layout noted.
  first = lib.optionals (!zfs) [
    "seed read"
    "assemble-root"
  ];
  inherit (cfg.persist) mount;
  declared = lib.optional cfg.user.enable cfg.user.name;
in
{
  imports = [ ./options.nix ];

  config = lib.mkIf cfg.enable {
    boot.initrd.systemd.services = {
      # Before NixOS's own activation, which keeps the numbers of accounts on the volume, and before all that is kept is
      # mounted from it.
      nixvm-persist = lib.recursiveUpdate unit {
        description = "Read the seed, mount the persistent volume and /home";
        wantedBy = [ "initrd.target" ];
        after = lib.optionals zfs [
          "sysroot-persist.mount"
          "sysroot-home.mount"
        ];
        before = [
          "initrd-fs.target"
          "initrd.target"
        ]
        ++ lib.optional (mount == "/persist" && !zfs) "sysroot-persist.mount";
        script = ''
          ${lib.optionalString readonly "mount -o remount,rw /sysroot"}
          mkdir -p /sysroot/etc /sysroot/home ${lib.optionalString (mount != null) "/sysroot${mount}"}
          for file in ${toString nixvm.accountFiles}; do
            if [ -L "/sysroot/etc/$file" ]; then rm "/sysroot/etc/$file"; fi
          done
          # Only what is listed belongs to users, and they have to pass through to it.
          ${lib.optionalString zfs "chmod 711 /sysroot/persist"}
          ${inRoot (first ++ lib.optional (!cfg.image.standalone) "persist" ++ [ "home" ])}
          ${lib.optionalString cfg.image.standalone ''
            printf 'state\tmounted\nmount\t/persist\nlabel\t${cfg.persist.label}\n' > /run/nixvm/state/persist
          ''}
        '';
      };
      # The links take the place of the files that the activation wrote. nixvm-persist takes them away again at the next
      # start of a root that stays: they would point nowhere while the activation asks for the accounts there are.
      nixvm-render = lib.recursiveUpdate unit {
        description = "Make the machine's own files of the seed and bring in what is kept";
        wantedBy = [ "initrd-switch-root.service" ];
        after = [
          "initrd-switch-root.target"
          "initrd-nixos-activation.service"
        ];
        before = [ "initrd-switch-root.service" ];
        script = ''
          mkdir -p /run/nixvm/share/etc
          ${text.shareAccounts {
            names = declared;
            run = "/run/nixvm";
            from = "/sysroot/etc";
            to = "/run/nixvm/share/etc";
          }}
          ${inRoot [
            "seed render"
            "allowlist"
          ]}
          for file in ${toString nixvm.lateFiles}; do
            ln -sfn "${nixvm.seedFile "$file"}" "/sysroot/etc/$file"
          done
          ${lib.optionalString readonly "mount -o remount,ro /sysroot"}
        '';
      };
    };
  };
}
