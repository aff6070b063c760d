// What the guest makes of a seed (nix/guest/seed.awk): lines of a plan, or all its faults.
import fc from "fast-check";
import { identityOf, hostKeyOf, PRESETS, seedFiles, type VmPlan } from "../../components/plan";
import { awkOutput, AWKS } from "./guest-awk";
import { changed, faults, HOST_KEY } from "./guest-faults";
import { Sandbox } from "./guest-sandbox";
import { one, sshKey, vmOf } from "./plan-support";

let box: Sandbox;
beforeAll(() => (box = new Sandbox()));
afterAll(() => box.done());

const IMAGE = '{"rootModes":["readonly","tmpfs","persistent","zfs-rollback"]}';
const NAMES = ["user-data", "meta-data", "network-config", "image.json"];
function linesOf(awk: string, ...texts: (string | Buffer)[]): string[] {
  NAMES.forEach((name, at) => box.write(`seed/${name}`, texts[at]! as string));
  const files = NAMES.map((name) => box.path(`seed/${name}`));
  const out = awkOutput(awk, ["json.awk", "plan.awk", "seed.awk"], files);
  return out.split("\n").slice(0, -1);
}

const key = "0123456789abcdef".repeat(4);
const identity = identityOf(key, "web");
const hostKey = hostKeyOf(key, "web");

/** The lines that are due, from what the planner wants and not from the seed. */
function due(vm: VmPlan): string[] {
  const lines: (string | number | boolean | null)[][] = [
    ["hostname", vm.hostname],
    ["rootMode", vm.rootMode],
    ["home", vm.home.mode, vm.home.mode === "tmpfs" ? vm.home.sizeBytes : null],
  ];
  if (vm.scratch) lines.push(["scratch", vm.scratch.nixOverlay]);
  if (vm.rootMode === "zfs-rollback") lines.push(["hostId", identity.hostId]);
  if (vm.update.mode === "pull") lines.push(["update", "pull", vm.update.flake, vm.update.everySeconds]);
  lines.push(vm.persist ? ["persist", vm.persist.mount, vm.persist.fs, vm.persist.label] : ["persist", "none"]);
  lines.push(["machineId", identity.machineId]);
  if (vm.identity.sshHostKey === "stack")
    lines.push(["sshHostKey", Buffer.from(hostKey.privateKey).toString("base64")]);
  for (const kind of ["directory", "file"] as const)
    for (const entry of vm.allowlist[kind === "file" ? "files" : "directories"])
      lines.push(["allow", kind, entry.path, entry.user, entry.group, entry.mode, entry.how, entry.inInitrd]);
  if (vm.rootPasswordHash) lines.push(["rootHash", vm.rootPasswordHash]);
  for (const { name, role, passwordHash, authorizedKeys } of vm.accounts)
    lines.push(["account", name, role, passwordHash], ...authorizedKeys.map((each) => ["key", name, each]));
  lines.push(...vm.tcpPorts.map((port) => ["tcp", port]), ...vm.udpPorts.map((port) => ["udp", port]));
  lines.push(...vm.dns.map((address) => ["dns", address]));
  const address = vm.network.mode === "nat" ? vm.network.address : null;
  lines.push(["nic", "nic0", identity.mac, null, address === null, false, null]);
  if (address !== null) {
    lines.push(["address", "nic0", `${address.ip}/${address.prefixLength}`]);
    if (address.gateway !== null) lines.push(["route", "nic0", "default", address.gateway, null]);
    lines.push(...vm.dns.map((each) => ["nameserver", "nic0", each]));
  }
  return lines.map((fields) => fields.map((field) => field ?? "-").join("\t"));
}

const file = fc.stringMatching(/^[a-z.]{0,3}[A-Za-zé0-9 _\\$"'-]{1,8}$/);
const owner = fc.record(
  {
    user: fc.constantFrom("root", "ann"),
    group: fc.constantFrom("root", "users"),
    mode: fc.constantFrom("0700", "1777"),
  },
  { requiredKeys: [] },
);
const allowlist = fc.record(
  {
    directories: fc.uniqueArray(fc.tuple(file, owner), { maxLength: 4, selector: ([name]) => name }),
    files: fc.uniqueArray(fc.tuple(file, owner), { maxLength: 3, selector: ([name]) => name }),
  },
  { requiredKeys: [] },
);
const sshKeys = fc.array(
  fc.stringMatching(/^[ -~]{0,20}$/).map((comment) => `${sshKey} ${comment}`.trim()),
  { maxLength: 3 },
);
const common = {
  hostname: fc.stringMatching(/^[a-z]([a-z0-9-]{0,20}[a-z0-9])?$/),
  tcpPorts: fc.uniqueArray(fc.integer({ min: 1, max: 65535 }), { maxLength: 8 }),
  udpPorts: fc.uniqueArray(fc.integer({ min: 1, max: 65535 }), { maxLength: 3 }),
  adminKeys: sshKeys.filter((list) => list.length > 0),
  userKeys: sshKeys,
  rootPasswordHash: fc.stringMatching(/^\$6\$[./A-Za-z0-9]{8,20}$/),
  dns: fc.array(fc.oneof(fc.ipV4(), fc.ipV6()), { maxLength: 2 }),
  network: fc.constantFrom<unknown>("nat", "user", "bridge:br0", { network: "lan", address: "192.168.77.10" }),
  vmDiskSize: fc.constantFrom(0, 5),
  identity: fc.constantFrom({ sshHostKey: "guest" }, { sshHostKey: "stack" }),
};
const entry = fc.oneof(
  fc.record({ preset: fc.constantFrom(...PRESETS), ...common }, { requiredKeys: ["preset"] }),
  fc.record(
    { preset: fc.constant("sealed"), allowlist, persist: fc.constant({}), ...common },
    { requiredKeys: ["preset", "allowlist", "persist"] },
  ),
);
const lan = { networks: { lan: { subnet: "192.168.77.0/24" } } };

describe.each(AWKS)("%s", (awk) => {
  test("any seed of the planner becomes the lines of its VM", () => {
    fc.assert(
      fc.property(entry, (fields) => {
        const list = "allowlist" in fields ? fields.allowlist : undefined;
        const under =
          (top: string, kind: string) =>
          ([name, said]: [string, object]) => ({ [kind]: `${top}/${name}`, ...said });
        const written = list && {
          directories: list.directories?.map(under("/srv", "directory")),
          files: list.files?.map(under("/opt", "file")),
        };
        const vm = vmOf(one({ ...fields, ...(written ? { allowlist: written } : {}) }, lan));
        const files = seedFiles(vm, identity, hostKey);
        expect(linesOf(awk, files.userData, files.metaData, files.networkConfig, IMAGE)).toEqual(due(vm));
      }),
      { numRuns: 150 },
    );
  });

  test("a seed with everything", () => {
    const [user, meta, net] = changed({});
    expect(linesOf(awk, user, meta, net, IMAGE)).toEqual([
      "hostname\tweb",
      "rootMode\ttmpfs",
      "rootSize\t1048576",
      "home\ttmpfs\t2000000000",
      "scratch\ttrue",
      "hostId\t0badcafe",
      "update\tpull\tgithub:o/r#h\t3600",
      "persist\t/persist\text4\tdata",
      `machineId\t${"0123456789abcdef".repeat(2)}`,
      `sshHostKey\t${Buffer.from(HOST_KEY).toString("base64")}`,
      "allow\tdirectory\t/srv/a\troot\troot\t0755\tbindmount\tfalse",
      "allow\tdirectory\t/srv/a/b\troot\troot\t0755\tbindmount\tfalse",
      "allow\tfile\t/opt/f\troot\troot\t0755\tbindmount\tfalse",
      "rootHash\t*",
      "account\tann\tadmin\t$y$a",
      `key\tann\trestrict,command="/bin/x é" ${sshKey}`,
      "account\tben\tuser\t-",
      "tcp\t22",
      "tcp\t8080",
      "udp\t53",
      "dns\t9.9.9.9",
      "dns\t2620:fe::fe",
      "nic\tlan0\t02:00:00:00:00:0A\t-\tfalse\ttrue\t1400",
      "address\tlan0\t192.168.77.10/24",
      "address\tlan0\tfd00::2/64",
      "route\tlan0\t10.0.0.0/8\t192.168.77.2\t50",
      "nameserver\tlan0\t192.168.77.1",
      "nic\teth1.5\t-\teth1.5\tfalse\tfalse\t-",
    ]);
  });

  test("a host key of any length comes through, byte by byte", () => {
    for (const tail of ["", "x", "xy", "é", "\r\n\t\u007f😀"]) {
      const [user, meta, net] = changed({ "user/nixvm/identity/sshHostKey": HOST_KEY + tail });
      const line = linesOf(awk, user, meta, net, IMAGE).find((each) => each.startsWith("sshHostKey\t"));
      expect(line).toBe(`sshHostKey\t${Buffer.from(HOST_KEY + tail).toString("base64")}`);
    }
  });

  test("a network-config may be missing, numbers and lines may be written in another way, what is null is absent", () => {
    const nixvm = `{"contract":1.0,"rootMode":"tmpfs","persist":null,"scratch":null,"rootSizeBytes":2E9,"tcpPorts":[2.2e1]}`;
    const user = `#cloud-config\n# another\n\n \t\n#\n{"hostname":null,"nixvm":${nixvm}}`;
    const lines = "hostname\tmeta|rootMode\ttmpfs|rootSize\t2000000000|home\tpersistent\t-|persist\tnone|tcp\t22".split(
      "|",
    );
    expect(linesOf(awk, user, '{"local-hostname":"meta"}', "", IMAGE)).toEqual(lines);
    const dos = `#cloud-config\r\n${user.slice(user.indexOf("{")).replaceAll(",", ",\r\n")}\r\n\r`;
    expect(linesOf(awk, dos, '{"local-hostname":"meta"}', "", IMAGE)).toEqual(lines);
  });

  test("every fault is named, with its place and value", () => {
    for (const [change, ...texts] of faults) {
      const [user, meta, net] = changed(change);
      const lines = linesOf(awk, user, meta, net, IMAGE);
      expect([change, lines]).toEqual([change, texts.map((text) => `error\t${text}`)]);
    }
  });

  test("all faults are named at once, each once", () => {
    const seed = `{"hostname":"","nixvm":{"contract":1,"rootMode":"tmpfs","accounts":[5,5],"allowlist":{"files":[{},{"path":"/a"},{"path":"/a"},{"path":"/a/b"},{"path":"/a/b"}]}}}`;
    const lines = linesOf(awk, seed, "{}", '{"version":2,"ethernets":{"a b":{"mtu":1}}}', IMAGE);
    expect(new Set(lines).size).toBe(lines.length);
    for (const part of [
      "hostname",
      "accounts[0].role",
      "accounts[1].role",
      "files[0].path",
      "files[3].how",
      '"/a" twice',
      "a b.mtu",
    ])
      expect(lines.filter((line) => line.startsWith("error\t") && line.includes(part))).toHaveLength(1);
    expect(lines.filter((line) => line.includes('"/a/b" below "/a"'))).toHaveLength(1);
  });

  test("a file that is not JSON is named, and nothing is taken from the others", () => {
    const [user, meta, net] = changed({});
    for (const bad of [
      "",
      "[]",
      "null",
      '"x"',
      "{",
      "{}{}",
      "hostname: web",
      "{}\u0001",
      "\u0001",
      '{"a":"\u0001"}',
      '{"a":"\r"}',
      '{"a":"\u0000"}',
      "{}\u0000{}",
    ])
      expect([bad, linesOf(awk, bad, bad, bad || "-", IMAGE)]).toEqual([
        bad,
        ["user-data", "meta-data", "network-config"].map((name) => `error\t${name} is not a JSON object`),
      ]);
    expect(linesOf(awk, `x${user}`, meta, net, IMAGE)).toEqual(["error\tuser-data is not a JSON object"]);
    expect(linesOf(awk, user, meta, net, "")).toEqual(['error\tnixvm.rootMode is "tmpfs", this image can do ']);
  });

  test("a file that cannot be read is named", () => {
    const args = NAMES.map((name) => box.path(`none/${name}`));
    const out = awkOutput(awk, ["json.awk", "plan.awk", "seed.awk"], args);
    for (const name of args) expect(out).toContain(`error\t${name} cannot be read\n`);
  });
});
