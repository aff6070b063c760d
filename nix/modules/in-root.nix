# Calls of the guest scripts from the initrd, as shell text. They run in a root with the store of the image, and with
# its tools, which thus need not be in the initrd: the root that is going to be the system's, or with a root on ZFS the
# payload, as then there is nothing in that root before the pool is open, and nothing at all when it cannot be opened.
# The mounts made for the system stay; those of /dev, /proc and the like are only for the time of the calls. No call can
# fail the start: each script reports its own faults in the status record.
#
# Shell and settings are given by their store paths, as /bin/sh and /etc are made anew by the activation that comes
# after them.
{ config, lib, pkgs }:
let
  cfg = config.nixvm;
  apart = cfg.rootMode == "zfs-rollback";
  root = if apart then "/payload" else "/sysroot";
  # The modules of the initrd are where a script looks for one that it loads, and the host id where ZFS does.
  bound = [
    "dev"
    "proc"
    "sys"
  ]
  ++ lib.optionals apart [
    "run"
    "lib/modules"
  ];
  settings =
    cfg.guestSettings
    // {
      # systemd makes the root, of what fileSystems names.
      NIXVM_ROOT_MADE = "1";
    }
    // lib.optionalAttrs apart { NIXVM_TARGET = "/sysroot"; };
  environment = lib.concatStringsSep " " (
    [ "PATH=${lib.makeBinPath cfg.guestTools}" ]
    ++ lib.mapAttrsToList (name: value: lib.escapeShellArg "${name}=${value}") settings
  );
  call = arguments: ''
    chroot ${root} ${pkgs.coreutils}/bin/env ${environment} \
      ${pkgs.runtimeShell} ${cfg.guest}/lib/nixvm/${arguments} || true
  '';
in
calls: ''
  mkdir -p ${root}/bin
  [ -e ${root}/bin/sh ] || ln -s ${pkgs.runtimeShell} ${root}/bin/sh
  for dir in ${toString bound}; do
    mkdir -p "${root}/$dir"
    mount --rbind "/$dir" "${root}/$dir"
    mount --make-rslave "${root}/$dir"
  done
  ${lib.optionalString apart ''
    mkdir -p /sysroot ${root}/sysroot ${root}/etc
    ln -sfn /run/nixvm/hostid ${root}/etc/hostid
    mount --rbind /sysroot ${root}/sysroot
  ''}
  ${lib.concatMapStrings call calls}
  ${lib.optionalString apart ''
    # What the scripts have mounted below it is below /sysroot too, and stays there.
    mount --make-rprivate ${root}/sysroot
    umount -R -l ${root}/sysroot
  ''}
  for dir in ${toString bound}; do umount -R -l "${root}/$dir"; done
''
