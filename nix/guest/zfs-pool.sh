# shellcheck shell=sh
# What there is to do with a pool, whatever disk it is on. Part of `zfs`, for its boot and its install side.
# shellcheck disable=SC2034,SC2154  # what it sets and reads belongs to the script that it is part of

# Without udev, as in an initrd, libzfs waits 3 s at each create and import for names that nothing here uses.
export ZFS_VDEV_DEVID_OPT_OUT=YES
: "${NIXVM_ZFS_ENCRYPTION:=off}"

# run COMMAND…: false with what it complained about in $why. Other output goes through, so that a question for a passphrase is seen.
run() {
  { said=$("$@" 2>&1 >&3); } 3>&1 && return 0
  why="$1: ${said:-failed without a word}"
  return 1
}

# Whether something is mounted from SOURCE (a dataset or a device), wherever that is.
is_mounted() {
  while IFS= read -r line; do
    case $line in "$1 "*) return 0 ;; esac
  done < "$NIXVM_PROC/self/mounts"
  return 1
}

# What $device is to us, in $is: blank, unfinished (our own work, cut off), pool (with its $guid), or foreign, and then why.
classify() {
  is=foreign guid=
  probe_disk || return 0
  # ZFS uses a device from end to end but for the bytes from 512 KiB to 4 MiB, which it keeps free for boot loaders: only there can
  # our mark stay until the pool is finished.
  NIXVM_MARKER_FROM_END=$((size - MIB))
  # The many copies of its label are one signature.
  others=$names
  while :; do
    case $others in ' zfs_member'*) others=${others#' zfs_member'} ;; *) break ;; esac
  done
  if [ -n "$table" ]; then others=" a partition table ($table)"; fi
  case $type in '' | zfs_member) ;; *) others=" $type" ;; esac
  if [ -n "$others" ]; then
    why="it carries$others"
  elif has_mark; then
    is=unfinished
  elif is_unsigned; then
    if is_blank; then is=blank; fi
  elif [ "$found" != "$pool" ]; then
    why="it holds the pool '$found', not '$pool'"
  else
    while IFS='=' read -r key value; do
      if [ "$key" = UUID ]; then guid=$value; fi
    done << PROBE
$probe
PROBE
    if [ -n "$guid" ]; then is=pool; else why="the label of its pool '$pool' is damaged"; fi
  fi
}

create_pool() {
  # Both as in the document that this mode comes from; there, too, the encrypted one has fewer properties.
  if [ "$NIXVM_ZFS_ENCRYPTION" = on ]; then
    run zpool create -f -o ashift=12 -O encryption=aes-256-gcm -O keyformat=passphrase -O keylocation=prompt \
      -O mountpoint=none -O acltype=posixacl -O compression=lz4 -O xattr=sa "$pool" "$1"
  else
    run zpool create -o ashift=12 -o autotrim=on -O acltype=posixacl -O canmount=off -O dnodesize=auto \
      -O normalization=none -O relatime=on -O xattr=sa -O mountpoint=none "$pool" "$1"
  fi
}

# The snapshot is taken before anything can have been written to the root: it has to be empty.
fill_pool() {
  run zfs create -p -o canmount=noauto -o mountpoint=legacy "$pool/local/root" &&
    run zfs snapshot "$pool/local/root@blank" &&
    run zfs create -p -o mountpoint=legacy "$pool/local/boot" &&
    run zfs create -p -o mountpoint=legacy "$pool/local/nix" &&
    run zfs create -p -o mountpoint=legacy "$pool/safe/home" &&
    run zfs create -p -o mountpoint=legacy "$pool/safe/persist"
}

# make_pool NODE: on $device, which is blank or unfinished, through NODE; leaves it closed. Cut off at any point this leaves a disk that
# the next run knows as its own unfinished work: the mark is written first and removed last, and until then nobody uses the pool.
make_pool() {
  say "making the pool $pool on $device ($is), $((size / MIB)) MiB"
  why="$device cannot be written to"
  put_mark "$mark\n" || return 1
  if [ "$is" = unfinished ]; then
    # all labels that a pool can have; the mark lies behind the first ones
    for at in 0 $((size - MIB)); do
      dd if=/dev/zero of="$device" bs=$MIB count=1 oflag=seek_bytes seek="$at" conv=notrunc,fsync 2> /dev/null || return 1
    done
  fi
  create_pool "$1" || return 1
  if fill_pool && run zpool export "$pool"; then
    why="the mark on $device cannot be removed"
    put_mark ''
    return
  fi
  zpool export "$pool" 2> /dev/null || say "the unfinished pool stays open until the next start"
  return 1
}

# By the id in the label of our own disk: another disk with a pool of the same name is no danger then.
import_pool() {
  [ -d "$NIXVM_PROC/spl/kstat/zfs/$pool" ] || run zpool import -N -f -d "$NIXVM_DEV" "$guid"
}

# attach DATASET DIRECTORY
attach() {
  if is_mounted "$1" || run mount -t zfs "$1" "$2"; then return 0; fi
  if [ "$(zfs get -H -o value keystatus "$pool" 2> /dev/null)" = unavailable ]; then why="the pool is encrypted, and a boot cannot wait for its passphrase"; fi
  return 1
}

# mount_below TARGET: what lies on the root, and the EFI partition $esp if there is one. The snapshot has no mount points, so they are
# made every time. False with what is missing in $missing.
mount_below() {
  missing=
  mkdir -p "$1/boot/efi" "$1/nix" "$1/home" "$1/persist"
  for pair in boot=local/boot nix=local/nix home=safe/home persist=safe/persist; do
    attach "$pool/${pair#*=}" "$1/${pair%%=*}" || missing="$missing /${pair%%=*} ($why)"
  done
  # Only what is on the allowlist belongs to users, and they have to pass through to it.
  chmod 711 "$1/persist"
  if [ -n "$esp" ] && ! is_mounted "$esp"; then
    # The kernel cannot fetch these by itself in an initrd: it looks for modprobe there, not in the image.
    modprobe -q -a vfat nls_cp437 nls_ascii nls_iso8859-1 2> /dev/null || true
    mkdir -p "$1/boot/efi"
    run mount -t vfat -o umask=0077 "$esp" "$1/boot/efi" || missing="$missing /boot/efi ($why)"
  fi
  [ -z "$missing" ]
}
