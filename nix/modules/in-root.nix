# Calls of the guest scripts from the initrd, as shell text. They run inside the root that the initrd has mounted, with the tools of
# the image, which thus need not be in the initrd. The mounts made there (/var) stay; those of /dev, /proc and /sys are only for
# the time of the calls. No call can fail the start: each script reports its own faults in the status record.
{ config, lib, pkgs }:
let
  cfg = config.nixvm;
  call = arguments: ''
    chroot /sysroot ${pkgs.coreutils}/bin/env PATH=${lib.makeBinPath cfg.guestTools} ${cfg.guest}/lib/nixvm/${arguments} || true
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
