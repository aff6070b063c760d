# usage: awk -v share=DIR -v next_dir=DIR -v uids=FILE -v shell=PATH -v groups="sudo …" -f render.awk PLAN
#
# The files of a plan (lines of plan.awk) in next_dir/: etc/{passwd,group,shadow,gshadow,hostname,hosts,resolv.conf}, ssh/NAME, network/*,
# nftables, uids. One program instead of some hundred calls of small tools, which take seconds under emulation. A fault is
# printed and ends it with 1.
BEGIN { FS = "\t"; hostname = "nixvm" }

function fault(text) { print text; failed = 1; exit 1 }
# Variables given with -v lose backslashes, file content does not; so nothing from the seed comes in by -v.
function set(value) { return value != "" && value != "-" }

$1 == "hostname" { hostname = $2 }
$1 == "rootHash" { root_hash = $2 }
$1 == "account" { name[++accounts] = $2; role[$2] = $3; hash[$2] = set($4) ? $4 : "!" }
$1 == "storedHash" { hash[$2] = $3 }
$1 == "key" { keys[$2] = keys[$2] $3 "\n" }
$1 == "tcp" || $1 == "udp" { ports = ports "    " $1 " dport " $2 " accept\n" }
$1 == "dns" { dns = dns "nameserver " $2 "\n" }
$1 == "host" { hosts = hosts $2 "\t" $3 "\n" }
$1 == "nameserver" { net_dns = net_dns "nameserver " $3 "\n" }
$1 == "nic" { nic[++nics] = $2; mac[$2] = $3; match_name[$2] = $4; dhcp[$2] = $5 $6; mtu[$2] = $7 }
$1 == "address" { addresses[$2] = addresses[$2] "Address=" $3 "\n" }
$1 == "update" { source = $3; every = $4 }
$1 == "route" {
  routes[$2] = routes[$2] "[Route]\n" ($3 == "default" ? "" : "Destination=" $3 "\n") "Gateway=" $4 "\n" (set($5) ? "Metric=" $5 "\n" : "")
}

END {
  if (failed) exit 1
  print hostname > (next_dir "/etc/hostname")
  short = hostname
  sub(/\..*/, "", short)
  printf "127.0.0.1\tlocalhost\n127.0.1.1\t%s%s\n::1\tlocalhost ip6-localhost ip6-loopback\n%s", hostname, (short != hostname ? " " short : ""), hosts > (next_dir "/etc/hosts")
  # DNS of the seed, else of the network-config, else Cloudflare's
  printf "%s", dns != "" ? dns : net_dns != "" ? net_dns : "nameserver 1.1.1.1\nnameserver 1.0.0.1\n" > (next_dir "/etc/resolv.conf")
  render_accounts()
  # Everything that is not named stays closed; the agent needs no port. 1 and 58 are ICMP and ICMPv6, by number as a lean
  # image has no list of protocol names. Adding the table before it is deleted makes that work at the first time too.
  printf "table inet nixvm\ndelete table inet nixvm\ntable inet nixvm {\n  chain input {\n" \
    "    type filter hook input priority filter; policy drop;\n    ct state established,related accept\n    ct state invalid drop\n" \
    "    iif \"lo\" accept\n    meta l4proto { 1, 58 } accept\n    udp sport 67 udp dport 68 accept\n    udp sport 547 udp dport 546 accept\n" \
    "%s    tcp flags syn reject with tcp reset\n  }\n}\n", ports > (next_dir "/nftables")
  for (i = 1; i <= nics; i++) render_nic(nic[i])
  # Interval and delay together are what the seed asks for: no change waits longer. The source is named so that another one is a change.
  if (every) {
    delay = int(every / 12)
    printf "# pulled from %s, says the seed\n[Timer]\nOnUnitActiveSec=\nOnUnitActiveSec=%d\nRandomizedDelaySec=%d\n", source, every - delay, delay > (next_dir "/timer")
  }
}

# Account files of the image plus the accounts of the seed, from scratch each time: what the seed no longer names is gone. User
# numbers are kept on the persistent disk and never given to another name, as files in /home belong to them.
function render_accounts(    i, n, id, who, line, file, part, last, admins, is_admin, users, is_user, members) {
  last = 999
  while ((getline line < uids) > 0) {
    split(line, part, " ")
    uid[part[2]] = part[1]
    numbers = numbers line "\n"
    if (part[1] + 0 > last) last = part[1] + 0
  }
  for (i = 1; i <= accounts; i++) {
    who = name[i]
    if (!(who in uid)) { uid[who] = ++last; numbers = numbers last " " who "\n"; fresh = 1 }
    if (role[who] == "admin") admins = admins (admins == "" ? "" : ",") who
    else users = users (users == "" ? "" : ",") who
  }
  if (fresh) printf "%s", numbers > (next_dir "/uids")
  n = split(groups, part, " ")
  for (i = 1; i <= n; i++) is_admin[part[i]] = 1
  n = split(user_groups, part, " ")
  for (i = 1; i <= n; i++) is_user[part[i]] = 1
  file = share "/etc/passwd"
  while ((getline line < file) > 0) {
    split(line, part, ":")
    taken[part[1]] = 1
    print line > (next_dir "/etc/passwd")
  }
  file = share "/etc/group"
  while ((getline line < file) > 0) {
    split(line, part, ":")
    taken[part[1]] = 1
    members = part[4]
    if (admins != "" && part[1] in is_admin) members = members (members == "" ? "" : ",") admins
    if (users != "" && part[1] in is_user) members = members (members == "" ? "" : ",") users
    if (members != part[4]) line = part[1] ":" part[2] ":" part[3] ":" members
    print line > (next_dir "/etc/group")
  }
  file = share "/etc/shadow"
  while ((getline line < file) > 0) {
    if (root_hash != "" && line ~ /^root:/) { sub(/^root:[^:]*/, "", line); line = "root:" root_hash line }
    print line > (next_dir "/etc/shadow")
  }
  file = share "/etc/gshadow"
  while ((getline line < file) > 0) print line > (next_dir "/etc/gshadow")
  for (i = 1; i <= accounts; i++) {
    who = name[i]
    id = uid[who]
    if (who in taken) fault("the account name '" who "' is one of the system's own")
    print who ":x:" id ":" id "::/home/" who ":" shell > (next_dir "/etc/passwd")
    print who ":x:" id ":" > (next_dir "/etc/group")
    print who ":" hash[who] ":20000:0:99999:7:::" > (next_dir "/etc/shadow")
    print who ":!::" > (next_dir "/etc/gshadow")
    printf "%s", keys[who] > (next_dir "/ssh/" who)
  }
}

# The lease hangs on the MAC address, which outlives images and machine ids.
function render_nic(id,    file) {
  file = next_dir "/network/10-nixvm-" id ".network"
  printf "[Match]\n%s%s%s[Network]\nDHCP=%s\n%s%s[DHCPv4]\nClientIdentifier=mac\nUseDNS=no\nUseHostname=no\n", \
    set(mac[id]) ? "MACAddress=" mac[id] "\n" : "", set(match_name[id]) ? "Name=" match_name[id] "\n" : "", \
    set(mtu[id]) ? "[Link]\nMTUBytes=" mtu[id] "\n" : "", \
    dhcp[id] == "truetrue" ? "yes" : dhcp[id] == "truefalse" ? "ipv4" : dhcp[id] == "falsetrue" ? "ipv6" : "no", \
    addresses[id], routes[id] > file
}
