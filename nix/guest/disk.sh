# shellcheck shell=sh
# What is on a disk of ours, and whether it may be formatted. Part of the scripts that look after one.
# shellcheck disable=SC2034  # what it sets is read by the script that it is part of

MIB=1048576
mark='nixvm: this disk is being formatted'

# find_disk SERIAL: sets $device; false with $why when there is none, or more than one.
find_disk() {
  device='' why=''
  tries=0
  devices=$(disks_by_serial "$1")
  while [ -z "$devices" ] && [ $tries -lt "${NIXVM_DISK_TRIES:-100}" ]; do
    tries=$((tries + 1))
    sleep 0.1
    devices=$(disks_by_serial "$1")
  done
  case $devices in
    '') why="no disk with the serial $1" ;;
    *"$LF"*) why="more than one disk has the serial $1: $(printf '%s' "$devices" | tr '\n' ' ')" ;;
    *) device=$devices ;;
  esac
  [ -n "$device" ]
}

# probe_disk [LABEL]: sets $size, $type, $table, $found (the label), and $count and $names of the signatures of $device; false with $why when
# it cannot be told. Both tools are asked: one knows signatures the other does not, and one that cannot be read counts as one that is there.
# Only for an ext4 with that LABEL the first one is enough, as it reports more than one signature by itself and nothing is going to be formatted.
probe_disk() {
  size=$(size_of "$device")
  type='' table='' found='' count=0 names='' why='' marks='' rc=0
  probe=$(blkid -p -o export "$device" 2> /dev/null) || rc=$?
  while IFS='=' read -r key value; do
    case $key in
      TYPE) type=$value ;;
      PTTYPE) table=$value ;;
      LABEL) found=$value ;;
    esac
  done << PROBE
$probe
PROBE
  if [ $rc -eq 0 ] && [ -n "${1:-}" ] && [ "$type/$table/$found" = "ext4//$1" ]; then
    count=1 names=" ext4"
    return 0
  fi
  if ! marks=$(wipefs -n -p "$device" 2> /dev/null); then
    why="wipefs cannot read $device"
    return 1
  fi
  # lines of offset,uuid,label,type; with a comment on top in some versions
  while IFS= read -r line; do
    case $line in '' | '#'*) ;; *) count=$((count + 1)) names="$names ${line##*,}" ;; esac
  done << MARKS
$marks
MARKS
  case $rc in
    0 | 2) return 0 ;;
    8) why="the disk carries several signatures:$names" ;;
    *) why="blkid ended with $rc on $device" ;;
  esac
  return 1
}

# After probe_disk: no signature that either tool knows.
is_unsigned() { [ -z "$probe" ] && [ "$count" -eq 0 ]; }

# is_blank: after probe_disk; false with $why. Unknown data is data: a disk counts as blank when its first and last MiB are empty too.
is_blank() {
  why=''
  if ! is_unsigned; then
    why="the disk carries ${type:-$table$names}"
  elif ! zero "$device" 0 $MIB; then
    why="no known signature, but the first MiB is not empty"
  elif ! zero "$device" $((size - MIB)) $MIB; then
    why="no known signature, but the last MiB is not empty"
  fi
  [ -z "$why" ]
}

# zero FILE OFFSET LENGTH
zero() { [ "$(dd if="$1" bs=65536 iflag=skip_bytes,count_bytes skip="$2" count="$3" 2> /dev/null | tr -d '\000' | head -c 1 | wc -c)" -eq 0 ]; }
has_mark() { [ "$(dd if="$device" bs=512 iflag=skip_bytes skip=$((size - NIXVM_MARKER_FROM_END)) count=1 2> /dev/null | head -n 1 | tr -d '\000')" = "$mark" ]; }

# put_mark TEXT: an empty one clears it
put_mark() {
  # shellcheck disable=SC2059  # the text is ours
  { printf "$1" && dd if=/dev/zero bs=512 count=1 2> /dev/null; } | head -c 512 |
    dd of="$device" bs=512 oflag=seek_bytes seek=$((size - NIXVM_MARKER_FROM_END)) conv=notrunc,fsync 2> /dev/null
}
