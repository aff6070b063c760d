# Calls of the guest scripts from the initrd, as shell text. They run inside the root that the initrd has mounted, with
# the tools of the image, which thus need not be in the initrd. The mounts made there (/var) stay; those of /dev, /proc
# and /sys are only for the time of the calls. No call can fail the start: each script reports its own faults in the
# status record.
#
# Shell and settings are given by their store paths, as /bin/sh and /etc are made anew by the activation that comes
# after them.
{ config, lib, pkgs }:
let
  cfg = config.nixvm;
  settings = lib.mapAttrsToList (name: value: lib.escapeShellArg "${name}=${value}") cfg.guestSettings;
  environment = lib.concatStringsSep " " ([ "PATH=${lib.makeBinPath cfg.guestTools}" ] ++ settings);
  call = arguments: ''
    chroot /sysroot ${pkgs.coreutils}/bin/env ${environment} \
      ${pkgs.runtimeShell} ${cfg.guest}/lib/nixvm/${arguments} || true
  '';
in
calls: ''
  for dir in dev proc sys; do
    mkdir -p "/sysroot/$dir"
    mount --rbind "/$dir" "/sysroot/$dir"
    mount --make-rslave "/sysroot/$dir"
  done
  ${lib.concatMapStrings call calls}
  for dir in dev proc sys; do umount -R -l "/sysroot/$dir"; done
''
