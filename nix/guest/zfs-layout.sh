# shellcheck shell=sh
# EFI partition and pool on one disk, for a person at an install medium, and what has to be done before the first rollback there.
# Part of `zfs`. These are asked for by somebody who can read the answer: they stop with an error instead of a state.
# shellcheck disable=SC2154  # what it reads belongs to the script that it is part of

die() {
  printf 'nixvm-zfs: %s\n' "$*" >&2
  exit 1
}
efi_type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
zfs_type=6A898CC3-1DD2-11B2-99A6-080020736631
# what partitioning tools give a partition when nothing else is asked for
linux_type=0FC63DAF-8483-4772-8E79-3D69D8477DE4

# Which partition is for what is told by their types; nothing is formatted because of its number alone.
check_roles() {
  dump=$(sfdisk -d "$1" 2>&1) || die "$1: $dump; nothing was written to it"
  types=
  while IFS= read -r line; do
    case $line in
      *' : start='*)
        line=${line##*type=}
        types="$types ${line%%,*}"
        ;;
    esac
  done << DUMP
$dump
DUMP
  case $types in
    " $efi_type $zfs_type" | " $efi_type $linux_type") ;;
    " $zfs_type $efi_type" | " $linux_type $efi_type") die "$1: the partitions are swapped, the first one has to be the EFI System partition; nothing was written to it" ;;
    *) die "$1 needs exactly two partitions, EFI System ($efi_type) and ZFS ($zfs_type), and has:${types:- none}; nothing was written to it" ;;
  esac
}

single_disk() {
  disk=$1 pool=rpool target=${NIXVM_TARGET:-/mnt}
  [ -e "$disk" ] || die "there is no disk $disk"
  case $disk in *[0-9]) part=${disk}p ;; *) part=$disk ;; esac
  run modprobe zfs || die "the kernel has no ZFS: $why"
  device=$disk
  probe_disk || die "$disk: $why; nothing was written to it"
  if is_unsigned; then
    is_blank || die "$disk: $why; nothing was written to it"
    [ "$size" -ge $((1200 * MIB)) ] || die "$disk has $size bytes, EFI partition and pool need at least $((1200 * MIB))"
    run sfdisk -q "$disk" << TABLE || die "$disk cannot be partitioned: $why"
label: gpt
size=1GiB, type=$efi_type, name=EFI
type=$zfs_type, name=$pool
TABLE
  fi
  check_roles "$disk"

  # Both partitions are looked at before anything is written to either.
  esp=${part}1 device=${part}1
  [ -e "$esp" ] && [ -e "${part}2" ] || die "the kernel has no $esp and ${part}2 yet"
  probe_disk || die "$esp: $why; nothing was written to it"
  if is_unsigned; then
    if is_blank; then esp_is=blank; else esp_is=unknown; fi
  elif [ "$type:$found" = vfat:EFI ]; then
    esp_is=ready
  else
    die "$esp carries ${type:-$table$names}${found:+ labelled '$found'}, not the file system EFI; nothing was written to it"
  fi
  esp_why=$why device=${part}2
  classify
  case $is:$esp_is in
    foreign:*) die "$device: $why; nothing was written to it" ;;
    pool:ready) ;;
    pool:*) die "$device holds the pool $pool, but $esp is no EFI partition; nothing was written to them" ;;
    blank:unknown) die "$esp: $esp_why; nothing was written to it" ;;
    *)
      # From here on a second run may format both again.
      put_mark "$mark\n" || die "$device cannot be written to"
      [ $esp_is = ready ] || run mkfs.vfat -n EFI "$esp" > /dev/null || die "$esp cannot be formatted: $why"
      make_pool "$device" || die "the pool cannot be made: $why"
      classify
      [ "$is" = pool ] || die "the pool just made is not found again: $why"
      ;;
  esac
  import_pool || die "the pool cannot be imported: $why"
  mkdir -p "$target"
  attach "$pool/local/root" "$target" || die "$pool/local/root cannot be mounted: $why"
  mount_below "$target" || die "not mounted:$missing"
  say "$disk: EFI partition $esp, pool $pool on $device, mounted at $target"
}

# The rollback takes /etc with it. What is needed to log in and to build the system again has to be on /persist by then.
prepare() {
  keep=$NIXVM_TARGET/persist
  [ -d "$keep" ] || die "there is no $keep"
  mkdir -p "$keep/etc"
  for file in configuration.nix hardware-configuration.nix; do
    if [ -f "$NIXVM_TARGET/etc/nixos/$file" ]; then cp -p "$NIXVM_TARGET/etc/nixos/$file" "$keep/etc/$file"; fi
  done
  missing=", a password file in $keep/passwords"
  for file in "$keep"/passwords/* "$keep"/etc/nixos-secrets/passwords/*; do
    if [ -s "$file" ]; then missing=; fi
  done
  [ -s "$keep/etc/ssh/ssh_host_ed25519_key" ] || missing="$missing, the host key $keep/etc/ssh/ssh_host_ed25519_key"
  [ -z "$missing" ] || die "the rollback must not be switched on yet, nobody could log in: missing${missing#,}"
  say "the rollback can be switched on"
}
