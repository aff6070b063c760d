import { formatProblems, planFleet } from "../../components/plan";
import { base, context, one, problemsOf, sshKey, textsOf } from "./plan-support";

/** Each row: what is wrong, the config, the path of the one problem, and what its text must contain. */
type Row = [what: string, config: unknown, path: string, parts: string[]];

const lan = { networks: { lan: { subnet: "192.168.77.0/24" } } };

const fields: Row[] = [
  [
    "a decimal unit",
    one({ persist: { size: "2GB" } }),
    "fleet.web.persist.size",
    ['"2GB" is not a size', "write 2GiB", "such as 2GiB"],
  ],
  ["a bare size", one({ persist: { size: 20 } }), "fleet.web.persist.size", ["20 is not a size", "write 20GiB"]],
  ["a size of zero", one({ persist: { size: "0GiB" } }), "fleet.web.persist.size", ["is not a size"]],
  ["a negative size", one({ scratch: { size: "-1GiB" } }), "fleet.web.scratch.size", ["is not a size"]],
  ["a tiny volume", one({ persist: { size: "1MiB" } }), "fleet.web.persist.size", ["at least 64MiB"]],
  ["a scratch disk without size", one({ scratch: {} }), "fleet.web.scratch.size", ["is missing"]],
  ["a fraction of a GiB (E-1)", one({ vmDiskSize: 1.5 }), "fleet.web.vmDiskSize", ["1.5 is not a number of GiB"]],
  ["a negative scratch (E-1)", one({ vmDiskSize: -1 }), "fleet.web.vmDiskSize", ["-1 is not a number of GiB"]],
  ["memory in KiB", one({ memory: "70000KiB" }), "fleet.web.memory", ["whole MiB"]],
  ["too little memory", one({ memory: 5 }), "fleet.web.memory", ["5 is not enough memory", "at least 64MiB"]],
  ["memory in words", one({ memory: "plenty" }), "fleet.web.memory", ['"plenty" is not a size', "512MiB"]],
  ["no CPUs", one({ vcpus: 0 }), "fleet.web.vcpus", ["0 is not a number of virtual CPUs", "from 1 to 255"]],
  ["a quoted boolean", one({ running: "yes" }), "fleet.web.running", ['"yes" is not true or false']],
  [
    "an unknown preset",
    one({ preset: "tmplate" }),
    "fleet.web.preset",
    ["did you mean template?", "template, zvm, rollback, workbench, sealed"],
  ],
  [
    "an unknown root mode",
    one({ rootMode: "ro" }),
    "fleet.web.rootMode",
    ["is not a root mode", "readonly, tmpfs, zfs-rollback, persistent"],
  ],
  [
    "an unknown key",
    one({ memroy: "1GiB" }),
    "fleet.web.memroy",
    ["is not a known key, did you mean memory?", "allowed: accounts, "],
  ],
  [
    "an unknown key deep inside",
    one({ persist: { sizes: "1GiB" } }),
    "fleet.web.persist.sizes",
    ["did you mean size?", "fs, label, mount"],
  ],
  [
    "an unknown section",
    { ...base, netwoks: {} },
    "netwoks",
    ["did you mean networks?", "defaults, fleet, groups, hosts, images, networks, rollout"],
  ],
  [
    "a member that the group does not have",
    { ...base, groups: { w: { count: 2, members: { 3: { vcpus: 1 } } } } },
    'groups.w.members["3"]',
    ["is no member of w, which has 2", "numbers from 1 to 2"],
  ],
  ["a scalar as VM", one(5), "fleet.web", ["5 is not a map"]],
  ["a list as fleet", { ...base, fleet: ["web"] }, "fleet", ["this list is not a map"]],
  ["a bad VM name", { ...base, fleet: { Web_1: {} } }, "fleet.Web_1", ["is not a name", "lower-case letters"]],
  ["a name with a dot", { ...base, fleet: { "a.b": {} } }, 'fleet["a.b"]', ["is not a name"]],
  ["a host name in capitals", one({ hostname: "Web" }), "fleet.web.hostname", ['"Web" is not a host name']],
  ["a host name with a dot", one({ hostname: "web.lan" }), "fleet.web.hostname", ["no dots"]],
  ["a long host name", one({ hostname: "a".repeat(64) }), "fleet.web.hostname", ["up to 63"]],
  ["a host name ending in a hyphen", one({ hostname: "web-" }), "fleet.web.hostname", ["is not a host name"]],
  [
    "a network that is none",
    one({ network: "brige:br0" }),
    "fleet.web.network",
    ["is not a network", "bridge:<bridge>"],
  ],
  [
    "a network mode that is none (T-94)",
    one({ network: { mode: "host" } }),
    "fleet.web.network.mode",
    ["nat, bridge, user"],
  ],
  [
    "a privileged port for SSH",
    one({ network: { mode: "user", sshPort: 22 } }),
    "fleet.web.network.sshPort",
    ["from 1024 to 65535"],
  ],
  [
    "a group address as MAC",
    one({ network: { mac: "01:00:5e:00:00:01" } }),
    "fleet.web.network.mac",
    ["is not a MAC address of one NIC", "unicast"],
  ],
  ["a short MAC", one({ identity: { mac: "02:00:00" } }), "fleet.web.identity.mac", ["is not a MAC address"]],
  [
    "a UUID of zeros",
    one({ identity: { uuid: "00000000-0000-0000-0000-000000000000" } }),
    "fleet.web.identity.uuid",
    ["is not a UUID"],
  ],
  [
    "a machine-id with hyphens",
    one({ identity: { machineId: "3f0c8b52-6d0e-8a57-9f3e-1c2d3e4f5a6b" } }),
    "fleet.web.identity.machineId",
    ["32 lower-case hex digits"],
  ],
  ["port 0 (T-101)", one({ tcpPorts: [22, 0] }), "fleet.web.tcpPorts[1]", ["0 is not a port", "from 1 to 65535"]],
  ["port 65536", one({ udpPorts: [65536] }), "fleet.web.udpPorts[0]", ["from 1 to 65535"]],
  ["a port in quotes", one({ tcpPorts: ["22"] }), "fleet.web.tcpPorts[0]", ['"22" is not a port']],
  ["a name as name server", one({ dns: ["one.one.one.one"] }), "fleet.web.dns[0]", ["is not an IP address"]],
  [
    "a path as key",
    one({ adminKeys: ["~/.ssh/id_ed25519.pub"] }),
    "fleet.web.adminKeys[0]",
    ["is not an SSH public key"],
  ],
  [
    "a truncated key",
    one({ userKeys: [sshKey.split(" ").slice(0, 2).join(" ").slice(0, -8)] }),
    "fleet.web.userKeys[0]",
    ["is not an SSH public key"],
  ],
  [
    "a key under a wrong type",
    one({ userKeys: [sshKey.replace("ssh-ed25519", "ssh-rsa")] }),
    "fleet.web.userKeys[0]",
    ["is not an SSH public key"],
  ],
  ["a key of two lines", one({ userKeys: [`${sshKey}\n${sshKey}`] }), "fleet.web.userKeys[0]", ["one line"]],
  ["one key without a list", one({ adminKeys: sshKey }), "fleet.web.adminKeys", ["is not a list"]],
  [
    "an unknown role",
    one({ accounts: [{ name: "a", role: "admn" }] }),
    "fleet.web.accounts[0].role",
    ["did you mean admin?", "admin, user"],
  ],
  [
    "an account without role",
    one({ accounts: [{ name: "a" }] }),
    "fleet.web.accounts[0].role",
    ["is missing", "admin, user"],
  ],
  [
    "an account in capitals",
    one({ accounts: [{ name: "Bob", role: "user" }] }),
    "fleet.web.accounts[0].name",
    ["is not an account name"],
  ],
  ["a duration without unit", one({ gateTimeout: "5" }), "fleet.web.gateTimeout", ["is not a duration", "5m"]],
  [
    "a relative loader",
    one({ firmware: { loader: "ovmf.fd", nvramTemplate: "/v.fd" } }),
    "fleet.web.firmware.loader",
    ["is not an absolute path"],
  ],
  ["half a firmware", one({ firmware: { loader: "/c.fd" } }), "fleet.web.firmware.nvramTemplate", ["is missing"]],
  ["a negative generation", one({ generation: -1 }), "fleet.web.generation", ["is not a generation"]],
  [
    "a mistake in defaults",
    { ...base, defaults: { image: "os", vcpus: "two" }, fleet: { a: {}, b: {} } },
    "defaults.vcpus",
    ['"two" is not'],
  ],
  ["a group without count", { ...base, groups: { w: {} } }, "groups.w.count", ["is missing", "from 0 to 1000"]],
  ["a negative count", { ...base, groups: { w: { count: -1 } } }, "groups.w.count", ["-1 is not a number of VMs"]],
];

const around: Row[] = [
  ["no image", { images: base.images, fleet: { web: {} } }, "fleet.web.image", ["is missing", "one of os"]],
  ["no image anywhere", { fleet: { web: {} } }, "fleet.web.image", ["is missing", "still empty"]],
  [
    "an unknown image",
    one({ image: "oss" }),
    "fleet.web.image",
    ["is not an image of nixvm:images, did you mean os?", "allowed: os"],
  ],
  [
    "an unknown image in defaults",
    { ...base, defaults: { image: "oss" }, fleet: { a: {}, b: {} } },
    "defaults.image",
    ["did you mean os?"],
  ],
  ["an unknown host", one({ host: "lokal" }), "fleet.web.host", ["did you mean local?"]],
  [
    "an open host",
    one({}, { hosts: { a: {}, b: { uri: "qemu+ssh://b/system" } } }),
    "fleet.web.host",
    ["there is more than one host", "a, b"],
  ],
  [
    "an unknown network",
    one({ network: "nat:lam" }, lan),
    "fleet.web.network",
    ["is not a network of nixvm:networks, did you mean lan?", "default, lan"],
  ],
  ["an image without source", { ...base, images: { os: {} } }, "images.os", ["has no path, url, flake or digest"]],
  [
    "an image with two sources",
    { ...base, images: { os: { path: "a.qcow2", url: "https://x/a.qcow2", sha256: "0".repeat(64) } } },
    "images.os.url",
    ["stands beside path"],
  ],
  [
    "a download without digest",
    { ...base, images: { os: { url: "https://x.example/a.qcow2" } } },
    "images.os.sha256",
    ["is missing", "needed with a url"],
  ],
  [
    "a short digest",
    { ...base, images: { os: { path: "a.qcow2", sha256: "abc" } } },
    "images.os.sha256",
    ["is not a SHA-256 digest"],
  ],
  [
    "a file of unknown format",
    { ...base, images: { os: { path: "a.vmdk" } } },
    "images.os.format",
    ["the file's name does not tell it", "qcow2, raw"],
  ],
  [
    "a network with host bits",
    { ...base, networks: { lan: { subnet: "192.168.77.1/24" } } },
    "networks.lan.subnet",
    ["write 192.168.77.0/24"],
  ],
  ["a network without subnet", { ...base, networks: { lan: {} } }, "networks.lan.subnet", ["is missing"]],
  [
    "overlapping networks",
    { ...base, networks: { a: { subnet: "10.0.0.0/16" }, b: { subnet: "10.0.5.0/24" } } },
    "networks.b.subnet",
    ["shares addresses with network a (10.0.0.0/16)"],
  ],
  [
    "two networks on one bridge",
    { ...base, networks: { a: { subnet: "10.0.0.0/24", bridge: "x" }, b: { subnet: "10.0.1.0/24", bridge: "x" } } },
    "networks.b.bridge",
    ["is the bridge of network a too"],
  ],
  [
    "two networks that are one in libvirt",
    { ...base, networks: { a: { create: false, name: "x" }, b: { create: false, name: "x" } } },
    "networks.b.name",
    ["is libvirt's name of network a too"],
  ],
  [
    "an address on an existing network without subnet",
    one({ network: { network: "lan", address: "10.0.0.9" } }, { networks: { lan: { create: false } } }),
    "fleet.web.network.address",
    ["the subnet of network lan is not known", "a subnet in networks.lan"],
  ],
  [
    "an existing pool without path",
    { ...base, hosts: { h: { pool: { create: false } } } },
    "hosts.h.pool.path",
    ["is missing", "existing pool"],
  ],
  ["two hosts that are one", { ...base, hosts: { a: {}, b: {} } }, "hosts.b.pool.name", ["is the pool of host a too"]],
  ["a bad URI", { ...base, hosts: { h: { uri: "libvirt" } } }, "hosts.h.uri", ["is not a libvirt URI"]],
  [
    "an address outside",
    one({ network: { network: "lan", address: "192.168.78.5" } }, lan),
    "fleet.web.network.address",
    ['"192.168.78.5" is outside the network 192.168.77.0/24', "192.168.77.2 to 192.168.77.254"],
  ],
  [
    "the gateway",
    one({ network: { network: "lan", address: "192.168.77.1" } }, lan),
    "fleet.web.network.address",
    ["is the gateway"],
  ],
  [
    "the network address",
    one({ network: { network: "lan", address: "192.168.77.0" } }, lan),
    "fleet.web.network.address",
    ["is the address of the network"],
  ],
  [
    "the broadcast address",
    one({ network: { network: "lan", address: "192.168.77.255" } }, lan),
    "fleet.web.network.address",
    ["is the broadcast address"],
  ],
  [
    "an address that is none",
    one({ network: { network: "lan", address: "192.168.77.300" } }, lan),
    "fleet.web.network.address",
    ["is not an IPv4 address"],
  ],
  [
    "an address on a network of which nothing is known",
    one({ network: { address: "192.168.122.9" } }),
    "fleet.web.network.address",
    ["the subnet of network default is not known", "create: false"],
  ],
  [
    "no address where there is no DHCP",
    one({ network: "nat:lan" }, { networks: { lan: { subnet: "10.0.0.0/24", dhcp: false } } }),
    "fleet.web.network.address",
    ["is missing", "no DHCP", "10.0.0.2 to 10.0.0.254"],
  ],
  [
    "a network of another host",
    one(
      { host: "a", network: "nat:lan" },
      { hosts: { a: {}, b: { uri: "qemu+ssh://b/system" } }, networks: { lan: { host: "b", subnet: "10.0.0.0/24" } } },
    ),
    "fleet.web.network",
    ["is a network of host b"],
  ],
  [
    "two VMs with one address",
    {
      ...base,
      ...lan,
      fleet: {
        a: { network: { network: "lan", address: "192.168.77.9" } },
        b: { network: { network: "lan", address: "192.168.77.9" } },
      },
    },
    "fleet.b.network.address",
    ["of two VMs, a and b"],
  ],
  [
    "two VMs with one MAC",
    { ...base, fleet: { a: { network: { mac: "02:00:00:00:00:0A" } }, b: { identity: { mac: "02:00:00:00:00:0a" } } } },
    "fleet.b.identity.mac",
    ["the MAC address of two VMs, a and b"],
  ],
  [
    "two VMs with one host name",
    { ...base, fleet: { a: { hostname: "x" }, b: { hostname: "x" } } },
    "fleet.b.hostname",
    ['"x" is the host name of two VMs, a and b'],
  ],
  [
    "a host name that is another VM's name",
    { ...base, fleet: { a: { hostname: "b" }, b: {} } },
    "fleet.b.hostname",
    ["the host name of two VMs, a and b"],
  ],
  [
    "a host name for a whole group",
    { ...base, groups: { w: { count: 3, hostname: "x" } } },
    "groups.w.hostname",
    ["of two VMs, w-1 and w-2"],
  ],
  [
    "two VMs with one UUID",
    {
      ...base,
      defaults: { ...base.defaults, identity: { uuid: "3f0c8b52-6d0e-8a57-9f3e-1c2d3e4f5a6b" } },
      fleet: { a: {}, b: {} },
    },
    "defaults.identity.uuid",
    ["the UUID of two VMs"],
  ],
  [
    "two VMs with one machine-id",
    {
      ...base,
      defaults: { ...base.defaults, identity: { machineId: "8c1f0e6d2b3a4c5d9e7f80123456789a" } },
      fleet: { a: {}, b: {} },
    },
    "defaults.identity.machineId",
    ["the machine-id of two VMs"],
  ],
  [
    "two VMs on one SSH port",
    { ...base, fleet: { a: { network: { sshPort: 2222 } }, b: { network: { sshPort: 2222 } } } },
    "fleet.b.network.sshPort",
    ["2222 is the SSH port of two VMs", "set network.sshPort"],
  ],
  [
    "two MACs for one VM",
    one({ network: { mac: "02:00:00:00:00:01" }, identity: { mac: "02:00:00:00:00:02" } }),
    "fleet.web.identity.mac",
    ["differs from network.mac"],
  ],
  [
    "a member named like a VM",
    { ...base, fleet: { "w-2": {} }, groups: { w: { count: 2 } } },
    "groups.w.count",
    ["has a member w-2, and fleet has a VM of that name"],
  ],
  [
    "a group named like a VM",
    { ...base, fleet: { w: {} }, groups: { w: { count: 2 } } },
    "groups.w",
    ["the name of a group and of a VM"],
  ],
  [
    "a group whose members have long names",
    { ...base, groups: { ["w".repeat(62)]: { count: 1 } } },
    `groups.${"w".repeat(62)}`,
    ["is too long", "64 characters"],
  ],
  [
    "a system account",
    one({ accounts: [{ name: "root", role: "admin", authorizedKeys: [sshKey] }] }),
    "fleet.web.accounts[0].name",
    ["is an account of the system", "rootPasswordHash"],
  ],
  [
    "an account given twice",
    one({
      accounts: [
        { name: "a", role: "user" },
        { name: "a", role: "admin" },
      ],
    }),
    "fleet.web.accounts[1].name",
    ["is used twice"],
  ],
];

describe.each([
  ["fields", fields],
  ["references and pairs", around],
])("a mistake in %s is the one problem reported, at its path (G-4)", (_, rows) => {
  test.each(rows)("%s", (_what, config, path, parts) => {
    const problems = problemsOf(config);
    // A clash of names is also a clash of host names: both are said.
    const own = problems.filter(
      (problem) => !(problem.path.endsWith(".hostname") && path.startsWith("groups.w.count")),
    );
    expect(own.map((problem) => problem.path)).toEqual([path]);
    for (const part of parts) expect(textsOf(config).join("\n")).toContain(part);
  });
});

test("all mistakes are reported together, and one mistake once", () => {
  const config = {
    images: { os: { path: "os.qcow2" } },
    netwoks: {},
    defaults: { image: "oss" },
    fleet: { a: { memory: "2GB", vcpus: 0 }, b: { persist: false }, c: { hostname: "b" } },
    groups: { w: { count: 2, preset: "zvn" } },
  };
  expect(problemsOf(config).map((problem) => problem.path)).toEqual([
    "fleet.a.memory",
    "fleet.a.vcpus",
    "groups.w.preset",
    "netwoks",
    "defaults.image",
    "fleet.b.persist",
    "fleet.c.hostname",
  ]);
  expect(formatProblems(problemsOf(config))).toContain(
    "The stack file has 7 mistakes; nothing was changed:\n  - fleet.a.memory: ",
  );
  expect(formatProblems([])).toBe("");
});

test("no secret is ever shown, whatever is wrong with it and wherever it was put (G-5)", () => {
  const secret = "correct horse battery";
  const hash = "$y$j9T$abcdefghijklmnop$qrstuvwxyz";
  const configs = [
    one({ rootPasswordHash: secret }),
    one({ rootPaswordHash: secret }),
    one({ accounts: [{ name: "a", role: "user", passwordHash: secret }] }),
    one({ accounts: [{ name: "a", role: "user", pasword: secret }] }),
    one({ hostname: hash, adminKeys: [hash, "-----BEGIN OPENSSH PRIVATE KEY-----\ncorrect horse battery"] }),
    one({ rootPasswordHash: [secret] }),
  ];
  for (const config of configs) {
    const result = planFleet(config, context);
    expect(result.ok).toBe(false);
    expect(JSON.stringify(result)).not.toContain(secret);
    expect(JSON.stringify(result)).not.toContain(hash);
  }
  expect(textsOf(configs[0])[0]).toContain("[secret] is not a password hash");
});

test("a stack whose name cannot begin a file name is refused", () => {
  expect(textsOf(base, { stack: "a".repeat(101) })[0]).toContain("cannot begin the names of files and domains");
});

test("a pool needs a place", () => {
  const texts = textsOf(base, { defaults: {} });
  expect(texts).toEqual([expect.stringContaining("hosts.local.pool.path: is missing")]);
});
