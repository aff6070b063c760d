# shellcheck shell=sh
# Shared by the guest scripts. Plain POSIX sh (dash and busybox); where things are is told by the environment, so that the
# scripts are the same in an initrd, on Debian, on NixOS and in a test without any of them.

: "${NIXVM_ROOT:=}"                                  # prefix of the system's own files; empty but for tests
# shellcheck source=/dev/null
if [ -r "${NIXVM_ENV:=$NIXVM_ROOT/etc/nixvm/guest.env}" ]; then . "$NIXVM_ENV"; fi
: "${NIXVM_RUN:=/run/nixvm}"                         # everything made for this boot
: "${NIXVM_TARGET:=}"                                # in the initrd: the root that the system will run in, when it is not this one
: "${NIXVM_NEWROOT:=$NIXVM_ROOT/sysroot}"            # empty folder of the image where such a root is put together
: "${NIXVM_ROOT_MODE:=readonly}" "${NIXVM_PERSIST:=/var	ext4	var}"  # without a seed that says otherwise
: "${NIXVM_SHARE:=$NIXVM_ROOT/usr/share/nixvm}"      # of the image: var/ (skeleton of /var), etc/ (account files)
: "${NIXVM_IMAGE_JSON:=$NIXVM_ROOT/etc/nixvm/image.json}"
: "${NIXVM_SKEL:=$NIXVM_ROOT/etc/skel}"
: "${NIXVM_SYS:=/sys}" "${NIXVM_PROC:=/proc}" "${NIXVM_DEV:=/dev}"
: "${NIXVM_KMSG:=$NIXVM_DEV/kmsg}"                   # console and journal at once; anything not writable: standard error
: "${NIXVM_NETWORKD:=/run/systemd/network}"
: "${NIXVM_WANTS:=/run/systemd/system/multi-user.target.wants}"  # what this boot starts besides the units that always are
: "${NIXVM_TIMER:=/run/systemd/system/nixvm-update.timer.d/seed.conf}"  # there in update mode pull only
: "${NIXVM_ADMIN_GROUPS:=sudo}"                      # groups of an account of role admin, as far as the image has them
: "${NIXVM_USER_GROUPS:=}"                           # the same for an account of role user
: "${NIXVM_SHELL:=/bin/bash}"                        # login shell of accounts
: "${NIXVM_SSH_UNIT:=sshd.service}"
: "${NIXVM_SUDO:=/usr/bin/sudo}"
: "${NIXVM_MARKER_FROM_END:=1048576}"                # the last MiB of a disk stays out of its file system until it is grown
NIXVM_STATE=$NIXVM_RUN/state
TAB=$(printf '\t')
LF='
'

say() {
  if [ -w "$NIXVM_KMSG" ]; then
    printf '<4>nixvm-%s: %s\n' "$NIXVM_SCRIPT" "$*" > "$NIXVM_KMSG"
  else
    printf 'nixvm-%s: %s\n' "$NIXVM_SCRIPT" "$*" >&2
  fi
}

# State of one script, as "key<TAB>value" lines, replaced as a whole. Before the system starts (NIXVM_EARLY) nobody else reads it, so it is
# written in place: a rename is one more process.
put_state() {
  state_file=$NIXVM_STATE/$1
  shift
  [ -d "$NIXVM_STATE" ] || mkdir -p "$NIXVM_STATE"
  state_new=$state_file.new
  if [ -n "${NIXVM_EARLY:-}" ]; then state_new=$state_file; fi
  while [ $# -gt 0 ]; do
    state_value=$2
    # one line a value, whatever a tool wrote into a reason
    case $state_value in *"$LF"*) state_value=$(printf '%s' "$state_value" | tr '\n' ' ') ;; esac
    printf '%s\t%s\n' "$1" "$state_value"
    shift 2
  done > "$state_new"
  if [ "$state_new" != "$state_file" ]; then mv "$state_new" "$state_file"; fi
}
get_state() { plan_value "$NIXVM_STATE/$1" "$2"; }
# The first line of a file, or nothing. Like all of this in the shell itself: each process costs a tenth of a second under emulation.
first_line() {
  first=
  if [ -r "$1" ]; then read -r first < "$1" || true; fi
  printf '%s\n' "$first"
}

# Devices whose virtio serial is $1, one a line; letters change with the order of probing, serials do not.
disks_by_serial() {
  for disk_dir in "$NIXVM_SYS"/block/*; do
    [ -r "$disk_dir/serial" ] || continue
    disk_serial=
    read -r disk_serial < "$disk_dir/serial" || true
    if [ "$disk_serial" = "$1" ]; then printf '%s\n' "$NIXVM_DEV/${disk_dir##*/}"; fi
  done
}

size_of() {
  if [ ! -b "$1" ]; then
    stat -c %s "$1"
    return
  fi
  # A device below /dev/mapper has another name there.
  if [ -r "$NIXVM_SYS/class/block/${1##*/}/size" ]; then
    read -r sectors < "$NIXVM_SYS/class/block/${1##*/}/size"
    echo $((sectors * 512))
  else
    blockdev --getsize64 "$1"
  fi
}

# The record is renewed after each change, once there is one; while the system starts, the unit of its own writes it last.
# shellcheck disable=SC2154  # here: where the script is that sources this
refresh_status() { if [ -f "$NIXVM_RUN/status.json" ]; then "$here/status"; fi; }

# Bytes that the ext4 on $1 says it has.
ext4_size() {
  dumpe2fs -h "$1" 2> /dev/null | {
    ext4_count=0 ext4_block=0
    while IFS=: read -r ext4_key ext4_value; do
      case $ext4_key in
        'Block count') ext4_count=$((ext4_value)) ;;
        'Block size') ext4_block=$((ext4_value)) ;;
      esac
    done
    echo $((ext4_count * ext4_block))
  }
}

# The value of a plan line ("key<TAB>value…"), and nothing when there is none.
plan_value() {
  [ -r "$1" ] || return 0
  while IFS="$TAB" read -r plan_key plan_rest; do
    if [ "$plan_key" = "$2" ]; then
      printf '%s\n' "$plan_rest"
      return 0
    fi
  done < "$1"
}

# The plan that this boot goes by: of the medium, of what is in effect, or of what was found on the persistent disk.
plan_file() {
  for plan_path in "$NIXVM_RUN/seed/incoming/plan" "$NIXVM_RUN/seed/current/plan" "$NIXVM_RUN/seed/found/plan"; do
    if [ -f "$plan_path" ]; then break; fi
  done
  printf '%s\n' "$plan_path"
}

# Where the persistent disk is mounted in this boot; nothing without one.
keep_mount() { get_state layout mount; }

# shellcheck disable=SC2034  # for the scripts that call it
# Sets where what outlives an image is kept: $keep (its top), $own (our state), $machine_id, $host_key, $passwords. In memory without a disk.
keep_paths() {
  keep_at=$(keep_mount)
  keep=$NIXVM_TARGET$keep_at
  case $keep_at in
    /persist) own=$keep/var/lib/nixvm machine_id=$keep/etc/machine-id host_key=$keep/etc/ssh/ssh_host_ed25519_key passwords=$keep/passwords ;;
    *)
      if [ -n "$keep_at" ]; then keep_lib=$keep/lib; else keep_lib=$NIXVM_RUN/kept keep=$keep_lib; fi
      own=$keep_lib/nixvm machine_id=$keep_lib/identity/machine-id host_key=$keep_lib/identity/ssh_host_ed25519_key passwords=$keep_lib/identity/passwords
      ;;
  esac
}
