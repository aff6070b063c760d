# The lines of a plan, from a seed that seed.awk has found without a fault. Part of seed.awk.
function field(node) {
  if (kind[node] == "number") return sprintf("%.0f", text[node] + 0)
  return !given(node) || text[node] == "" ? "-" : text[node]
}
function yes(node) { return kind[node] == "boolean" && truthy(node) ? "true" : "false" }
function line(title, node) { if (given(node)) print title, field(node) }

function plan(    node, list, i) {
  OFS = "\t"
  line("hostname", hostname)
  line("rootMode", member(vm, "rootMode"))
  line("rootSize", member(vm, "rootSizeBytes"))
  node = member(vm, "home")
  print "home", given(node) ? text[member(node, "mode")] : "persistent", field(member(node, "sizeBytes"))
  node = member(vm, "scratch")
  if (given(node)) print "scratch", yes(member(node, "nixOverlay"))
  line("hostId", member(identity, "hostId"))
  node = member(vm, "update")
  if (is(member(node, "mode"), "pull"))
    print "update", "pull", field(member(node, "flake")), given(member(node, "everySeconds")) ? field(member(node, "everySeconds")) : 3600
  if (given(persist)) print "persist", field(member(persist, "mount")), field(member(persist, "fs")), field(member(persist, "label"))
  else print "persist", "none"
  line("machineId", member(identity, "machineId"))
  node = member(identity, "sshHostKey")
  if (given(node)) print "sshHostKey", base64(text[node])
  for (i = 1; i <= allows; i++) {
    node = allow_node[i]
    print "allow", allow_kind[i], field(member(node, "path")), field(member(node, "user")), field(member(node, "group")), \
      field(member(node, "mode")), field(member(node, "how")), field(member(node, "inInitrd"))
  }
  line("rootHash", member(vm, "rootPasswordHash"))
  list = member(vm, "accounts")
  for (i = 1; i <= size[list]; i++) {
    node = item[list, i]
    print "account", field(member(node, "name")), field(member(node, "role")), field(member(node, "passwordHash"))
    print_list("key\t" field(member(node, "name")), member(node, "authorizedKeys"))
  }
  print_ports("tcp", member(vm, "tcpPorts"))
  print_ports("udp", member(vm, "udpPorts"))
  print_list("dns", member(vm, "dns"))
  list = member(vm, "hosts")
  for (i = 1; i <= size[list]; i++) print "host", field(member(item[list, i], "address")), words(member(item[list, i], "names"))
  for (i = 1; i <= size[nics]; i++) print_nic(name[nics, i], item[nics, i])
}
function print_list(title, list,    i) { for (i = 1; i <= size[list]; i++) print title, field(item[list, i]) }
function words(list,    i, all_words) {
  for (i = 1; i <= size[list]; i++) all_words = all_words (i > 1 ? " " : "") text[item[list, i]]
  return all_words
}
function print_ports(title, list,    i, port) {
  for (i = 1; i <= size[list]; i++) port[i] = text[item[list, i]] + 0
  sort(port, size[list])
  for (i = 1; i <= size[list]; i++) if (i == 1 || port[i] != port[i - 1]) print title, port[i]
}
function print_nic(id, nic,    mac, match_name, list, i) {
  mac = member(member(nic, "match"), "macaddress")
  match_name = member(member(nic, "match"), "name")
  print "nic", id, truthy(mac) ? field(mac) : "-", truthy(match_name) ? field(match_name) : truthy(mac) ? "-" : id, \
    yes(member(nic, "dhcp4")), yes(member(nic, "dhcp6")), field(member(nic, "mtu"))
  print_list("address\t" id, member(nic, "addresses"))
  list = member(nic, "routes")
  for (i = 1; i <= size[list]; i++)
    print "route", id, field(member(item[list, i], "to")), field(member(item[list, i], "via")), field(member(item[list, i], "metric"))
  print_list("nameserver\t" id, member(member(nic, "nameservers"), "addresses"))
}

# One line, as a plan has no others.
function base64(string,    digits, i, left, three, out) {
  digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
  for (i = 1; i <= length(string); i += 3) {
    left = length(string) - i
    three = byte(substr(string, i, 1)) * 65536
    if (left > 0) three += byte(substr(string, i + 1, 1)) * 256
    if (left > 1) three += byte(substr(string, i + 2, 1))
    out = out substr(digits, int(three / 262144) + 1, 1) substr(digits, int(three / 4096) % 64 + 1, 1) \
      (left > 0 ? substr(digits, int(three / 64) % 64 + 1, 1) : "=") (left > 1 ? substr(digits, three % 64 + 1, 1) : "=")
  }
  return out
}
