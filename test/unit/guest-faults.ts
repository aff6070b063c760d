// Seeds with one fault each, and what the guest says of them.
import { sshKey } from "./plan-support";

/** A seed with nearly everything in it, of which the table below changes single values. */
const good = () => ({
  user: {
    hostname: "web",
    nixvm: {
      contract: 1,
      rootMode: "tmpfs",
      rootSizeBytes: 1048576,
      home: { mode: "tmpfs", sizeBytes: 2e9 },
      persist: { mount: "/persist", fs: "ext4", label: "data" },
      scratch: { nixOverlay: true },
      identity: { machineId: "0123456789abcdef".repeat(2), hostId: "0badcafe", sshHostKey: HOST_KEY },
      update: { mode: "pull", flake: "github:o/r#h" },
      allowlist: { directories: [listed("/srv/a"), listed("/srv/a/b")], files: [listed("/opt/f")] },
      accounts: [
        { name: "ann", role: "admin", authorizedKeys: [`restrict,command="/bin/x é" ${sshKey}`], passwordHash: "$y$a" },
        { name: "ben", role: "user" },
      ],
      rootPasswordHash: "*",
      tcpPorts: [8080, 22, 22],
      udpPorts: [53],
      dns: ["9.9.9.9", "2620:fe::fe"],
    },
  },
  meta: { "local-hostname": "web" },
  net: {
    version: 2,
    ethernets: {
      lan0: {
        match: { macaddress: "02:00:00:00:00:0A" },
        addresses: ["192.168.77.10/24", "fd00::2/64"],
        routes: [{ to: "10.0.0.0/8", via: "192.168.77.2", metric: 50 }],
        nameservers: { addresses: ["192.168.77.1"] },
        dhcp6: true,
        mtu: 1400,
      },
      "eth1.5": {},
    },
  },
});
export const HOST_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
const listed = (path: string) => ({
  path,
  user: "root",
  group: "root",
  mode: "0755",
  how: "bindmount",
  inInitrd: false,
});

type Change = Record<string, unknown>;
/** The seed with other values at some places; `undefined` takes one out. */
export function changed(change: Change): [string, string, string] {
  const seed = good();
  for (const [where, value] of Object.entries(change)) {
    const names = where.split("/");
    const holder = names
      .slice(0, -1)
      .reduce((at, name) => at[name] as Record<string, unknown>, seed as Record<string, unknown>);
    holder[names.at(-1)!] = value;
  }
  return [`#cloud-config\n${JSON.stringify(seed.user)}`, JSON.stringify(seed.meta), JSON.stringify(seed.net)];
}

const long = "x".repeat(70);
const vm = "user/nixvm";
const list = "user/nixvm/allowlist";
const nic = "net/ethernets/lan0";
const keptPath = "is not an absolute path without '.', '..', '//' or control characters";
export const faults: [Change, ...string[]][] = [
  [{ [`${vm}/contract`]: 2 }, "nixvm.contract is 2, this guest knows 1"],
  [{ [`${vm}/contract`]: "1" }, 'nixvm.contract is "1", this guest knows 1'],
  [
    { [`${vm}/rootMode`]: "ram" },
    'nixvm.rootMode is "ram", this image can do readonly, tmpfs, persistent, zfs-rollback',
  ],
  [{ "user/hostname": "we b" }, 'hostname "we b" is not a host name'],
  [{ "user/hostname": `a.${"b".repeat(64)}` }, `hostname "a.${"b".repeat(54)}… is not a host name`],
  [{ "user/hostname": "a..b" }, 'hostname "a..b" is not a host name'],
  [{ "user/hostname": undefined, "meta/local-hostname": undefined }, "hostname null is not a host name"],
  [
    { [`${vm}/persist/label`]: "x".repeat(17) },
    `nixvm.persist {"mount":"/persist","fs":"ext4","label":"xxxxxxxxxxxxxxxxx"} needs mount, fs and a label of 1 to 16 letters, digits, '_', '.' or '-'`,
  ],
  [{ [`${vm}/persist/mount`]: "/data" }, 'nixvm.persist.mount is "/data", allowed are /var and /persist'],
  [{ [`${vm}/persist/fs`]: "zfs" }, 'nixvm.persist.fs is "zfs": root mode zfs-rollback has zfs, all others ext4'],
  [
    { [`${vm}/rootMode`]: "zfs-rollback", [`${vm}/persist/fs`]: "zfs", [`${vm}/identity/hostId`]: null },
    "nixvm.rootMode zfs-rollback needs persist.fs zfs and identity.hostId",
  ],
  [{ [`${vm}/rootMode`]: "readonly" }, 'nixvm.persist.mount is "/persist", root mode readonly needs /var'],
  [{ [`${vm}/persist/label`]: "nixvm-formatting" }, "nixvm.persist.label nixvm-formatting is reserved"],
  [{ [`${vm}/persist`]: null }, "nixvm.allowlist has entries, but there is no persistent disk to keep them on"],
  [{ [`${vm}/identity`]: "x" }, "nixvm.identity is not an object"],
  [
    { [`${vm}/identity/machineId`]: "0".repeat(32) },
    `nixvm.identity.machineId "${"0".repeat(32)}" is not 32 hexadecimal digits`,
  ],
  [
    { [`${vm}/identity/machineId`]: "F".repeat(32) },
    `nixvm.identity.machineId "${"F".repeat(32)}" is not 32 hexadecimal digits`,
  ],
  [{ [`${vm}/identity/hostId`]: "badcafe" }, 'nixvm.identity.hostId "badcafe" is not 8 hexadecimal digits'],
  [{ [`${vm}/identity/sshHostKey`]: "secret" }, "nixvm.identity.sshHostKey is not an OpenSSH private key"],
  [{ [`${vm}/rootSizeBytes`]: 1048575 }, "nixvm.rootSizeBytes 1048575 is not a number of bytes"],
  [{ [`${vm}/rootSizeBytes`]: 2e6 + 0.5 }, "nixvm.rootSizeBytes 2000000.5 is not a number of bytes"],
  [
    { [`${vm}/home`]: { mode: "ram" } },
    'nixvm.home {"mode":"ram"} needs a mode, tmpfs or persistent, and a size in bytes or none',
  ],
  [
    { [`${vm}/home/sizeBytes`]: "4G" },
    'nixvm.home {"mode":"tmpfs","sizeBytes":"4G"} needs a mode, tmpfs or persistent, and a size in bytes or none',
  ],
  [{ [`${vm}/scratch`]: false }, "nixvm.scratch false is not an object with nixOverlay true or false"],
  [
    { [`${vm}/scratch/nixOverlay`]: 1 },
    'nixvm.scratch {"nixOverlay":1} is not an object with nixOverlay true or false',
  ],
  [
    { [`${vm}/update`]: { mode: "pull", flake: "a b" } },
    'nixvm.update {"mode":"pull","flake":"a b"} needs a mode, image or pull, a flake without spaces or none, and everySeconds of 60 or more',
  ],
  [
    { [`${vm}/update`]: { mode: "pull", everySeconds: 59 } },
    'nixvm.update {"mode":"pull","everySeconds":59} needs a mode, image or pull, a flake without spaces or none, and everySeconds of 60 or more',
  ],
  [{ [list]: [] }, "nixvm.allowlist [] is not an object"],
  [
    { [`${list}/links`]: [], [`${list}/\u0000`]: [] },
    "nixvm.allowlist has links,  , allowed are directories and files with absolute paths",
  ],
  [{ [`${list}/files`]: {} }, "nixvm.allowlist.files is not a list"],
  [{ [`${list}/files/0`]: "/x" }, "nixvm.allowlist.files[0] is not an object"],
  ...["srv", "/srv/", "/srv//a", "/srv/..", "/./x", "/srv/a\u0000", "/srv/a\n"].map((path): [Change, string] => [
    { [`${list}/files/0/path`]: path },
    `nixvm.allowlist.files[0].path ${JSON.stringify(path)} ${keptPath}`,
  ]),
  ...["/nix/a", "/run", "/etc", "/home/ann", "/etc/ssh", "/etc/machine-id"].map((path): [Change, string] => [
    { [`${list}/files/0/path`]: path },
    `nixvm.allowlist.files[0].path "${path}" is the image's, the boot's or kept with the identity: it cannot be kept by a list`,
  ]),
  [
    { [`${vm}/persist/mount`]: "/var", [`${list}/files/0/path`]: "/var/x" },
    'nixvm.allowlist.files[0].path "/var/x" is on the persistent disk itself',
  ],
  [{ [`${list}/files/0/user`]: "a:b" }, 'nixvm.allowlist.files[0].user "a:b" is not a user name'],
  [
    { [`${list}/files/0/group`]: "x".repeat(33) },
    `nixvm.allowlist.files[0].group "${"x".repeat(33)}" is not a group name`,
  ],
  [{ [`${list}/files/0/mode`]: "755" }, 'nixvm.allowlist.files[0].mode "755" is not four octal digits'],
  [{ [`${list}/files/0/how`]: "copy" }, 'nixvm.allowlist.files[0].how is "copy", allowed are bindmount and symlink'],
  [{ [`${list}/files/0/inInitrd`]: "true" }, 'nixvm.allowlist.files[0].inInitrd "true" is not true or false'],
  [
    { [`${list}/files/0/path`]: "/srv/a" },
    'nixvm.allowlist has "/srv/a" twice',
    'nixvm.allowlist has "/srv/a/b" below "/srv/a", which is listed as a file',
  ],
  [
    { [`${list}/files/0/path`]: "/srv/a/b/c/d", [`${list}/files/0/how`]: "symlink" },
    ...["/srv/a", "/srv/a/b"].map(
      (upper) =>
        `nixvm.allowlist has "/srv/a/b/c/d" below "${upper}": one of them is a link, both have to be bind mounts`,
    ),
  ],
  [{ [`${vm}/rootPasswordHash`]: "secret" }, "nixvm.rootPasswordHash is not a crypt(3) hash"],
  [{ [`${vm}/accounts`]: {} }, "nixvm.accounts is not a list"],
  [{ [`${vm}/accounts/0/name`]: "Ann" }, 'nixvm.accounts[0].name "Ann" is not an account name'],
  [{ [`${vm}/accounts/0/name`]: "ben" }, 'nixvm.accounts has "ben" twice'],
  [
    { [`${vm}/accounts/1`]: "ben" },
    "nixvm.accounts[1].name null is not an account name",
    "nixvm.accounts[1].role is null, allowed are admin and user",
  ],
  [{ [`${vm}/accounts/0/role`]: "root" }, 'nixvm.accounts[0].role is "root", allowed are admin and user'],
  [{ [`${vm}/accounts/0/passwordHash`]: "$y$a:0" }, "nixvm.accounts[0].passwordHash is not a crypt(3) hash"],
  ...[`${sshKey}\n`, "ssh-ed25519", "ssh-ed25519 A\\A", 5].map((bad): [Change, string] => [
    { [`${vm}/accounts/0/authorizedKeys`]: [sshKey, bad] },
    "nixvm.accounts[0].authorizedKeys has an entry that is not an SSH public key",
  ]),
  [{ [`${vm}/tcpPorts`]: [22, 65536] }, "nixvm.tcpPorts [22,65536] has an entry that is not a port from 1 to 65535"],
  [{ [`${vm}/udpPorts`]: [1.5] }, "nixvm.udpPorts [1.5] has an entry that is not a port from 1 to 65535"],
  [{ [`${vm}/udpPorts`]: 53 }, "nixvm.udpPorts 53 has an entry that is not a port from 1 to 65535"],
  [{ [`${vm}/dns`]: ["9.9.9"] }, 'nixvm.dns ["9.9.9"] has an entry that is not an IP address'],
  [{ "net/version": 1 }, "network-config has version 1, this guest knows 2"],
  [{ "net/ethernets": [1] }, "network-config.ethernets is not an object"],
  [{ "net/ethernets": { "a\nb": {} } }, "network-config.ethernets.a b is not a usable name"],
  [{ "net/ethernets": { "eth0\n": {} } }, "network-config.ethernets.eth0  is not a usable name"],
  [{ "net/ethernets": { ["x".repeat(33)]: {} } }, `network-config.ethernets.${"x".repeat(33)} is not a usable name`],
  [{ [nic]: "x" }, "network-config.ethernets.lan0 is not an object"],
  [{ [`${nic}/match`]: "x" }, "network-config.ethernets.lan0.match is not an object"],
  [
    { [`${nic}/match/macaddress`]: "02:00" },
    'network-config.ethernets.lan0.match.macaddress "02:00" is not a MAC address',
  ],
  [{ [`${nic}/match/name`]: "a b" }, 'network-config.ethernets.lan0.match.name "a b" is not an interface name'],
  ...["10.0.0.0/1x", "10.0.0.0/1234", "10.0.0.0/8/8", "x/8", "/8"].map((bad): [Change, string] => [
    { [`${nic}/addresses`]: ["10.0.0.1/8", bad] },
    `network-config.ethernets.lan0.addresses ["10.0.0.1/8","${bad}"] has an entry that is not ADDRESS/PREFIX`,
  ]),
  [
    { [`${nic}/addresses`]: ["10.0.0.1"] },
    'network-config.ethernets.lan0.addresses ["10.0.0.1"] has an entry that is not ADDRESS/PREFIX',
  ],
  [
    { [`${nic}/routes/0/via`]: null },
    'network-config.ethernets.lan0.routes [{"to":"10.0.0.0/8","via":null,"metric":50}] needs entries with to and via',
  ],
  [
    { [`${nic}/routes/0/metric`]: "1\nrootHash\t*" },
    'network-config.ethernets.lan0.routes[0].metric "1\\nrootHash\\t*" is not a whole number',
  ],
  [{ [`${nic}/nameservers`]: [1] }, "network-config.ethernets.lan0.nameservers is not an object"],
  [
    { [`${nic}/nameservers/addresses`]: ["x"] },
    "network-config.ethernets.lan0.nameservers.addresses has an entry that is not an IP address",
  ],
  [{ [`${nic}/mtu`]: 500 }, "network-config.ethernets.lan0.mtu 500 is not from 576 to 65535"],
  // what the text of a fault does to a value: cut by characters and not by bytes, and never more than one line
  [{ "user/hostname": "é".repeat(58) }, `hostname "${"é".repeat(58)}" is not a host name`],
  [{ "user/hostname": "😀".repeat(59) }, `hostname "${"😀".repeat(56)}… is not a host name`],
  [
    { "user/hostname": '\u0000\u0001\b\f\n\r\t"\\/\u007f' },
    String.raw`hostname "\u0000\u0001\b\f\n\r\t\"\\/\u007f" is not a host name`,
  ],
  [
    { "user/hostname": { a: [null, true, { "b\n": [] }], c: -1.5 } },
    String.raw`hostname {"a":[null,true,{"b\n":[]}],"c":-1.5} is not a host name`,
  ],
  [
    { "user/hostname": JSON.parse("[".repeat(250) + "]".repeat(250)) as unknown },
    `hostname ${"[".repeat(57)}… is not a host name`,
  ],
  [{ "user/hostname": { [long]: 1 } }, `hostname {"${long.slice(0, 55)}… is not a host name`],
];
