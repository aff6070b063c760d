# shellcheck shell=sh
# What a plan (lines of seed.jq) becomes: files below $NIXVM_RUN, and then the running system. Part of `seed`.
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
  mkdir -p "$next/etc" "$next/ssh" "$next/network" "$NIXVM_VAR/home" "$NIXVM_VAR/lib/nixvm" "$NIXVM_VAR/lib/identity"
  chmod 700 "$NIXVM_VAR/lib/nixvm" "$NIXVM_VAR/lib/identity"
  plan=$1
  # owner and mode of the image's own files; the content is written anew
  cp -p "$NIXVM_SHARE/etc/"* "$next/etc/"
  : > "$next/uids"
  LC_ALL=C awk -v share="$NIXVM_SHARE" -v next_dir="$next" -v uids="$NIXVM_VAR/lib/nixvm/uids" -v shell="$NIXVM_SHELL" \
    -v groups="$NIXVM_ADMIN_GROUPS" -f "$here/render.awk" "$plan"
  render_machine_id
  render_host_key
)

# From the seed; else the one this guest has had before; else a new one. systemd reads it once, when it starts.
render_machine_id() {
  id=$(plan_value "$plan" machineId)
  stored=$NIXVM_VAR/lib/identity/machine-id
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
  if cmp -s "$next/host_key" "$NIXVM_VAR/lib/identity/ssh_host_ed25519_key"; then return 0; fi
  ssh-keygen -y -P '' -f "$next/host_key" > "$next/host_key.pub" 2> /dev/null || fault "nixvm.identity.sshHostKey is not a usable private key without passphrase"
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
  mkdir -p "$NIXVM_NETWORKD"
  replace "$next/uids" "$NIXVM_VAR/lib/nixvm/uids" || true
  replace "$next/machine-id" "$NIXVM_VAR/lib/identity/machine-id" || true
  if [ ! -d "$NIXVM_RUN/etc" ]; then
    # The first time there is nothing to compare with. The machine id is read by systemd once; a later one waits for the next start.
    cp "$NIXVM_VAR/lib/identity/machine-id" "$next/etc/machine-id"
    mv "$next/etc" "$next/ssh" "$next/nftables" "$NIXVM_RUN/"
    cp -R "$next/network/." "$NIXVM_NETWORKD/"
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
  rm -rf "$next"
  printf '%s\n' "$changed" > "$NIXVM_RUN/changed"
  say "changed:${changed:- nothing}"
}

publish_host_key() {
  to=$NIXVM_VAR/lib/identity/ssh_host_ed25519_key
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
  apply_homes || trouble="$trouble home folders;"
  apply_host_key || trouble="$trouble SSH host key;"
  nft -f "$NIXVM_RUN/nftables" || trouble="$trouble firewall rules;"
  case " $changed " in
    *' network/'*) if systemctl -q is-active systemd-networkd.service; then networkctl reload || trouble="$trouble network;"; fi ;;
  esac
  case " $changed " in
    *host-key*) if systemctl -q is-active "$NIXVM_SSH_UNIT"; then systemctl --no-block restart "$NIXVM_SSH_UNIT" || trouble="$trouble SSH server;"; fi ;;
  esac
  if [ -n "$trouble" ]; then
    trouble="could not be put into effect:${trouble%;}"
    return 1
  fi
}

apply_homes() {
  while IFS=: read -r name _ uid gid _ home _; do
    case $home in /home/*) ;; *) continue ;; esac
    [ -f "$NIXVM_RUN/ssh/$name" ] || continue
    target=$NIXVM_VAR/home/$name
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
  stored=$NIXVM_VAR/lib/identity/ssh_host_ed25519_key
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
