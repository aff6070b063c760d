import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import * as fc from "fast-check";
import { planFleet, type Plan } from "../../components/plan";
import { Clone, type CloneContext, writtenOf } from "../../cli/clone";
import { checkTemporary, dropIdentity, IDENTITY } from "../../cli/cloneData";
import { cloneEntry } from "../../cli/cloneEntry";
import { begunOf } from "../../cli/cloneStage";
import { StackFile } from "../../cli/stackFile";
import { run as realRun } from "../../provider/run";
import { SnapScene } from "./cli-snapshot-host";
import { snapshotsIn } from "./provider-disks";

// Real programs on real files: on a busy machine a test takes some seconds.
jest.setTimeout(120_000);

let parent: string;
beforeEach(() => (parent = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm clone "))));
afterEach(() => fs.rmSync(parent, { recursive: true }));

describe("the entry of a clone", () => {
  test("is the source's, without what no two VMs can share, and off", () => {
    const source = {
      preset: "zvm",
      memory: "2GiB",
      hostname: "www",
      generation: 3,
      network: { mode: "nat", network: "lan", address: "10.0.0.5", mac: "02:00:00:00:00:01", sshPort: 2222 },
      identity: { uuid: "x", machineId: "y", mac: "z", sshHostKey: "stack" },
      rootPasswordHash: { secure: "v1:abc" },
    };
    expect(cloneEntry([source])).toEqual({
      preset: "zvm",
      memory: "2GiB",
      network: { mode: "nat", network: "lan" },
      identity: { sshHostKey: "stack" },
      rootPasswordHash: { secure: "v1:abc" },
      running: false,
    });
    expect(source.hostname).toBe("www");
  });

  test("keeps the mode of a network that one of its fields alone has named, and short forms as they are", () => {
    expect(cloneEntry([{ network: { sshPort: 2222 } }])).toEqual({ network: { mode: "user" }, running: false });
    expect(cloneEntry([{ network: { address: "10.0.0.5" } }])).toEqual({ network: { mode: "nat" }, running: false });
    expect(cloneEntry([{ network: "nat:lan", home: "tmpfs" }])).toEqual({
      network: "nat:lan",
      home: "tmpfs",
      running: false,
    });
    expect(cloneEntry([{ identity: { mac: "z" } }])).toEqual({ running: false });
  });

  test("of a member says what its group says, where it says nothing itself", () => {
    const file = path.join(parent, "Pulumi.test.yaml");
    fs.writeFileSync(
      file,
      `config:
  nixvm:fleet: {web: , web-2: {memory: 3GiB}}
  nixvm:groups:
    web-2: {count: 1}
    app:
      count: 2
      memory: 1GiB
      persist: {size: 2GiB, mount: /var}
      rollout: {canary: 1}
      members: {2: {persist: {size: 4GiB}, hostname: two}}
`,
    );
    const stack = StackFile.open(file);
    const entry = (name: string): unknown => {
      const written = writtenOf(stack, name);
      return written && cloneEntry(written);
    };
    expect(entry("app-1")).toEqual({ memory: "1GiB", persist: { size: "2GiB", mount: "/var" }, running: false });
    expect(entry("app-2")).toEqual({ memory: "1GiB", persist: { size: "4GiB", mount: "/var" }, running: false });
    expect(entry("web")).toEqual({ running: false });
    expect(entry("web-2")).toEqual({ memory: "3GiB", running: false });
    for (const none of ["app", "app-3", "app-0", "nobody"]) expect(entry(none)).toBeUndefined();
  });
});

test("how far a clone is can be read beside its volume, whatever else is there; the furthest counts", () => {
  const name = fc.stringMatching(/^[a-z][a-z0-9-]{0,20}$/);
  fc.assert(
    fc.property(name, name, fc.array(name), (volume, source, others) => {
      const marks = ["write", "new"].map((stage) => `${volume}.clone-${stage}-${source}`);
      expect(begunOf(volume, [...others, ...marks])).toEqual({ stage: "write", source });
      expect(begunOf(volume, [`${volume}.clone-start-${source}`, ...marks])).toEqual({ stage: "start", source });
      expect(begunOf(`${volume}x`, marks)).toBeUndefined();
      expect(begunOf(volume, others)).toBeUndefined();
    }),
  );
});

/** An ext4 file system with these files. */
function ext4(file: string, names: readonly string[]): void {
  const tree = path.join(parent, "tree");
  for (const name of names) {
    fs.mkdirSync(path.join(tree, path.dirname(name)), { recursive: true });
    fs.writeFileSync(path.join(tree, name), `content of ${name}`);
  }
  fs.writeFileSync(file, "");
  fs.truncateSync(file, 8 * 2 ** 20);
  execFileSync("mkfs.ext4", ["-q", "-F", "-L", "var", "-d", tree, file]);
  fs.rmSync(tree, { recursive: true });
}
const has = (file: string, name: string): boolean =>
  execFileSync("debugfs", ["-R", `cat ${name}`, file], { stdio: ["ignore", "pipe", "ignore"] }).length > 0;

describe("identity", () => {
  test.each(["/var", "/persist"] as const)("of %s is taken out, and nothing else", async (mount) => {
    const file = path.join(parent, "data.raw");
    // Some are not there, as in any guest.
    const there = IDENTITY[mount].filter((_, index) => index % 3 !== 2);
    const data = ["/lib/identity/passwords/admin", "/lib/nixvm/uids", "/srv/data", "/etc/ssh/other"];
    ext4(file, [...there, ...data]);
    await dropIdentity(file, mount);
    expect(IDENTITY[mount].filter((name) => has(file, name))).toEqual([]);
    expect(data.every((name) => has(file, name))).toBe(true);
    execFileSync("e2fsck", ["-f", "-n", file], { stdio: "ignore" });
  });

  test("has the files that a guest keeps its identity in", () => {
    const script = fs.readFileSync(path.join(__dirname, "../../nix/guest/lib.sh"), "utf8");
    expect(script).toContain(
      "own=$keep/var/lib/nixvm machine_id=$keep/etc/machine-id host_key=$keep/etc/ssh/ssh_host_ed25519_key",
    );
    expect(script).toContain(
      "machine_id=$keep_lib/identity/machine-id host_key=$keep_lib/identity/ssh_host_ed25519_key",
    );
    for (const name of [
      "/lib/identity/machine-id",
      "/lib/identity/ssh_host_ed25519_key",
      "/lib/nixvm/seed/user-data",
    ]) {
      expect(IDENTITY["/var"]).toContain(name);
    }
    for (const name of ["/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key", "/var/lib/nixvm/seed/user-data"]) {
      expect(IDENTITY["/persist"]).toContain(name);
    }
  });

  test("that stays, or a disk that is no file system in order, ends the clone", async () => {
    const file = path.join(parent, "data.raw");
    ext4(file, IDENTITY["/var"]);
    const lazy: typeof realRun = (command, args, limit) =>
      command === "debugfs" && args.includes("-w")
        ? Promise.resolve({ code: 0, stdout: "", stderr: "" })
        : realRun(command, args, limit);
    await expect(dropIdentity(file, "/var", lazy)).rejects.toThrow("still has the source's identity");
    fs.writeFileSync(file, Buffer.alloc(2 ** 20, 7));
    await expect(dropIdentity(file, "/var")).rejects.toThrow("the copy has no ext4 file system in order");
  });
});

test("a temporary folder without room is said before anything is done", async () => {
  await checkTemporary(1000);
  await expect(checkTemporary(2 ** 60)).rejects.toMatchObject({ code: 3 });
});

/** A context whose `up` does to files what the engine would have done. */
class Engine {
  scene = new SnapScene(parent);
  controller = new AbortController();
  notes: string[] = [];
  ups: boolean[] = [];
  failingUps: number[] = [];
  sameKey = false;
  readonly file = path.join(parent, "Pulumi.test.yaml");
  readonly clone = path.join(this.scene.folder, "nixvm-test-copy-persist");
  private made = false;

  constructor(entry = "{running: true}") {
    fs.writeFileSync(
      this.file,
      `config:
  nixvm:images: {os: {path: os.qcow2}}
  nixvm:defaults: {image: os, persist: {size: 64MiB}, network: user, adminKeys: []}
  nixvm:fleet:
    # the source
    web: ${entry}
`,
    );
    this.scene.snap.list.push({ uuid: "copy", name: "fleet-copy" });
    const { snap } = this.scene;
    const state = snap.state.bind(snap);
    snap.state = ((uuid: string) =>
      uuid === "copy" ? Promise.resolve({ state: "shut off", reason: "" }) : state()) as never;
  }

  plan(): Plan {
    const config = Object.fromEntries(
      ["images", "defaults", "fleet"].map((key) => [key, StackFile.open(this.file).get([`nixvm:${key}`])]),
    );
    const result = planFleet(config, { project: "nixvm", stack: "test", defaults: { poolRoot: "/pools" } });
    if (!result.ok) throw new Error(JSON.stringify(result.problems));
    return result.plan;
  }

  get context(): CloneContext {
    const vms = (): any[] => [
      {
        name: "web",
        uuid: this.scene.snap.list[0]!.uuid,
        uri: "qemu:///system",
        persistPath: this.scene.file,
        sshHostKey: "a",
        contract: "nixvm",
      },
      ...(this.made
        ? [
            {
              name: "copy",
              uuid: "copy",
              uri: "qemu:///system",
              persistPath: this.clone,
              sshHostKey: this.sameKey ? "a" : "b",
              contract: "nixvm",
            },
          ]
        : []),
    ];
    return {
      vms: () => Promise.resolve(vms()),
      vm: async (name) => vms().find((vm) => vm.name === name) ?? Promise.reject(new Error(`no VM ${name}`)),
      libvirt: () => this.scene.snap as never,
      note: (line) => void this.notes.push(line),
      signal: this.controller.signal,
      stackFile: () => Promise.resolve(StackFile.open(this.file)),
      plan: () => Promise.resolve(this.plan()),
      up: async () => {
        const running = this.plan().vms.find(({ name }) => name === "copy")!.running;
        this.ups.push(running);
        if (this.failingUps.shift()) throw new Error("up was told to fail");
        if (!this.made) this.scene.host.img("create", "-q", "-f", "qcow2", "-o", "compat=1.1", this.clone, "8M");
        this.made = true;
      },
    };
  }

  async run(): Promise<unknown> {
    return (await Clone.of(this.context, "web", "copy", this.scene.host.run)).make();
  }

  /** What the source has on its disk. */
  fill(): void {
    const raw = path.join(parent, "source.raw");
    ext4(raw, ["/lib/identity/ssh_host_ed25519_key", "/lib/identity/machine-id", "/srv/data"]);
    this.scene.host.img("convert", "-f", "raw", "-O", "qcow2", "-o", "compat=1.1", raw, this.scene.file);
  }

  /** What is on the clone's disk, and what is left of the work. */
  outcome(): Record<string, unknown> {
    const raw = path.join(parent, "clone.raw");
    this.scene.host.img("convert", "-f", "qcow2", "-O", "raw", this.clone, raw);
    return {
      data: has(raw, "/srv/data"),
      key: has(raw, "/lib/identity/ssh_host_ed25519_key"),
      left: fs.readdirSync(this.scene.folder).filter((name) => name.includes(".clone-")),
      snapshots: [...snapshotsIn(this.scene.file), ...snapshotsIn(this.clone)],
      entry: StackFile.open(this.file).get(["nixvm:fleet", "copy"]) ?? {},
      frozen: this.scene.snap.frozen,
    };
  }
}

const WHOLE = { data: true, key: false, left: [], snapshots: [], entry: {}, frozen: false };

describe("a clone", () => {
  let engine: Engine;
  beforeEach(() => {
    engine = new Engine();
    engine.fill();
  });

  test("is declared off, gets the data without the identity, and is then switched on", async () => {
    expect(await engine.run()).toEqual({ vm: "copy", source: "web", running: true });
    expect(engine.ups).toEqual([false, true]);
    expect(engine.outcome()).toMatchObject(WHOLE);
    expect(engine.scene.snap.story).toEqual(["freeze", "take nixvm-clone-copy", "thaw", "delete nixvm-clone-copy"]);
    expect(fs.readFileSync(engine.file, "utf8")).toContain("# the source\n    web: {running: true}\n");
  });

  test("of a VM that is off, and declared so, is off too", async () => {
    for (const name of ["the pool", "vars"]) fs.rmSync(path.join(parent, name), { recursive: true });
    engine = new Engine("{running: false}");
    engine.fill();
    engine.scene.off();
    expect(await engine.run()).toEqual({ vm: "copy", source: "web", running: false });
    expect(engine.ups).toEqual([false, false]);
    expect(engine.outcome()).toMatchObject({ ...WHOLE, entry: { running: false } });
  });

  test.each([
    ["the first up", (one: Engine) => one.failingUps.push(1)],
    ["the snapshot", (one: Engine) => one.scene.snap.broken.set("take nixvm-clone-copy", { times: 1, done: true })],
    ["the download", (one: Engine) => one.scene.host.faults.set("vol-download", 1)],
    ["the upload", (one: Engine) => one.scene.host.faults.set("vol-upload", 1)],
    ["the second up", (one: Engine) => one.failingUps.push(0, 1)],
    ["the end of the first mark", (one: Engine) => one.scene.host.faults.set("vol-delete", 1)],
  ])("that broke off at %s is finished by a second run, on one volume, with the data once", async (_what, breakOff) => {
    breakOff(engine);
    await expect(engine.run()).rejects.toThrow(/told to fail/);
    expect(engine.scene.snap.frozen).toBe(false);
    expect(await engine.run()).toEqual({ vm: "copy", source: "web", running: true });
    expect(engine.outcome()).toMatchObject(WHOLE);
    await expect(engine.run()).rejects.toThrow('new: "copy" is a VM of this stack already');
  });

  test("whose data is there is never written again", async () => {
    engine.failingUps.push(0, 1);
    await expect(engine.run()).rejects.toThrow("up was told to fail");
    const before = fs.readFileSync(engine.clone);
    fs.writeFileSync(engine.scene.file, "");
    await engine.run();
    expect(fs.readFileSync(engine.clone).equals(before)).toBe(true);
  });

  test("is not written over data that is there, of a former VM or of a guest that was started meanwhile", async () => {
    fs.writeFileSync(engine.clone, "former");
    await expect(engine.run()).rejects.toMatchObject({ code: 3 });
    expect(fs.readFileSync(engine.clone, "utf8")).toBe("former");
    fs.rmSync(engine.clone);
    engine.scene.snap.broken.set("take nixvm-clone-copy", { times: 1, done: false });
    await expect(engine.run()).rejects.toThrow("told to fail");
    execFileSync("qemu-io", ["-f", "qcow2", "-c", "write -q -P 7 0 1M", engine.clone]);
    const written = fs.readFileSync(engine.clone);
    await expect(engine.run()).rejects.toThrow("is not blank any more, and is not written over");
    expect(fs.readFileSync(engine.clone).equals(written)).toBe(true);
  });

  test("that comes up with an identity of its source is off again, and an error", async () => {
    engine.sameKey = true;
    await expect(engine.run()).rejects.toThrow("copy came up with the sshHostKey of web, and is off again");
    expect(engine.ups).toEqual([false, true, false]);
  });

  test("that is being made of another VM, with a bad name or a name that is taken is refused with nothing touched", async () => {
    const before = fs.readFileSync(engine.file, "utf8");
    fs.writeFileSync(`${engine.clone}.clone-new-db`, "");
    await expect(engine.run()).rejects.toThrow('run "nixvm clone db copy" to finish that');
    for (const name of ["web", "Copy", "a_b"]) {
      await expect(Clone.of(engine.context, "web", name, engine.scene.host.run)).rejects.toMatchObject({ code: 2 });
    }
    engine.scene.host.free = 10;
    fs.rmSync(`${engine.clone}.clone-new-db`);
    await expect(engine.run()).rejects.toMatchObject({ code: 3 });
    expect(fs.readFileSync(engine.file, "utf8")).toBe(before);
    expect(engine.ups).toEqual([]);
  });

  test("that Ctrl-C ends says how it goes on", async () => {
    engine.scene.snap.onMonitor = () => engine.controller.abort();
    await expect(engine.run()).rejects.toMatchObject({
      code: 130,
      message: expect.stringContaining('"nixvm clone web copy" goes on from there'),
    });
    expect([engine.scene.snap.frozen, snapshotsIn(engine.scene.file)]).toEqual([false, []]);
    engine.controller = new AbortController();
    engine.scene.snap.onMonitor = () => undefined;
    await engine.run();
    expect(engine.outcome()).toMatchObject(WHOLE);
  });
});
