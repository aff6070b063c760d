# Root mode "zfs-rollback": the root is a dataset that is put back to its empty snapshot at each start, after the pool
# was opened and before the root is mounted (Z-28 to Z-59). The pool is on the persistent volume, so that no new image
# can lose it (C-24); the image brings its store as a squashfs, the payload, and what the pool's store lacks of it is
# copied there.
{ config, lib, pkgs, ... }:
let
  cfg = config.nixvm;
  nixvm = import ./lib.nix;
  text = import ./text.nix;
  inRoot = import ./in-root.nix { inherit config lib pkgs; };
  pool = cfg.persist.label;
  payload = "/payload/nix/store";
  early = {
    unitConfig = {
      DefaultDependencies = false;
      RequiresMountsFor = [ payload ];
    };
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
      TimeoutStartSec = 600;
    };
  };
in
{
  imports = [ ./options.nix ];

  config = lib.mkIf (cfg.enable && cfg.rootMode == "zfs-rollback") {
    nixvm.guestTools = [ config.boot.zfs.package ];
    nixvm.guestSettings.NIXVM_ROLLBACK = if cfg.zfs.rollback then "on" else "off";

    # Mounted by these entries and never by ZFS itself (Z-38). A dataset that is missing does not stop the start: the
    # guest then runs with a root in memory and the image's store, and says that it is not healthy.
    fileSystems =
      lib.mapAttrs (path: device: {
        inherit device;
        fsType = "zfs";
        neededForBoot = path != "/boot";
        options = if path == "/" then [ "defaults" ] else [ "nofail" ];
      }) (lib.filterAttrs (path: _: path != "/home" || cfg.home.mode == "persistent") (nixvm.datasets pool))
      // {
        "/boot/efi" = {
          device = "/dev/disk/by-label/EFI";
          fsType = "vfat";
          options = [
            "umask=0077"
            "nofail"
          ];
        };
      };

    boot.supportedFilesystems = [ "zfs" ];
    boot.zfs = {
      # There are no names by id for virtio disks without a serial.
      devNodes = "/dev/";
      forceImportRoot = false;
    };
    # The seed's host id, else the image's.
    environment.etc.hostid.source = lib.mkForce "/run/nixvm/hostid";

    boot.initrd = {
      supportedFilesystems = [ "squashfs" ];
      systemd.mounts = [
        {
          what = "/dev/disk/by-partlabel/${nixvm.storeLabel}";
          where = payload;
          type = "squashfs";
          options = "ro";
          unitConfig.DefaultDependencies = false;
        }
      ];
      systemd.services = {
        # NixOS's own import would wait a minute for the pool of a blank disk and would take any pool of that name. The
        # script makes it on a blank disk, takes the one on the disk with the serial "persist" only, and puts the root
        # back.
        "zfs-import-${pool}" = {
          unitConfig = { inherit (early.unitConfig) RequiresMountsFor; };
          serviceConfig = { inherit (early.serviceConfig) TimeoutStartSec; };
          script = lib.mkForce ''
            mkdir -p /run/nixvm
            [ -e /run/nixvm/hostid ] || cp /etc/hostid /run/nixvm/hostid
            cp ${payload}/nixvm-image.json /run/nixvm/image.json
            ${inRoot [
              "seed read"
              "assemble-root"
            ]}
          '';
        };
        nixvm-rollback = lib.recursiveUpdate early {
          description = "Let no root be used that was not put back to its empty snapshot";
          after = [ "zfs-import-${pool}.service" ];
          before = [ "sysroot.mount" ];
          requiredBy = [ "sysroot.mount" ];
          script = text.rootGuard {
            accepted = [ "done" ] ++ lib.optional (!cfg.zfs.rollback) "off";
            run = "/run/nixvm";
            root = "/sysroot";
          };
        };
        nixvm-payload = lib.recursiveUpdate early {
          description = "Bring the system of the image into the store of the pool";
          wantedBy = [ "initrd.target" ];
          wants = [ "sysroot-nix.mount" ];
          after = [
            "sysroot.mount"
            "sysroot-nix.mount"
          ];
          before = [
            "initrd-find-nixos-closure.service"
            "initrd-fs.target"
            "initrd.target"
          ];
          # Some GiB, once for each image.
          serviceConfig.TimeoutStartSec = 3600;
          script = text.payloadStore {
            from = payload;
            root = "/sysroot";
            run = "/run/nixvm";
            proc = "/proc";
          };
        };
        # It asks for a mount of the store, which is not there when the pool is not; by then the image's store is in its
        # place.
        initrd-find-nixos-closure.unitConfig.RequiresMountsFor = lib.mkForce "/sysroot";
      };
    };
  };
}
