# usage: LC_ALL=C awk -f json.awk -f plan.awk -f seed.awk USER-DATA META-DATA NETWORK-CONFIG IMAGE.JSON
#
# Checks the three files of a seed and flattens them into lines of tab-separated fields, empty ones "-" (the plan); or writes all
# faults at once, as lines "error<TAB>text". In awk, as under emulation a jq takes ten times as long to start.
BEGIN {
  # Hardly in a seed, so that a file is one record; and space in JSON, so that it does not matter when one at the end is lost.
  RS = "\r"
  user = file_object(ARGV[1], "user-data")
  meta = file_object(ARGV[2], "meta-data")
  net = file_object(ARGV[3], "network-config")
  image = parse(content(ARGV[4]))
  vm = member(user, "nixvm")
  identity = member(vm, "identity")
  persist = member(vm, "persist")
  hostname = member(user, "hostname")
  if (!truthy(hostname)) hostname = member(meta, "local-hostname")
  if (!faults) check_seed()
  if (!faults) plan()
  exit 0
}

function content(file,    body, more) {
  if ((getline body < file) < 0) fault(file " cannot be read")
  while ((getline more < file) > 0) body = body RS more
  return body
}
function file_object(file, title,    body, node) {
  body = content(file)
  if (title == "user-data") sub(/^(#[^\n]*\n|[ \t]*\n)+/, "", body)
  # a network-config may be absent
  node = parse(title == "network-config" && body == "" ? "{\"version\":2}" : body)
  if (kind[node] != "object") fault(title " is not a JSON object")
  return node
}
function fault(reason) {
  gsub(/\300\200|[\001-\037]/, " ", reason)
  if (!(reason in told)) print "error\t" reason
  told[reason] = 1
  faults++
}

# --- what a value can be
function given(node) { return kind[node] != "null" }
function truthy(node) { return given(node) && (kind[node] != "boolean" || text[node] == "true") }
function is(node, word) { return kind[node] == "string" && text[node] == word }
function clean(node) { return kind[node] == "string" && text[node] !~ /[\001-\037\177\300]/ }
function hex_digits(node, count) { return clean(node) && length(text[node]) == count && text[node] ~ /^[0-9a-f]+$/ && text[node] ~ /[^0]/ }
function whole(node, low, high) {
  return kind[node] == "number" && text[node] + 0 == int(text[node]) && text[node] + 0 >= low && text[node] + 0 <= high
}
# Up to 2^53, beyond which one byte more or less makes no difference to a number.
function bytes_or_none(node) { return !given(node) || whole(node, 1048576, 9007199254740992) }
function hash_or_none(node) { return !given(node) || clean(node) && text[node] ~ /^[$!*][^: ]*$/ }
function user_name(node) { return clean(node) && length(text[node]) <= 32 && text[node] ~ /^[A-Za-z_][A-Za-z0-9_-]*$/ }
function ip(string) {
  return string ~ /^[0-9][0-9]?[0-9]?[.][0-9][0-9]?[0-9]?[.][0-9][0-9]?[0-9]?[.][0-9][0-9]?[0-9]?$/ || string ~ /^[0-9a-fA-F:.]*:[0-9a-fA-F:.]*$/
}
function cidr(node,    part) { return clean(node) && split(text[node], part, "/") == 2 && ip(part[1]) && part[2] ~ /^[0-9][0-9]?[0-9]?$/ }
function host_name(node,    label, labels, i) {
  if (!clean(node) || text[node] == "") return 0
  labels = split(text[node], label, ".")
  for (i = 1; i <= labels; i++) if (length(label[i]) > 63 || label[i] !~ /^[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?$/) return 0
  return 1
}
# A path of the allowlist as the host writes it: absolute, expanded, without a slash at its end.
function kept_path(node) { return clean(node) && text[node] ~ "^(/[^/]+)+$" && text[node] "/" !~ "/[.][.]?/" }
# Made by the image or by the boot itself: keeping it would hide what the guest needs to start (or keep the volume in itself).
function reserved(path) {
  return path "/" ~ "^/(nix|proc|sys|dev|run|persist)/" || path ~ "^/(bin|boot|etc|home|lib|lib64|sbin|usr|var)$" \
    || path ~ "^/home/[^/]+$" || path == "/etc/ssh" || path == "/etc/machine-id"
}
function fits(node, what) {
  if (what == "port") return whole(node, 1, 65535)
  if (what == "address") return clean(node) && ip(text[node])
  if (what == "prefix") return cidr(node)
  if (what == "name") return host_name(node)
  if (what == "hosts")
    return kind[node] == "object" && fits(member(node, "address"), "address") && size[member(node, "names")] > 0 && all(member(node, "names"), "name")
  if (what == "key") return clean(node) && " " text[node] " " ~ " (ssh|ecdsa|sk)-[^ ]+ +[A-Za-z0-9+/]+=* "
  # a route
  return kind[node] == "object" && (is(member(node, "to"), "default") || cidr(member(node, "to"))) && fits(member(node, "via"), "address")
}
# A list of such values, or none.
function all(list, what,    i) {
  for (i = 1; i <= size[list]; i++) if (!fits(item[list, i], what)) return 0
  return kind[list] == "array" || !given(list)
}

# --- the checks
function check_seed(    mode, mount, fs, label, node, home, scratch) {
  mode = member(vm, "rootMode")
  mount = member(persist, "mount")
  fs = member(persist, "fs")
  label = member(persist, "label")
  if (kind[vm] != "object") fault("user-data has no object nixvm")
  node = member(vm, "contract")
  if (!whole(node, 1, 1)) fault("nixvm.contract is " show(node) ", this guest knows 1")
  check_mode(mode, member(image, "rootModes"))
  if (!host_name(hostname)) fault("hostname " show(hostname) " is not a host name")
  if (given(persist)) {
    if (!clean(mount) || !clean(fs) || !clean(label) || length(text[label]) > 16 || text[label] !~ /^[A-Za-z0-9_.-]+$/)
      fault("nixvm.persist " show(persist) " needs mount, fs and a label of 1 to 16 letters, digits, '_', '.' or '-'")
    if (!is(mount, "/var") && !is(mount, "/persist")) fault("nixvm.persist.mount is " show(mount) ", allowed are /var and /persist")
    if (!is(fs, is(mode, "zfs-rollback") ? "zfs" : "ext4")) fault("nixvm.persist.fs is " show(fs) ": root mode zfs-rollback has zfs, all others ext4")
  }
  if (is(mode, "readonly") && !is(mount, "/var")) fault("nixvm.persist.mount is " show(mount) ", root mode readonly needs /var")
  if (is(label, "nixvm-formatting")) fault("nixvm.persist.label nixvm-formatting is reserved")
  if (given(identity) && kind[identity] != "object") fault("nixvm.identity is not an object")
  node = member(identity, "machineId")
  if (given(node) && !hex_digits(node, 32)) fault("nixvm.identity.machineId " show(node) " is not 32 hexadecimal digits")
  node = member(identity, "sshHostKey")
  if (given(node) && (kind[node] != "string" || text[node] !~ /^-----BEGIN OPENSSH PRIVATE KEY-----\n/ || index(text[node], "\300")))
    fault("nixvm.identity.sshHostKey is not an OpenSSH private key")
  node = member(vm, "rootSizeBytes")
  if (!bytes_or_none(node)) fault("nixvm.rootSizeBytes " show(node) " is not a number of bytes")
  home = member(vm, "home")
  node = member(home, "mode")
  if (given(home) && (!is(node, "tmpfs") && !is(node, "persistent") || !bytes_or_none(member(home, "sizeBytes"))))
    fault("nixvm.home " show(home) " needs a mode, tmpfs or persistent, and a size in bytes or none")
  scratch = member(vm, "scratch")
  node = member(scratch, "nixOverlay")
  if (given(scratch) && (kind[scratch] != "object" || given(node) && kind[node] != "boolean"))
    fault("nixvm.scratch " show(scratch) " is not an object with nixOverlay true or false")
  node = member(identity, "hostId")
  if (given(node) && !hex_digits(node, 8)) fault("nixvm.identity.hostId " show(node) " is not 8 hexadecimal digits")
  if (is(mode, "zfs-rollback") && (!is(fs, "zfs") || !given(node))) fault("nixvm.rootMode zfs-rollback needs persist.fs zfs and identity.hostId")
  check_update(member(vm, "update"))
  check_allowlist(member(vm, "allowlist"), kind[mount] == "string" ? text[mount] "/" : "")
  if (!hash_or_none(member(vm, "rootPasswordHash"))) fault("nixvm.rootPasswordHash is not a crypt(3) hash")
  check_accounts(member(vm, "accounts"))
  check_list("nixvm.tcpPorts", member(vm, "tcpPorts"), "port", "has an entry that is not a port from 1 to 65535")
  check_list("nixvm.udpPorts", member(vm, "udpPorts"), "port", "has an entry that is not a port from 1 to 65535")
  check_list("nixvm.dns", member(vm, "dns"), "address", "has an entry that is not an IP address")
  check_list("nixvm.hosts", member(vm, "hosts"), "hosts", "has an entry that is not an IP address with host names")
  check_network()
}
function check_list(title, list, what, trouble) { if (!all(list, what)) fault(title " " show(list) " " trouble) }

function check_mode(mode, modes,    i, found, names) {
  for (i = 1; i <= size[modes]; i++) {
    if (kind[mode] == "string" && is(item[modes, i], text[mode])) found = 1
    names = names (i > 1 ? ", " : "") text[item[modes, i]]
  }
  if (!found) fault("nixvm.rootMode is " show(mode) ", this image can do " names)
}

function check_update(update,    mode, flake, every) {
  mode = member(update, "mode")
  flake = member(update, "flake")
  every = member(update, "everySeconds")
  if (given(update) && (!is(mode, "image") && !is(mode, "pull") || given(flake) && (!clean(flake) || text[flake] !~ /^[!-~]+$/) \
      || given(every) && !whole(every, 60, 9007199254740992)))
    fault("nixvm.update " show(update) " needs a mode, image or pull, a flake without spaces or none, and everySeconds of 60 or more")
}

# No path twice, and below another one only as a bind mount in a bind mount. Fills allow_node[] and allow_kind[], the entries with a path.
function check_allowlist(list, mount,    i, unknown, strangers, path, listed, part, parts, at, below, upper, pair) {
  if (!given(list)) return
  if (kind[list] != "object") fault("nixvm.allowlist " show(list) " is not an object")
  for (i = 1; i <= size[list]; i++)
    if (kind[list] == "object" && name[list, i] != "directories" && name[list, i] != "files") unknown = unknown (strangers++ ? ", " : "") name[list, i]
  if (strangers) fault("nixvm.allowlist has " unknown ", allowed are directories and files with absolute paths")
  check_entries(member(list, "directories"), "directory", "nixvm.allowlist.directories", mount)
  check_entries(member(list, "files"), "file", "nixvm.allowlist.files", mount)
  if (allows && !given(persist)) fault("nixvm.allowlist has entries, but there is no persistent disk to keep them on")
  for (i = 1; i <= allows; i++) {
    path[i] = member(allow_node[i], "path")
    listed[text[path[i]]] = i
  }
  check_twice("nixvm.allowlist", path, allows)
  for (i = 1; i <= allows; i++) {
    parts = split(text[path[i]], part, "/")
    below = part[1]
    for (at = 2; at < parts; at++) {
      below = below "/" part[at]
      if (!(below in listed)) continue
      upper = listed[below]
      pair = "nixvm.allowlist has " show(path[i]) " below " show(path[upper])
      if (allow_kind[upper] == "file") fault(pair ", which is listed as a file")
      else if (is(member(allow_node[upper], "how"), "symlink") || is(member(allow_node[i], "how"), "symlink"))
        fault(pair ": one of them is a link, both have to be bind mounts")
    }
  }
}
function check_entries(list, its_kind, title, mount,    i, at, entry, path, node) {
  if (given(list) && kind[list] != "array") fault(title " is not a list")
  for (i = 1; kind[list] == "array" && i <= size[list]; i++) {
    at = title "[" (i - 1) "]"
    entry = item[list, i]
    if (kind[entry] != "object") {
      fault(at " is not an object")
      continue
    }
    path = member(entry, "path")
    if (kind[path] == "string") {
      allow_node[++allows] = entry
      allow_kind[allows] = its_kind
    }
    if (!kept_path(path)) fault(at ".path " show(path) " is not an absolute path without '.', '..', '//' or control characters")
    else {
      if (reserved(text[path])) fault(at ".path " show(path) " is the image's, the boot's or kept with the identity: it cannot be kept by a list")
      if (mount != "" && index(text[path] "/", mount) == 1) fault(at ".path " show(path) " is on the persistent disk itself")
    }
    node = member(entry, "user")
    if (!user_name(node)) fault(at ".user " show(node) " is not a user name")
    node = member(entry, "group")
    if (!user_name(node)) fault(at ".group " show(node) " is not a group name")
    node = member(entry, "mode")
    if (!clean(node) || text[node] !~ /^[0-7][0-7][0-7][0-7]$/) fault(at ".mode " show(node) " is not four octal digits")
    node = member(entry, "how")
    if (!is(node, "bindmount") && !is(node, "symlink")) fault(at ".how is " show(node) ", allowed are bindmount and symlink")
    node = member(entry, "inInitrd")
    if (kind[node] != "boolean") fault(at ".inInitrd " show(node) " is not true or false")
  }
}
# check_twice TITLE LIST COUNT: names every string that is there more than once
function check_twice(title, list, count,    i, twice, doubles, node_of) {
  for (i = 1; i <= count; i++)
    if (kind[list[i]] == "string") {
      if (twice[text[list[i]]]++ == 1) {
        doubles[++doubles[0]] = text[list[i]] ""
        node_of[text[list[i]]] = list[i]
      }
    }
  sort(doubles, doubles[0])
  for (i = 1; i <= doubles[0]; i++) fault(title " has " show(node_of[doubles[i]]) " twice")
}
function sort(list, count,    i, at, held) {
  for (i = 2; i <= count; i++) {
    held = list[i]
    for (at = i - 1; at >= 1 && list[at] > held; at--) list[at + 1] = list[at]
    list[at + 1] = held
  }
}

function check_accounts(list,    i, at, node, named) {
  if (given(list) && kind[list] != "array") {
    fault("nixvm.accounts is not a list")
    return
  }
  for (i = 1; i <= size[list]; i++) {
    at = "nixvm.accounts[" (i - 1) "]"
    node = named[i] = member(item[list, i], "name")
    if (!clean(node) || length(text[node]) > 31 || text[node] !~ /^[a-z_][a-z0-9_-]*$/) fault(at ".name " show(node) " is not an account name")
    node = member(item[list, i], "role")
    if (!is(node, "admin") && !is(node, "user")) fault(at ".role is " show(node) ", allowed are admin and user")
    if (!hash_or_none(member(item[list, i], "passwordHash"))) fault(at ".passwordHash is not a crypt(3) hash")
    if (!all(member(item[list, i], "authorizedKeys"), "key")) fault(at ".authorizedKeys has an entry that is not an SSH public key")
  }
  check_twice("nixvm.accounts", named, size[list])
}

# An object, or none.
function part_of(node, its_name, title,    found) {
  found = member(node, its_name)
  if (given(found) && kind[found] != "object") fault(title "." its_name " is not an object")
  return found
}

function check_network(    node, i) {
  node = member(net, "version")
  if (!whole(node, 2, 2)) fault("network-config has version " show(node) ", this guest knows 2")
  nics = member(net, "ethernets")
  if (!truthy(nics)) nics = 0
  else if (kind[nics] != "object") fault("network-config.ethernets is not an object")
  else for (i = 1; i <= size[nics]; i++) check_nic(name[nics, i], item[nics, i])
}
function check_nic(id, nic,    at, node, i, routes) {
  at = "network-config.ethernets." id
  if (length(id) > 32 || id !~ /^[A-Za-z0-9_.-]+$/) fault(at " is not a usable name")
  if (given(nic) && kind[nic] != "object") fault(at " is not an object")
  node = member(part_of(nic, "match", at), "macaddress")
  if (truthy(node) && (!clean(node) || length(text[node]) != 17 || text[node] !~ /^[0-9a-fA-F][0-9a-fA-F](:[0-9a-fA-F][0-9a-fA-F])+$/))
    fault(at ".match.macaddress " show(node) " is not a MAC address")
  node = member(member(nic, "match"), "name")
  if (truthy(node) && (!clean(node) || text[node] !~ /^[A-Za-z0-9_.*?-]+$/)) fault(at ".match.name " show(node) " is not an interface name")
  check_list(at ".addresses", member(nic, "addresses"), "prefix", "has an entry that is not ADDRESS/PREFIX")
  routes = member(nic, "routes")
  check_list(at ".routes", routes, "route", "needs entries with to and via")
  for (i = 1; i <= size[routes]; i++) {
    node = member(item[routes, i], "metric")
    if (given(node) && !whole(node, 0, 4294967295)) fault(at ".routes[" (i - 1) "].metric " show(node) " is not a whole number")
  }
  if (!all(member(part_of(nic, "nameservers", at), "addresses"), "address")) fault(at ".nameservers.addresses has an entry that is not an IP address")
  node = member(nic, "mtu")
  if (given(node) && !whole(node, 576, 65535)) fault(at ".mtu " show(node) " is not from 576 to 65535")
}
