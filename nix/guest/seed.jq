# Checks the three seed files and flattens them into lines of tab-separated fields ("plan"), or into lines "error<TAB>text": all
# faults at once. Input: the raw texts $user, $meta, $net and the image's $image. Empty fields are "-".

# Collected in a list, as jq 1.6 would let such a "try" catch faults of what comes after it, too.
def json_or_null: [try fromjson catch null][0];
def parse(name; text): (text | json_or_null) as $v
  | if ($v | type) == "object" then {value: $v, errors: []} else {value: {}, errors: ["\(name) is not a JSON object"]} end;
def clean: type == "string" and (explode | all(. >= 32 and . != 127));
def show: tojson | if length > 60 then .[0:57] + "…" else . end;
def check(test; text): if test then empty else text end;
def list(v): if v == null then [] else v end;
def address: clean and test("^([0-9]{1,3}\\.){3}[0-9]{1,3}$|^[0-9a-fA-F:.]*:[0-9a-fA-F:.]*$");
def cidr: clean and test("^[0-9a-fA-F:.]+/[0-9]{1,3}$") and (split("/")[0] | address);
def hash: . == null or (clean and test("^[$!*][^: ]*$"));
def port: type == "number" and floor == . and . >= 1 and . <= 65535;
def line: map(if . == null or . == "" then "-" else tostring end) | join("\t");

($user | sub("^(#[^\n]*\n|[ \t]*\n)*"; "")) as $body
| parse("user-data"; $body) as $u
| parse("meta-data"; $meta) as $m
| (if $net == "" then {value: {version: 2}, errors: []} else parse("network-config"; $net) end) as $n
| ($u.value.nixvm // {}) as $x
| ($u.value.hostname // $m.value["local-hostname"]) as $hostname
| list($x.accounts) as $accounts
| ($n.value.ethernets // {}) as $nics
| ($image | json_or_null // {}) as $img
| ($u.errors + $m.errors + $n.errors) as $broken
| (if ($broken | length) > 0 then $broken else [
    check(($u.value.nixvm | type) == "object"; "user-data has no object nixvm"),
    check($x.contract == 1; "nixvm.contract is \($x.contract | show), this guest knows 1"),
    check(($x.rootMode | type) == "string" and (list($img.rootModes) | index($x.rootMode) != null);
      "nixvm.rootMode is \($x.rootMode | show), this image can do \(list($img.rootModes) | join(", "))"),
    check($hostname | clean and test("^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(\\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$");
      "hostname \($hostname | show) is not a host name"),
    ($x.persist | if . == null then empty else
      check(type == "object" and (.mount | clean) and (.fs | clean) and (.label | clean and test("^[A-Za-z0-9_.-]{1,16}$"));
        "nixvm.persist \(show) needs mount, fs and a label of 1 to 16 letters, digits, '_', '.' or '-'") end),
    check(($x.persist.label // "") != "nixvm-formatting"; "nixvm.persist.label nixvm-formatting is reserved"),
    ($x.identity.machineId | check(. == null or (clean and test("^[0-9a-f]{32}$") and . != "0" * 32); "nixvm.identity.machineId \(show) is not 32 hexadecimal digits")),
    ($x.identity.sshHostKey | check(. == null or (type == "string" and startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")); "nixvm.identity.sshHostKey is not an OpenSSH private key")),
    check($x.rootPasswordHash | hash; "nixvm.rootPasswordHash is not a crypt(3) hash"),
    check(($accounts | type) == "array"; "nixvm.accounts is not a list"),
    ($accounts | if type == "array" then . else [] end | to_entries[] | "nixvm.accounts[\(.key)]" as $at | .value
      | check(.name | clean and test("^[a-z_][a-z0-9_-]{0,30}$"); "\($at).name \(.name | show) is not an account name"),
        check(.role == "admin" or .role == "user"; "\($at).role is \(.role | show), allowed are admin and user"),
        check(.passwordHash | hash; "\($at).passwordHash is not a crypt(3) hash"),
        check(list(.authorizedKeys) | type == "array" and all(clean and test("(^| )(ssh|ecdsa|sk)-[^ ]+ +[A-Za-z0-9+/]+=*( |$)"));
          "\($at).authorizedKeys has an entry that is not an SSH public key")),
    ($accounts | if type == "array" then map(.name) | group_by(.) | map(select(length > 1)[0]) | .[] | "nixvm.accounts has \(show) twice" else empty end),
    (("tcpPorts", "udpPorts") as $k | list($x[$k]) | check(type == "array" and all(port); "nixvm.\($k) \(show) has an entry that is not a port from 1 to 65535")),
    (list($x.dns) | check(type == "array" and all(address); "nixvm.dns \(show) has an entry that is not an IP address")),
    check($n.value.version == 2; "network-config has version \($n.value.version | show), this guest knows 2"),
    ($nics | to_entries[] | "network-config.ethernets.\(.key)" as $at
      | check(.key | test("^[A-Za-z0-9_.-]{1,32}$"); "\($at) is not a usable name"), (.value
      | check((.match.macaddress // "00:00:00:00:00:00") | clean and test("^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$"); "\($at).match.macaddress \(.match.macaddress | show) is not a MAC address"),
        check((.match.name // "x") | clean and test("^[A-Za-z0-9_.*?-]+$"); "\($at).match.name \(.match.name | show) is not an interface name"),
        check(list(.addresses) | type == "array" and all(cidr); "\($at).addresses \(.addresses | show) has an entry that is not ADDRESS/PREFIX"),
        check(list(.routes) | type == "array" and all(type == "object" and (.to == "default" or (.to | cidr)) and (.via | address)); "\($at).routes \(.routes | show) needs entries with to and via"),
        check(list(.nameservers.addresses) | type == "array" and all(address); "\($at).nameservers.addresses has an entry that is not an IP address"),
        check(.mtu == null or (.mtu | type == "number" and . >= 576 and . <= 65535); "\($at).mtu \(.mtu | show) is not from 576 to 65535")))
  ] end) as $errors
| if ($errors | length) > 0 then $errors[] | "error\t" + (explode | map(if . < 32 then 32 else . end) | implode) else
    ["hostname", $hostname],
    ["rootMode", $x.rootMode],
    (if $x.persist == null then ["persist", "none"] else ["persist", $x.persist.mount, $x.persist.fs, $x.persist.label] end),
    (if $x.identity.machineId then ["machineId", $x.identity.machineId] else empty end),
    (if $x.identity.sshHostKey then ["sshHostKey", ($x.identity.sshHostKey | @base64)] else empty end),
    (if $x.rootPasswordHash then ["rootHash", $x.rootPasswordHash] else empty end),
    ($accounts[] | .name as $name | ["account", $name, .role, .passwordHash], (list(.authorizedKeys)[] | ["key", $name, .])),
    (list($x.tcpPorts) | unique[] | ["tcp", .]),
    (list($x.udpPorts) | unique[] | ["udp", .]),
    (list($x.dns)[] | ["dns", .]),
    ($nics | to_entries[] | .key as $id | .value
      | ["nic", $id, .match.macaddress, (.match.name // (if .match.macaddress then null else $id end)), (.dhcp4 == true), (.dhcp6 == true), .mtu],
        (list(.addresses)[] | ["address", $id, .]),
        (list(.routes)[] | ["route", $id, .to, .via, .metric]),
        (list(.nameservers.addresses)[] | ["nameserver", $id, .]))
    | line
  end
