import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { mustBeFree, mustHaveRoom, PoolOf } from "../../cli/adopt";
import { CliError, EXIT } from "../../cli/errors";
import { ImportWork } from "../../cli/importWork";
import type { Run } from "../../provider/run";
import { Virsh } from "../../provider/virsh";
import { config, planned } from "../helpers/fleets";

const { signal } = new AbortController();
const GIB = 2 ** 30;

let dir: string;
beforeEach(() => (dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm import "))));
afterEach(() => fs.rmSync(dir, { recursive: true, force: true }));

const UUID = "3f0c8b52-6d0e-4a57-9f3e-1c2d3e4f5a6b";
const MAC = "52:54:00:aa:bb:01";
const plan = planned(config([], { fleet: { web: { identity: { uuid: UUID, mac: MAC } } } }));
const [vm] = plan.vms;
const [host] = plan.hosts;
if (vm === undefined || host === undefined) throw new Error("the fleet is not planned");

async function refused(work: Promise<unknown> | (() => unknown)): Promise<CliError> {
  try {
    await (typeof work === "function" ? work() : work);
  } catch (error) {
    if (error instanceof CliError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

/** A pool that is a folder, behind virsh in libvirt's words. */
class Pool {
  readonly folder = path.join(dir, "pool");
  info = `Name: x\nState: running\nAvailable: ${GIB}\n`;
  at = host?.pool.path ?? "";
  /** Bytes after which an upload is broken off. */
  cut?: number;
  calls: string[] = [];

  constructor() {
    fs.mkdirSync(this.folder);
  }

  file(name: string): string {
    return path.join(this.folder, name);
  }

  run: Run = (_command, [, , , verb = "", ...args]) => {
    this.calls.push(verb);
    const option = (name: string): string => args[args.indexOf(`--${name}`) + 1] ?? "";
    const file = this.file(option(verb === "vol-create-as" ? "name" : "vol"));
    const ok = (stdout = "") => Promise.resolve({ code: 0, stdout, stderr: "" });
    const failed = (stderr: string) => Promise.resolve({ code: 1, stdout: "", stderr: `error: ${stderr}\n` });
    const missing = () => failed("Storage volume not found: no storage vol");
    switch (verb) {
      case "pool-info":
        return this.info === "" ? failed("Storage pool not found: no such pool") : ok(this.info);
      case "pool-dumpxml":
        return ok(`<pool><target><path>${this.at}</path></target></pool>`);
      case "pool-refresh":
        return ok();
      case "vol-create-as":
        fs.writeFileSync(file, "", { flag: "wx" });
        return ok();
      case "vol-upload": {
        const content = fs.readFileSync(option("file"));
        fs.writeFileSync(file, content.subarray(0, this.cut));
        return this.cut === undefined ? ok() : failed("the stream was broken off");
      }
      case "vol-info":
        return fs.existsSync(file) ? ok(`Capacity: ${fs.statSync(file).size} bytes\n`) : missing();
      case "vol-download":
        fs.copyFileSync(file, option("file"));
        return ok();
      case "vol-delete":
        if (!fs.existsSync(file)) return missing();
        fs.rmSync(file);
        return ok();
      default:
        throw new Error(`virsh ${verb} is not played`);
    }
  };

  of(): PoolOf {
    return new PoolOf(host!, signal, () => this.run);
  }
}

describe("the pool", () => {
  let pool: Pool;
  let file: string;
  beforeEach(() => {
    pool = new Pool();
    file = path.join(dir, "volume");
    fs.writeFileSync(file, "a volume of some bytes");
  });

  test("a volume is new, and whole, or not there (T-88)", async () => {
    await pool.of().place("web-persist", file, 22);
    expect(fs.readFileSync(pool.file("web-persist"), "utf8")).toBe("a volume of some bytes");
    await expect(pool.of().place("web-persist", file, 22)).rejects.toThrow(/EEXIST/);

    pool.cut = 5;
    await expect(pool.of().place("db-persist", file, 22)).rejects.toThrow(/broken off/);
    expect(fs.readdirSync(pool.folder)).toEqual(["web-persist"]);
    delete pool.cut;
    await expect(pool.of().place("db-persist", file, 23)).rejects.toThrow(/22 bytes after its upload, not 23/);
    expect(fs.readdirSync(pool.folder)).toEqual(["web-persist"]);
  });

  test("only what is the beginning of our file counts as left over from it (T-88)", async () => {
    const cases: [string, boolean][] = [
      ["", true],
      ["a volume", true],
      ["a volume of some bytes", true],
      ["a volume of some bytes and more", false],
      ["A volume", false],
    ];
    for (const [content, ours] of cases) {
      fs.writeFileSync(pool.file("web-persist"), content);
      expect([content, await pool.of().isBeginningOf("web-persist", file)]).toEqual([content, ours]);
    }
    expect(await pool.of().isBeginningOf("web-persist", path.join(dir, "gone"))).toBe(false);
  });

  test("a pool that is not there, not active, or somewhere else is told apart (T-88)", async () => {
    expect(await pool.of().free()).toBe(GIB);
    pool.at = "/elsewhere";
    expect((await refused(pool.of().free())).message).toMatch(/is in \/elsewhere/);
    pool.info = pool.info.replace("running", "inactive");
    expect((await refused(pool.of().free())).message).toMatch(/pool-start/);
    pool.info = "";
    expect(await pool.of().free()).toBeUndefined();
  });
});

test("too little space is said before anything is copied, here and in the pool (T-88)", async () => {
  const work = { folder: "/work", free: 10 * GIB };
  expect(() => mustHaveRoom(5 * GIB, work, { name: "p", free: 5 * GIB })).not.toThrow();
  expect(() => mustHaveRoom(5 * GIB, work, { name: "p" })).not.toThrow();
  const here = await refused(() => mustHaveRoom(6 * GIB, work, { name: "p", free: 50 * GIB }));
  expect([here.code, here.message]).toEqual([EXIT.state, expect.stringContaining("/work has too little space")]);
  const there = await refused(() => mustHaveRoom(5 * GIB, work, { name: "p", free: 4 * GIB }));
  expect([there.code, there.message]).toEqual([EXIT.state, expect.stringContaining("the pool p has too little space")]);
});

test.each([
  ["UUID", { uuid: UUID, name: "old", xml: "<domain/>", state: "shut off" }, true],
  ["MAC address", { xml: `<mac address='${MAC.toUpperCase()}'/>`, name: "old", uuid: "x", state: "running" }, true],
  [
    "MAC address",
    { xml: `<qemu:arg value='virtio-net-pci,mac=${MAC}'/>`, name: "old", uuid: "x", state: "running" },
    true,
  ],
  ["name", { uuid: "11111111-2222-4333-8444-555555555555", name: "nixvm-test-web", xml: "", state: "shut off" }, false],
])("a domain with the same %s is refused, with what to do (T-88)", async (what, domain, mayBeNew) => {
  const uuid = domain.uuid === "x" ? "11111111-2222-4333-8444-555555555555" : domain.uuid;
  const answers: Record<string, string> = {
    list: `${uuid} ${domain.name}\n`,
    domstate: `${domain.state}\n`,
    dumpxml: domain.xml,
  };
  const run: Run = (_, args) => Promise.resolve({ code: 0, stdout: answers[args[3] ?? ""] ?? "", stderr: "" });
  const error = await refused(mustBeFree(new Virsh("qemu:///system", run), vm, "qemu:///system"));
  expect(error.code).toBe(EXIT.state);
  expect(error.message).toContain(`has the ${what}`);
  expect(error.message).toContain(`undefine --nvram ${domain.name}`);
  expect(error.message.includes("--new-identity")).toBe(mayBeNew);
  expect(error.message.includes("shut it down cleanly")).toBe(domain.state === "running");
});

test("other domains stand in nobody's way (T-88)", async () => {
  const answers: Record<string, string> = {
    list: "11111111-2222-4333-8444-555555555555 other\n",
    dumpxml: "<mac address='52:54:00:00:00:99'/>",
  };
  const run: Run = (_, args) => Promise.resolve({ code: 0, stdout: answers[args[3] ?? ""] ?? "", stderr: "" });
  await mustBeFree(new Virsh("qemu:///system", run), vm, "qemu:///system");
});

test("one import of a VM at a time; what a broken-off one had come to is known to the next (T-88)", async () => {
  const work = ImportWork.open(dir, "prod", "web");
  expect(work.former()).toBeUndefined();
  work.begin("web-persist");
  expect(fs.statSync(work.folder).mode & 0o777).toBe(0o700);
  fs.writeFileSync(work.volumeFile, "x");
  expect(ImportWork.open(dir, "prod", "web").former()).toMatchObject({ phase: "copying", volume: "web-persist" });

  const note = work.file("import.json");
  const as = (pid: number): void => fs.writeFileSync(note, JSON.stringify({ pid, phase: "copying", volume: "v" }));
  as(process.ppid);
  expect((await refused(() => ImportWork.open(dir, "prod", "web"))).message).toMatch(/by process \d+/);
  expect(ImportWork.open(dir, "prod", "db").former()).toBeUndefined();
  // A process that has ended.
  as(spawnSync("true").pid);
  expect(ImportWork.open(dir, "prod", "web").former()?.volume).toBe("v");

  work.declared("web-persist", ["fleet"]);
  work.dropCopy();
  expect(fs.existsSync(work.volumeFile)).toBe(false);
  expect(work.former()).toMatchObject({ phase: "declared", shared: ["fleet"] });
  work.remove();
  expect(fs.existsSync(work.folder)).toBe(false);
});
