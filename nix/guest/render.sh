# shellcheck shell=sh
# What a plan (lines of plan.awk) becomes: files below $NIXVM_RUN, and then the running system. Part of `seed`.
# shellcheck disable=SC2030,SC2031  # render is a subshell on purpose, and its helpers run inside it
# shellcheck disable=SC2034,SC2154  # what it sets and reads belongs to the script that it is part of

fault() {
  printf '%s\n' "$*"
  exit 1
}

# try_render PLAN: sets $rc, and $reason when that is not 0. Always succeeds: as a condition it would switch `set -e` off inside.
try_render() {
  set +e
  fault=$(
    set -e
    render "$1" 2> "$NIXVM_RUN/render.log"
  )
  rc=$?
  set -e
  while IFS= read -r line; do printf '%s\n' "$line" >&2; done < "$NIXVM_RUN/render.log"
  if [ $rc -ne 0 ]; then
    reason=${fault:-the seed could not be applied: $(tail -n 1 "$NIXVM_RUN/render.log")}
  fi
}

# render PLAN: everything into $NIXVM_RUN/next, in a subshell; prints the fault and fails without having changed anything in use
render() (
  set -eu
  next=$NIXVM_RUN/next
  if [ -d "$next" ]; then rm -rf "$next"; fi
  mkdir -p "$next/etc" "$next/ssh" "$next/network" "$NIXVM_NETWORKD"
  for dir in "$own" "${host_key%/*}" "$passwords"; do
    if [ ! -d "$dir" ]; then mkdir -p "$dir" && chmod 700 "$dir"; fi
  done
  if [ "$(keep_mount)" = /persist ] && [ ! -e "$keep/etc/nixos-secrets/passwords" ]; then
    # the name by which the page on ZFS roots knows that folder
    mkdir -p "$keep/etc/nixos-secrets"
    ln -s ../../passwords "$keep/etc/nixos-secrets/passwords"
  fi
  plan=$1
  with_stored_hashes
  # owner and mode of the image's own files; the content is written anew
  cp -p "$NIXVM_SHARE/etc/"* "$next/etc/"
  LC_ALL=C awk -v share="$NIXVM_SHARE" -v next_dir="$next" -v uids="$own/uids" -v shell="$NIXVM_SHELL" \
    -v groups="$NIXVM_ADMIN_GROUPS" -v user_groups="$NIXVM_USER_GROUPS" -f "$here/render.awk" "$plan"
  render_machine_id
  render_host_key
  {
    printf 'HostKey %s\nAuthorizedKeysFile /run/nixvm/ssh/%%u .ssh/authorized_keys' "${host_key#"$NIXVM_TARGET"}"
    if [ "$(keep_mount)" = /persist ]; then printf ' /persist/home/%%u/.ssh/authorized_keys'; fi
    printf '\n'
    # A command over SSH is no login, and reads no profile.
    if [ -n "$(plan_value "$plan" scratch)" ]; then printf 'SetEnv TMPDIR=/scratch\n'; fi
  } > "$next/etc/sshd.conf"
)

# Hashes that somebody has put on the persistent disk, for accounts that the seed gives none; without either an account stays locked.
with_stored_hashes() {
  extra=
  while IFS=$TAB read -r kind name _ given; do
    if [ "$kind" != account ] || [ ! -f "$passwords/$name" ]; then continue; fi
    case $given in '' | -) ;; *) continue ;; esac
    stored=$(first_line "$passwords/$name")
    case $stored in
      *[:\ ]* | *"$TAB"*) stored='' ;;
      [\$!*]*) ;;
      *) stored='' ;;
    esac
    if [ -n "$stored" ]; then
      extra="${extra}storedHash$TAB$name$TAB$stored$LF"
    else
      say "the password file of $name holds no crypt(3) hash, password logins stay locked"
    fi
  done < "$plan"
  if [ -z "$extra" ]; then return 0; fi
  # hashes and a key are in it
  (umask 077 && cp "$plan" "$seed/plan.full" && printf '%s' "$extra" >> "$seed/plan.full")
  plan=$seed/plan.full
}

# From the seed; else the one this guest has had before; else a new one. systemd reads it once, when it starts.
render_machine_id() {
  id=$(plan_value "$plan" machineId)
  stored=$machine_id
  if [ -z "$id" ] && [ -s "$stored" ]; then read -r id < "$stored"; fi
  if [ -z "$id" ]; then
    read -r id < "$NIXVM_PROC/sys/kernel/random/uuid"
    id=$(printf '%s' "$id" | tr -d -)
    say "a new machine id was made"
  fi
  printf '%s\n' "$id" > "$next/machine-id"
}

# A key in the seed is checked before it may replace one that works.
render_host_key() {
  key=$(plan_value "$plan" sshHostKey)
  [ -n "$key" ] || return 0
  (umask 077 && printf '%s' "$key" | base64 -d > "$next/host_key" && { [ -z "$(tail -c 1 "$next/host_key")" ] || echo >> "$next/host_key"; })
  if cmp -s "$next/host_key" "$host_key"; then return 0; fi
  ssh-keygen -y -P '' -f "$next/host_key" > "$next/host_key.pub" 2> /dev/null || early_public "$next/host_key" > "$next/host_key.pub" || fault "nixvm.identity.sshHostKey is not a usable private key without passphrase"
}

# ssh-keygen refuses to run before there are accounts. In an Ed25519 key without passphrase the public part stands in clear, at a fixed place.
early_public() {
  [ -n "${NIXVM_EARLY:-}" ] || return 1
  public=$(sed '/^-----/d' "$1" | base64 -d 2> /dev/null | tail -c +44 | head -c 51 | base64 | tr -d '\n')
  case $public in
    AAAAC3NzaC1lZDI1NTE5AAAAI*) printf 'ssh-ed25519 %s\n' "$public" ;;
    *) return 1 ;;
  esac
}

# replace FROM TO: by rename; true when the content is another one
replace() {
  if [ -f "$2" ] && cmp -s "$1" "$2"; then return 1; fi
  cp -p "$1" "$2.new"
  mv -f "$2.new" "$2"
}

# drop NAME FOLDER PREFIX: files that the new seed has no more
drop() {
  for file in "$2/$3"*; do
    if [ -f "$file" ] && [ ! -f "$next/$1/${file##*/}" ]; then
      rm -f "$file"
      say "$1/${file##*/} is gone"
      changed="$changed $1/${file##*/}"
    fi
  done
}

# What render made takes the place of what was there, file by file; each is complete at any moment. $NIXVM_RUN/changed tells apply.
publish() {
  next=$NIXVM_RUN/next
  changed=
  # only there when an account is new
  if [ -f "$next/uids" ]; then replace "$next/uids" "$own/uids" || true; fi
  if [ "$(first_line "$machine_id")" != "$(first_line "$next/machine-id")" ]; then replace "$next/machine-id" "$machine_id" || true; fi
  if [ ! -d "$NIXVM_RUN/etc" ]; then
    # The first time there is nothing to compare with. The machine id is read by systemd once; a later one waits for the next start.
    first_line "$machine_id" > "$next/etc/machine-id"
    mv "$next/etc" "$next/ssh" "$next/nftables" "$NIXVM_RUN/"
    for file in "$next/network"/*; do
      if [ -f "$file" ]; then mv "$next/network"/* "$NIXVM_NETWORKD/"; fi
      break
    done
    changed=" everything"
  else
    drop ssh "$NIXVM_RUN/ssh" ''
    drop network "$NIXVM_NETWORKD" 10-nixvm-
    for pair in "etc $NIXVM_RUN/etc" "ssh $NIXVM_RUN/ssh" "network $NIXVM_NETWORKD"; do
      to=${pair#* }
      for file in "$next/${pair%% *}"/*; do
        [ -f "$file" ] || continue
        if replace "$file" "$to/${file##*/}"; then changed="$changed ${pair%% *}/${file##*/}"; fi
      done
    done
    if replace "$next/nftables" "$NIXVM_RUN/nftables"; then changed="$changed nftables"; fi
  fi
  if [ -f "$next/host_key.pub" ]; then
    publish_host_key "$next/host_key"
    changed="$changed host-key"
  fi
  # systemd reads it when it starts; what changes later is put into effect by apply
  if [ -f "$next/timer" ]; then
    [ -d "${NIXVM_TIMER%/*}" ] || mkdir -p "${NIXVM_TIMER%/*}"
    if replace "$next/timer" "$NIXVM_TIMER"; then changed="$changed timer"; fi
  elif [ -f "$NIXVM_TIMER" ]; then
    rm -f "$NIXVM_TIMER"
    changed="$changed timer"
  fi
  # a private key may be in it
  rm -rf "$next"
  printf '%s\n' "$changed" > "$NIXVM_RUN/changed"
  say "changed:${changed:- nothing}"
}

publish_host_key() {
  to=$host_key
  chmod 600 "$1"
  cp "$1.pub" "$to.pub.new"
  cp -p "$1" "$to.new"
  sync
  mv -f "$to.new" "$to"
  mv -f "$to.pub.new" "$to.pub"
}

# Puts the files into effect. Goes on after a failure, so that one broken part does not take the others with it; $trouble says which.
apply() {
  trouble=
  changed=$(first_line "$NIXVM_RUN/changed")
  name=$(first_line "$NIXVM_RUN/etc/hostname")
  if [ "$(first_line "$NIXVM_PROC/sys/kernel/hostname")" != "$name" ]; then
    printf '%s\n' "$name" > "$NIXVM_PROC/sys/kernel/hostname" || trouble="$trouble host name;"
    say "the host name is $name"
  fi
  keep_paths
  apply_homes || trouble="$trouble home folders;"
  apply_sudo || trouble="$trouble sudo;"
  apply_host_key || trouble="$trouble SSH host key;"
  nft -f "$NIXVM_RUN/nftables" || trouble="$trouble firewall rules;"
  case " $changed " in
    *' network/'*) if systemctl -q is-active systemd-networkd.service; then networkctl reload || trouble="$trouble network;"; fi ;;
  esac
  case " $changed " in
    *host-key*) if systemctl -q is-active "$NIXVM_SSH_UNIT"; then systemctl --no-block restart "$NIXVM_SSH_UNIT" || trouble="$trouble SSH server;"; fi ;;
  esac
  case " $changed " in
    *' everything '*) ;;
    # Both units have a condition on that file: in mode image this ends the timer and starts nothing.
    *' timer '*)
      { systemctl daemon-reload && systemctl restart nixvm-update.timer && systemctl --no-block start nixvm-update.service; } || trouble="$trouble update timer;"
      ;;
  esac
  if [ -n "$trouble" ]; then
    trouble="could not be put into effect:${trouble%;}"
    return 1
  fi
}

# With no account that may use it, sudo is not there to be tried. The program itself is in a root that does not change.
apply_sudo() {
  if [ ! -e "$NIXVM_SUDO" ]; then return 0; fi
  allowed=
  while IFS=$TAB read -r kind _ role _; do
    if [ "$kind $role" = "account admin" ]; then allowed=1; fi
  done < "$(if [ -f "$current/plan" ]; then echo "$current/plan"; else echo /dev/null; fi)"
  if [ -z "$allowed" ] && [ -x "$NIXVM_SUDO" ]; then
    : > "$NIXVM_RUN/no-sudo"
    chmod 0 "$NIXVM_RUN/no-sudo"
    mount --bind "$NIXVM_RUN/no-sudo" "$NIXVM_SUDO" || return 1
    say "no account of role admin: sudo is closed"
  elif [ -n "$allowed" ] && [ -e "$NIXVM_RUN/no-sudo" ]; then
    umount "$NIXVM_SUDO" || return 1
    rm -f "$NIXVM_RUN/no-sudo"
    say "sudo is open for accounts of role admin"
  fi
}

apply_homes() {
  while IFS=: read -r name _ uid gid _ home _; do
    case $home in /home/*) ;; *) continue ;; esac
    [ -f "$NIXVM_RUN/ssh/$name" ] || continue
    target=$NIXVM_TARGET/home/$name
    if [ -d "$target" ]; then continue; fi
    rm -rf "$target.new"
    mkdir -p "$target.new"
    if [ -d "$NIXVM_SKEL" ]; then cp -R "$NIXVM_SKEL/." "$target.new/"; fi
    chown -R "$uid:$gid" "$target.new"
    chmod 700 "$target.new"
    mv "$target.new" "$target"
    say "home of $name made"
  done < "$NIXVM_RUN/etc/passwd"
}

# Made once, on the persistent disk, when the seed holds none.
apply_host_key() {
  stored=$host_key
  if [ -s "$stored" ] && [ -s "$stored.pub" ]; then return 0; fi
  rm -f "$NIXVM_RUN/host_key" "$NIXVM_RUN/host_key.pub"
  if [ -s "$stored" ]; then
    (umask 077 && cp "$stored" "$NIXVM_RUN/host_key")
    ssh-keygen -y -P '' -f "$NIXVM_RUN/host_key" > "$NIXVM_RUN/host_key.pub" || return 1
  else
    ssh-keygen -q -t ed25519 -N '' -C "" -f "$NIXVM_RUN/host_key" || return 1
    say "a new SSH host key was made"
  fi
  publish_host_key "$NIXVM_RUN/host_key"
  rm -f "$NIXVM_RUN/host_key" "$NIXVM_RUN/host_key.pub"
}
