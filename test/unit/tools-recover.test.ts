import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { hostname } from "node:os";
import * as path from "node:path";
import { evaluate, plant, root, scratch } from "./tools-support";

let dir: string;
beforeEach(() => {
  dir = scratch();
});
afterEach(() => {
  fs.rmSync(dir, { recursive: true, force: true });
});

const BOOT = 1_700_000_000;
/** Fields of /proc/<pid>/stat up to the start time, in ticks since boot. */
const stat = (pid: number, state: string, ticks: number): string =>
  `${pid} (pulumi) x) ${state} ${"0 ".repeat(18)}${ticks} 0\n`;

/** A machine that booted at BOOT, on which these processes run. */
function machine(processes: Record<number, { state?: string; seconds: number }>): string {
  const proc = path.join(dir, "proc");
  plant(proc, { stat: `cpu 1\nbtime ${BOOT}\n` });
  for (const [pid, { state = "S", seconds }] of Object.entries(processes))
    plant(proc, { [`${pid}/stat`]: stat(Number(pid), state, seconds * 100) });
  return proc;
}

const lock = (changes: object = {}): object => ({
  pid: 42,
  username: "me",
  hostname: "here",
  timestamp: new Date((BOOT + 1000) * 1000).toISOString(),
  ...changes,
});

describe("the run behind a lock", () => {
  const dead = (it: unknown, processes: Parameters<typeof machine>[0]): boolean =>
    evaluate("recover", "m.isDead(input.it, { host: 'here', proc: input.proc })", { it, proc: machine(processes) });

  it.each<[string, unknown, Parameters<typeof machine>[0], boolean]>([
    ["its process is gone", lock(), { 43: { seconds: 900 } }, true],
    ["its process is a zombie", lock(), { 42: { state: "Z", seconds: 900 } }, true],
    ["its number belongs to a process that began later", lock(), { 42: { seconds: 2000 } }, true],
    ["the host was started since", lock({ timestamp: new Date((BOOT - 3600) * 1000) }), { 42: { seconds: 5 } }, true],
    ["its process runs", lock(), { 42: { seconds: 999 } }, false],
    ["its process runs, and the clock was set back a little", lock(), { 42: { seconds: 1030 } }, false],
    ["it was one of another host", lock({ hostname: "elsewhere" }), {}, false],
    ["it has no process", lock({ pid: undefined }), {}, false],
    ["it has no time", lock({ timestamp: "soon" }), {}, false],
    ["it says nothing", null, {}, false],
  ])("is over or not when %s", (_, it, processes, expected) => {
    expect(dead(it, processes)).toBe(expected);
  });

  it("is not over where processes cannot be seen", () => {
    expect(evaluate("recover", "m.isDead(input, { host: 'here', proc: '/none' })", lock())).toBe(false);
  });
});

describe("what a state has and libvirt has not", () => {
  const provider = "urn:x::pulumi:providers:libvirt::host-local";
  const host = { urn: provider, type: "pulumi:providers:libvirt", id: "p", inputs: { uri: "qemu:///system" } };
  const one = (parent: string, type: string, id: string): object => ({
    urn: `urn:x::nixvm:index:VirtualMachine$${parent}${type}::${id}`,
    type,
    id,
    provider: `${provider}::p`,
    inputs: { pool: "fleet" },
  });
  const volume = "libvirt:index/volume:Volume";
  const state = [
    host,
    one("", "libvirt:index/pool:Pool", "pool"),
    one("nixvm:index:PersistentVolume$", volume, "/pool/web-persist"),
    one("nixvm:index:OverlayDisk$", volume, "/pool/web-overlay"),
    one("nixvm:index:ScratchDisk$", volume, "/pool/web-scratch"),
    one("", "libvirt:index/domain:Domain", "web"),
    one("", "nixvm:index:Guest", "web"),
    one("", "libvirt:index/domain:Domain", "db"),
    one("", "nixvm:index:Guest", "db"),
  ];
  const all = ["pool", "/pool/web-persist", "/pool/web-overlay", "/pool/web-scratch", "web", "db"];
  /** Types and ids found gone when libvirt has all but these. */
  const without = (...missing: string[]): string[] =>
    evaluate(
      "recover",
      "m.vanished(input.state, async (uri) => (uri === 'qemu:///system' ? input.there : undefined)).then((all) => all.map(({ type, id }) => `${type.split(':').at(-1)} ${id}`))",
      { state, there: missing.includes("libvirt") ? undefined : all.filter((id) => !missing.includes(id)) },
    );

  it("is found: a domain, a pool, an overlay", () => {
    expect(without()).toEqual([]);
    expect(without("web")).toEqual(["Domain web"]);
    expect(without("pool", "/pool/web-overlay")).toEqual(["Pool pool", "Volume /pool/web-overlay"]);
  });

  it("is never a volume with data, and none of a pool in which one is away", () => {
    expect(without("/pool/web-persist", "/pool/web-scratch")).toEqual([]);
    expect(without("/pool/web-persist", "/pool/web-overlay", "db")).toEqual(["Domain db"]);
  });

  it("is nothing when libvirt does not answer", () => {
    expect(without("libvirt")).toEqual([]);
  });
});

describe("what a broken-off run has made and its state does not know", () => {
  const provider = "urn:pulumi:dev::fleet::pulumi:providers:libvirt::host-local";
  const state = (pool = true): object[] => [
    { urn: provider, type: "pulumi:providers:libvirt", id: "p", inputs: { uri: "qemu:///system" } },
    {
      urn: "urn:pulumi:dev::fleet::libvirt:index/volume:Volume::x",
      type: "v",
      id: "/the pool/fleet-dev-web-00000000000a-00000001.qcow2",
    },
    ...(pool
      ? [
          {
            urn: "urn:pulumi:dev::fleet::libvirt:index/pool:Pool::pool-local",
            type: "libvirt:index/pool:Pool",
            id: "uuid",
            provider: `${provider}::p`,
            inputs: { name: "fleet-dev" },
          },
        ]
      : []),
  ];
  const volumes = (...names: string[]): string => names.map((name) => ` ${name}   /the pool/${name}`).join("\n");
  /** Names found in a pool, given the XML of its domains. */
  const found = (names: string[], domains = "", resources = state()): string[] =>
    evaluate(
      "recover",
      `m.orphans(input.resources, async (uri, ...commands) => {
        const own = (name) => "<key>/the pool/" + name + "</key><path>/the pool/" + name + "</path>";
        const of = (command) =>
          command.startsWith("vol-list") ? input.list
          : command.startsWith("list") ? "1-2-3"
          : command.startsWith("dumpxml") ? input.domains
          : own(command.split(" ").at(-1)) + (command.endsWith("00000002.qcow2") ? "<path>/the pool/fleet-dev-base-00000000000b.qcow2</path>" : "");
        return input.domains === "no answer" && commands[0].startsWith("dumpxml") ? undefined : commands.map(of).join("");
      }).then((all) => all.map(({ name }) => name))`,
      { resources, list: volumes(...names), domains },
    );
  const overlay = "fleet-dev-web-00000000000b-00000003.qcow2";

  it("is an overlay or a base image that nothing uses", () => {
    const base = "fleet-dev-base-00000000000c.raw";
    expect(found([overlay, base, "fleet-dev-web-00000000000a-00000001.qcow2"])).toEqual([overlay, base]);
  });

  it("is a copy of UEFI variables whose volume is gone", () => {
    const copy = "fleet-dev-web-persist-00000000000b-before.nvram";
    expect(found([copy])).toEqual([copy]);
    expect(found([copy, "fleet-dev-web-persist-g2"])).toEqual([copy]);
  });

  it.each([
    [
      "UEFI variables of a volume that is there",
      ["fleet-dev-web-persist", "fleet-dev-web-persist-00000000000b-before.nvram"],
      "",
    ],
    ["the data of a VM", ["fleet-dev-web-persist", "fleet-dev-web-persist-g2", "fleet-dev-web-seed.iso"], ""],
    ["anything of another stack", ["fleet-prod-web-00000000000b-00000003.qcow2"], ""],
    ["anything with a name of somebody's", ["precious.qcow2", "fleet-dev-web-notes.qcow2"], ""],
    ["a disk of a domain", [overlay], `<source file='/the pool/${overlay}'/>`],
    [
      "a base image of an overlay",
      ["fleet-dev-base-00000000000b.qcow2", "fleet-dev-web-00000000000b-00000002.qcow2"],
      "<source file='/the pool/fleet-dev-web-00000000000b-00000002.qcow2'/>",
    ],
    ["anything when libvirt does not say who uses what", [overlay], "no answer"],
    ["anything beside a name that virsh would read as a command", [overlay, "x;undefine"], ""],
  ])("is never taken away: %s", (_, names, domains) => {
    expect(found(names, domains)).toEqual([]);
  });

  it("is not looked for in a pool that others may use", () => {
    expect(found([overlay], "", state(false))).toEqual([]);
  });
});

it("ids are read of lists whose paths hold spaces", () => {
  const list = " a-uuid\n\n name   /the pool/name\n";
  expect(evaluate("recover", "m.idsOf(input)", list)).toEqual(expect.arrayContaining(["a-uuid", "/the pool/name"]));
});

describe("a domain that no state knows", () => {
  const resources = [
    { urn: "urn:pulumi:dev::fleet::pulumi:pulumi:Stack::fleet-dev", type: "pulumi:pulumi:Stack" },
    {
      urn: "urn:pulumi:dev::fleet::nixvm:index:Guest::web-guest",
      type: "nixvm:index:Guest",
      id: "1",
      inputs: { uri: "qemu:///system" },
    },
  ];
  const domain = (description: string, disks = ""): string =>
    `<domain><name>fleet-dev-db</name><description>${description}</description><devices>${disks}</devices></domain>`;
  const found = (xml: string, uuid = "2"): string[] =>
    evaluate(
      "recover",
      `m.orphanDomains(input.resources, async (uri, command) => command.startsWith("list") ? "1\\n" + input.uuid + "\\n" : input.xml)
        .then((all) => all.map(({ uri, uuid, name }) => uri + " " + uuid + " " + name))`,
      { resources, uuid, xml },
    );

  it("is the stack's own when it says so and never had a disk to boot from", () => {
    expect(found(domain("nixvm fleet-dev", "<disk><serial>persist</serial></disk>"))).toEqual([
      "qemu:///system 2 fleet-dev-db",
    ]);
  });

  it.each([
    ["one that has been a guest", domain("nixvm fleet-dev", "<disk><serial>boot</serial></disk>"), "2"],
    ["one of another stack", domain("nixvm fleet-dev-2"), "2"],
    ["somebody's", domain("mine"), "2"],
    ["one that the state knows", domain("nixvm fleet-dev"), "1"],
    ["one of which libvirt says nothing", "", "2"],
  ])("is never taken away: %s", (_, xml, uuid) => {
    expect(found(xml, uuid)).toEqual([]);
  });
});

describe("before a run", () => {
  const ended = spawnSync(process.execPath, ["-e", ""]).pid;
  const mine = { ...lock({ hostname: hostname() }), timestamp: new Date().toISOString() };
  /** Runs the shim in front of an engine that writes down how it was called. */
  function shim(args: string[], state: object | null = {}): { code: number | null; err: string; calls: string[] } {
    const copy = path.join(dir, "checkout");
    fs.mkdirSync(copy, { recursive: true });
    fs.cpSync(path.join(root, "tools"), path.join(copy, "tools"), { recursive: true });
    const log = path.join(dir, "calls");
    const engine = `#!/bin/sh\necho "$*" >> '${log.replaceAll("'", `'\\''`)}'
case "$*" in *export*) cat '${dir.replaceAll("'", `'\\''`)}/state.json' ;; *import*) cat > '${dir.replaceAll("'", `'\\''`)}/imported.json' ;; esac\n`;
    plant(copy, { ".nixvm/bin/pulumi": engine }, 0o755);
    if (state) plant(dir, { "state.json": JSON.stringify({ version: 3, deployment: state }) });
    const result = spawnSync("sh", [path.join(copy, "tools/shim/pulumi"), ...args], {
      encoding: "utf8",
      env: { ...process.env, PULUMI_BACKEND_URL: `file://${dir}` },
    });
    const calls = fs.existsSync(log) ? fs.readFileSync(log, "utf8").trim().split("\n") : [];
    return { code: result.status, err: result.stderr, calls };
  }
  const locks = ".pulumi/locks/organization/nixvm/dev";

  it("the lock of a killed one is removed, and the user is told whose it was", () => {
    plant(dir, { [`${locks}/1.json`]: JSON.stringify({ ...mine, pid: ended }), [`${locks}/1.json.attrs`]: "{}" });
    const { code, err, calls } = shim(["up", "--stack", "dev"]);
    expect(err).toMatch(
      new RegExp(`^nixvm: the run of me@\\S+ \\(process ${ended}, .*\\) was broken off; its lock is removed\n$`),
    );
    expect({ code, calls }).toEqual({
      code: 0,
      calls: ["stack export --stack dev --non-interactive", "up --stack dev"],
    });
    expect(fs.readdirSync(path.join(dir, locks))).toEqual([]);
  });

  it("attributes that a dead run has begun and not written go, those of others stay", () => {
    const attributes = { "dev.json.attrs": "", "prod.json.attrs": '{"user.content_type":"text/plain"}' };
    plant(dir, { [`${locks}/1.json`]: JSON.stringify({ ...mine, pid: ended }) });
    plant(path.join(dir, ".pulumi/stacks/nixvm"), { ...attributes, "dev.json": "{}" });
    expect(shim(["up", "--stack", "dev"]).code).toBe(0);
    expect(fs.readdirSync(path.join(dir, ".pulumi/stacks/nixvm"))).toEqual(["dev.json", "prod.json.attrs"]);
  });

  it("locks of runs that may still be at work stay, whoever made them", () => {
    const files = {
      [`${locks}/alive.json`]: JSON.stringify({ ...mine, pid: process.pid }),
      [`${locks}/elsewhere.json`]: JSON.stringify({ ...mine, pid: ended, hostname: "elsewhere" }),
      [`${locks}/being-written`]: "",
    };
    plant(dir, files);
    expect(shim(["destroy"]).err).toBe("");
    expect(fs.readdirSync(path.join(dir, locks))).toHaveLength(3);
  });

  it("a lock that was never written whole goes once nobody can be writing it", () => {
    const file = path.join(dir, locks, "fileblob123");
    plant(dir, { [`${locks}/fileblob123`]: '{"pid":' });
    fs.utimesSync(file, new Date(), new Date(Date.now() - 11_000));
    expect(shim(["up"]).err).toContain("never written whole");
    expect(fs.existsSync(file)).toBe(false);
  });

  it("what was under way is taken off the list of the stack that is meant, and all else stays in its state", () => {
    const urn = "urn:pulumi:dev::nixvm::libvirt:index/pool:Pool::pool-local";
    const state = { resources: [{ urn: "a" }], pending_operations: [{ type: "creating", resource: { urn } }] };
    plant(dir, { ".pulumi/stacks/nixvm/dev.json": JSON.stringify({ version: 3, checkpoint: { latest: state } }) });
    const { err, calls } = shim(["up", "--yes", "-s", "dev", "-C", "/x"], state);
    expect(err).toBe("nixvm: it was creating pool-local\n");
    expect(calls).toEqual([
      "stack export -s dev -C /x --non-interactive",
      "stack import -s dev -C /x --non-interactive",
      "up --yes -s dev -C /x",
    ]);
    expect(JSON.parse(fs.readFileSync(path.join(dir, "imported.json"), "utf8"))).toEqual({
      version: 3,
      deployment: { resources: [{ urn: "a" }] },
    });
  });

  it("what a run has under way that is at work is left to it", () => {
    const urn = "urn:pulumi:dev::nixvm::libvirt:index/pool:Pool::pool-local";
    const state = { resources: [{ urn }], pending_operations: [{ type: "creating", resource: { urn } }] };
    plant(dir, {
      ".pulumi/stacks/nixvm/dev.json": JSON.stringify({ version: 3, checkpoint: { latest: state } }),
      [`${locks}/alive.json`]: JSON.stringify({ ...mine, pid: process.pid }),
    });
    expect(shim(["up", "-s", "dev"], state)).toEqual({
      code: 0,
      err: "",
      calls: ["stack export -s dev --non-interactive", "up -s dev"],
    });
  });

  it("a state is looked at after a run that failed, and not after one that ended well", () => {
    const history = (at: number, result: string): void =>
      plant(dir, { [`.pulumi/history/nixvm/dev/dev-${at}.history.json`]: JSON.stringify({ result }) });
    history(1, "failed");
    history(2, "succeeded");
    expect(shim(["up"]).calls).toEqual(["up"]);
    history(3, "failed");
    const resources = ["web", "db"].map((name) => ({
      urn: `urn:x::${name}-guest`,
      type: "nixvm:index:Guest",
      id: name,
    }));
    resources.push({ urn: "urn:x::web-seed-iso", type: "nixvm:index:SeedVolume", id: "/pool/web-seed.iso" });
    const { calls, err } = shim(["up", "--stack", "dev"], { resources });
    expect(calls.slice(1)).toEqual([
      "stack export --stack dev --non-interactive",
      "refresh --yes --skip-preview --target urn:x::web-guest --target urn:x::db-guest --target urn:x::web-seed-iso --stack dev --non-interactive",
      "up --stack dev",
    ]);
    expect(err).toBe("nixvm: the last run did not end well: it is looked how its guests and seeds are\n");
  });

  it("nothing is looked at for a command that changes nothing, and for a state that is not in files here", () => {
    plant(dir, { [`${locks}/1.json`]: JSON.stringify({ ...mine, pid: ended }) });
    expect(shim(["stack", "output", "--stack", "dev"]).err).toBe("");
    expect(fs.readdirSync(path.join(dir, locks))).toEqual(["1.json"]);
    const of = (url: string | undefined): unknown => evaluate("recover", "m.stateFolder(input)", url);
    expect(of("https://api.pulumi.com")).toBeNull();
    expect(of("s3://bucket")).toBeNull();
    expect(of("file:///a%20b?no_tmp_dir=true")).toBe("/a b/.pulumi");
  });

  it("a state that cannot be put right ends the run before it begins", () => {
    const pending = { pending_operations: [{ type: "creating", resource: { urn: "x" } }] };
    plant(dir, { ".pulumi/stacks/nixvm/dev.json": JSON.stringify({ checkpoint: { latest: pending } }) });
    // The engine of this test then has no state to give.
    const { code, err, calls } = shim(["up"], null);
    expect({ code, calls }).toEqual({ code: 1, calls: ["stack export --non-interactive"] });
    expect(err).toMatch(
      /^nixvm: what a broken-off run left could not be put right: pulumi stack export: cat: .*No such file/,
    );
  });
});
