# shellcheck shell=sh
# What a plan (lines of seed.jq) becomes: files below $NIXVM_RUN, and then the running system. Part of `seed`.
# shellcheck disable=SC2030,SC2031  # render is a subshell on purpose, and its helpers run inside it

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
  cat "$NIXVM_RUN/render.log" >&2
  if [ $rc -ne 0 ]; then
    reason=${fault:-the seed could not be applied: $(tail -n 1 "$NIXVM_RUN/render.log")}
  fi
}

# render PLAN: everything into $NIXVM_RUN/next, in a subshell; prints the fault and fails without having changed anything in use
render() (
  set -eu
  next=$NIXVM_RUN/next
  rm -rf "$next"
  mkdir -p "$next/etc" "$next/ssh" "$next/network" "$NIXVM_VAR/lib/nixvm" "$NIXVM_VAR/lib/identity"
  chmod 700 "$NIXVM_VAR/lib/nixvm" "$NIXVM_VAR/lib/identity"
  plan=$1
  hostname=$(plan_value "$plan" hostname)
  : "${hostname:=nixvm}"
  printf '%s\n' "$hostname" > "$next/etc/hostname"
  printf '127.0.0.1\tlocalhost\n127.0.1.1\t%s%s\n::1\tlocalhost ip6-localhost ip6-loopback\n' "$hostname" \
    "$(case $hostname in *.*) printf ' %s' "${hostname%%.*}" ;; esac)" > "$next/etc/hosts"
  render_machine_id
  render_accounts
  render_ports > "$next/nftables"
  render_network
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
  printf '%s\n' "$id" > "$next/etc/machine-id"
}

# Account files of the image plus the accounts of the seed, from scratch each time: what the seed no longer names is gone. User
# numbers are kept on the persistent disk and never given to another name, as files in /home belong to them.
render_accounts() {
  uids=$NIXVM_VAR/lib/nixvm/uids
  [ -f "$uids" ] || : > "$uids"
  cp "$uids" "$next/uids"
  for file in passwd group shadow gshadow; do
    [ -f "$NIXVM_SHARE/etc/$file" ] || continue
    cp -p "$NIXVM_SHARE/etc/$file" "$next/etc/$file"
  done
  admins=
  while IFS=$TAB read -r kind name role hash; do
    if [ "$kind" != account ]; then continue; fi
    if grep -q "^$name:" "$NIXVM_SHARE/etc/passwd" "$NIXVM_SHARE/etc/group"; then fault "the account name '$name' is one of the system's own"; fi
    uid=$(sed -n "s/^\([0-9][0-9]*\) $name\$/\1/p" "$next/uids")
    if [ -z "$uid" ]; then
      uid=$(sort -n "$next/uids" | tail -n 1 | cut -d ' ' -f 1)
      uid=$((${uid:-999} + 1))
      echo "$uid $name" >> "$next/uids"
    fi
    echo "$name:x:$uid:$uid::/home/$name:$NIXVM_SHELL" >> "$next/etc/passwd"
    echo "$name:x:$uid:" >> "$next/etc/group"
    if [ "$hash" = - ]; then hash='!'; fi
    echo "$name:$hash:20000:0:99999:7:::" >> "$next/etc/shadow"
    if [ -f "$next/etc/gshadow" ]; then echo "$name:!::" >> "$next/etc/gshadow"; fi
    if [ "$role" = admin ]; then admins=$admins${admins:+,}$name; fi
    : > "$next/ssh/$name"
  done < "$plan"
  for group in $NIXVM_ADMIN_GROUPS; do
    if [ -z "$admins" ]; then continue; fi
    sed "s/^\($group:[^:]*:[^:]*:\)\(..*\)\$/\1\2,$admins/; s/^\($group:[^:]*:[^:]*:\)\$/\1$admins/" "$next/etc/group" > "$next/group.new"
    cat "$next/group.new" > "$next/etc/group"
  done
  rm -f "$next/group.new"
  hash=$(plan_value "$plan" rootHash)
  if [ -n "$hash" ]; then
    # by hand, as the hash has the characters that sed and awk treat as their own
    while IFS= read -r row; do
      case $row in root:*) rest=${row#root:*:} && printf 'root:%s:%s\n' "$hash" "$rest" ;; *) printf '%s\n' "$row" ;; esac
    done < "$next/etc/shadow" > "$next/shadow.new"
    cat "$next/shadow.new" > "$next/etc/shadow"
    rm -f "$next/shadow.new"
  fi
  while IFS=$TAB read -r kind name key; do
    if [ "$kind" = key ]; then printf '%s\n' "$key" >> "$next/ssh/$name"; fi
  done < "$plan"
}

# Everything that is not named stays closed; the agent needs no port. 1 and 58 are ICMP and ICMPv6, by number as a lean image has no
# list of protocol names.
render_ports() {
  cat << 'RULES'
table inet nixvm
delete table inet nixvm
table inet nixvm {
  chain input {
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    ct state invalid drop
    iif "lo" accept
    meta l4proto { 1, 58 } accept
    udp sport 67 udp dport 68 accept
    udp sport 547 udp dport 546 accept
RULES
  while IFS=$TAB read -r kind port _; do
    case $kind in tcp | udp) echo "    $kind dport $port accept" ;; esac
  done < "$plan"
  printf '    tcp flags syn reject with tcp reset\n  }\n}\n'
}

# networkd files by MAC address; DNS of the seed, else of the network-config, else Cloudflare's.
render_network() {
  dns=
  while IFS=$TAB read -r kind one two _; do
    case $kind in dns) dns="$dns $one" ;; esac
  done < "$plan"
  if [ -z "$dns" ]; then
    while IFS=$TAB read -r kind one two _; do
      case $kind in nameserver) dns="$dns $two" ;; esac
    done < "$plan"
  fi
  : "${dns:= 1.1.1.1 1.0.0.1}"
  for server in $dns; do echo "nameserver $server"; done > "$next/etc/resolv.conf"
  while IFS=$TAB read -r kind id mac match dhcp4 dhcp6 mtu; do
    if [ "$kind" != nic ]; then continue; fi
    case $dhcp4$dhcp6 in truetrue) dhcp=yes ;; truefalse) dhcp=ipv4 ;; falsetrue) dhcp=ipv6 ;; *) dhcp=no ;; esac
    {
      echo "[Match]"
      if [ "$mac" != - ]; then echo "MACAddress=$mac"; fi
      if [ "$match" != - ]; then echo "Name=$match"; fi
      if [ "$mtu" != - ]; then printf '[Link]\nMTUBytes=%s\n' "$mtu"; fi
      printf '[Network]\nDHCP=%s\n' "$dhcp"
      while IFS=$TAB read -r line nic value _; do
        if [ "$line" = address ] && [ "$nic" = "$id" ]; then echo "Address=$value"; fi
      done < "$plan"
      while IFS=$TAB read -r line nic to via metric; do
        if [ "$line" != route ] || [ "$nic" != "$id" ]; then continue; fi
        echo "[Route]"
        if [ "$to" != default ]; then echo "Destination=$to"; fi
        echo "Gateway=$via"
        if [ "$metric" != - ]; then echo "Metric=$metric"; fi
      done < "$plan"
      # The lease hangs on the MAC address, which outlives images and machine ids.
      printf '[DHCPv4]\nClientIdentifier=mac\nUseDNS=no\nUseHostname=no\n'
    } > "$next/network/10-nixvm-$id.network"
  done < "$plan"
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
  if cmp -s "$1" "$2"; then
    rm -f "$1"
    return 1
  fi
  cp -p "$1" "$2.new"
  rm -f "$1"
  mv -f "$2.new" "$2"
}

# drop FOLDER NEXT PATTERN: files that the new seed has no more
drop() {
  for file in "$1"/$3; do
    if [ -f "$file" ] && [ ! -f "$2/${file##*/}" ]; then
      rm -f "$file"
      say "${file##*/} is gone from ${1##*/}"
      changed="$changed ${1##*/}"
    fi
  done
}

# What render made takes the place of what was there, file by file; each is complete at any moment.
publish() {
  next=$NIXVM_RUN/next
  mkdir -p "$NIXVM_RUN/etc" "$NIXVM_RUN/ssh" "$NIXVM_NETWORKD"
  : >> "$NIXVM_RUN/changed"
  changed=
  replace "$next/uids" "$NIXVM_VAR/lib/nixvm/uids" || true
  drop "$NIXVM_RUN/ssh" "$next/ssh" '*'
  drop "$NIXVM_NETWORKD" "$next/network" '10-nixvm-*.network'
  if [ -f "$NIXVM_RUN/etc/machine-id" ]; then
    # the running system cannot change its id; the next start takes the new one
    replace "$next/etc/machine-id" "$NIXVM_VAR/lib/identity/machine-id" || true
  else
    cp "$next/etc/machine-id" "$next/id"
    replace "$next/id" "$NIXVM_VAR/lib/identity/machine-id" || true
  fi
  for pair in "etc $NIXVM_RUN/etc" "ssh $NIXVM_RUN/ssh" "network $NIXVM_NETWORKD"; do
    from=$next/${pair%% *} to=${pair#* }
    for file in "$from"/*; do
      [ -f "$file" ] || continue
      if replace "$file" "$to/${file##*/}"; then changed="$changed ${file##*/}" && case $from in */network) changed="$changed network" ;; esac; fi
    done
  done
  if replace "$next/nftables" "$NIXVM_RUN/nftables"; then changed="$changed nftables"; fi
  if [ -f "$next/host_key.pub" ]; then
    publish_host_key "$next/host_key"
    changed="$changed host-key"
  fi
  rm -rf "$next"
  printf '%s\n' "$changed" >> "$NIXVM_RUN/changed"
  if [ -n "$changed" ]; then say "changed:$changed"; else say "nothing changed"; fi
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
  changed=$(cat "$NIXVM_RUN/changed" 2> /dev/null || true)
  read -r name < "$NIXVM_RUN/etc/hostname"
  if [ "$(cat "$NIXVM_PROC/sys/kernel/hostname")" != "$name" ]; then
    printf '%s\n' "$name" > "$NIXVM_PROC/sys/kernel/hostname" || trouble="$trouble host name;"
    say "the host name is $name"
  fi
  apply_homes || trouble="$trouble home folders;"
  apply_host_key || trouble="$trouble SSH host key;"
  nft -f "$NIXVM_RUN/nftables" || trouble="$trouble firewall rules;"
  case " $changed " in
    *network*) if systemctl -q is-active systemd-networkd.service; then networkctl reload || trouble="$trouble network;"; fi ;;
  esac
  case " $changed " in
    *host-key*) if systemctl -q is-active "$NIXVM_SSH_UNIT"; then systemctl --no-block restart "$NIXVM_SSH_UNIT" || trouble="$trouble SSH server;"; fi ;;
  esac
  rm -f "$NIXVM_RUN/changed"
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
