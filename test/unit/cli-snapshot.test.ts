import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import * as fc from "fast-check";
import { Nvram, nvramOf, nvramPath } from "../../cli/nvram";
import { checkName, copyName, nameFromTime, readCopyName } from "../../cli/snapshotNames";
import { restore } from "../../cli/snapshotRestore";
import { PoolHost, SnapScene } from "./cli-snapshot-host";
import { contentOf, snapshotsIn } from "./provider-disks";
import { FakeClock, want } from "./provider-fake";

// Real programs on real files: on a busy machine a test takes some seconds.
jest.setTimeout(60_000);

let parent: string;
let scene: SnapScene;
beforeEach(() => {
  parent = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm snap "));
  scene = new SnapScene(parent);
});
afterEach(() => fs.rmSync(parent, { recursive: true }));

function write(byte: number): void {
  execFileSync("qemu-io", ["-f", "qcow2", "-c", `write -q -P ${byte} 0 1M`, scene.file]);
}
const byte = (snapshot?: string): number => contentOf(scene.file, snapshot)[0]!;
const COPY = "fleet-web-persist-aaaaaaaaaaaa-first.nvram";

describe("names", () => {
  const name = fc.stringMatching(/^[a-z][a-z0-9-]{0,20}[a-z0-9]$/);
  const image = fc.stringMatching(/^[0-9a-f]{12}$/);

  test("what is not a name, and what is ours, is refused (T-63)", () => {
    expect(checkName("before-it-all")).toBe("before-it-all");
    for (const wrong of ["nixvm-mine", "2", "A", "a b", "a/b", "", "-a", "a-", "a".repeat(64)]) {
      expect(() => checkName(wrong)).toThrow(/^name: /);
    }
    // QEMU knows snapshots by numbers too, and would take one for a name.
    fc.assert(fc.property(fc.nat(), (n) => expect(() => checkName(String(n))).toThrow("cannot name a snapshot")));
  });

  test("a name from the time is one that can be given, and is not taken", () => {
    fc.assert(
      fc.property(fc.nat(4e12), fc.nat(5), (at, more) => {
        const names: string[] = [];
        for (let n = 0; n <= more; n++) names.push(checkName(nameFromTime("before-restore", at, names)));
        expect(new Set(names).size).toBe(more + 1);
      }),
    );
    expect(nameFromTime("at", Date.parse("2026-01-02T03:04:05.678Z"), [])).toBe("at-20260102-030405");
  });

  test("copies of UEFI variables are told apart by VM, image and snapshot (T-65)", () => {
    fc.assert(
      fc.property(name, name, image, name, (volume, other, digest, snapshot) => {
        const file = copyName(volume, digest, snapshot);
        expect(readCopyName(volume, file)).toEqual({ image: digest, snapshot });
        const read = readCopyName(other, file);
        expect(other === volume || read === undefined || !file.startsWith(`${other}-`)).toBe(true);
      }),
    );
    expect(readCopyName("fleet-web-persist", "fleet-web-persist-g1-aaaaaaaaaaaa-x.nvram")).toBeUndefined();
    expect(readCopyName("fleet-web-persist", "fleet-web-persist-aaaaaaaaaaaa-x.qcow2")).toBeUndefined();
  });
});

describe("a snapshot of a VM that runs", () => {
  test("is of its persistent volume and its UEFI variables, taken while it keeps still (T-63, T-64, T-65)", async () => {
    write(1);
    const taken = await scene.subject.take("first", true);
    write(2);
    fs.writeFileSync(scene.nvram, "variables 2");
    expect(taken.how).toBe("frozen");
    expect(scene.snap.story).toEqual(["freeze", "take first", "thaw"]);
    expect([byte("first"), byte()]).toEqual([1, 2]);
    expect(scene.copies()).toEqual([COPY]);
    expect(fs.readFileSync(path.join(scene.folder, COPY), "utf8")).toBe("variables 1");
  });

  test.each(["on", "off"])(
    "takes nothing of root, scratch disk and base image, with the VM %s (T-17, T-66, E-35)",
    async (power) => {
      if (power === "off") scene.off();
      await scene.subject.take("first", true);
      expect(snapshotsIn(scene.file)).toEqual(["first"]);
      for (const other of ["root.qcow2", "scratch.qcow2"])
        expect(snapshotsIn(path.join(scene.folder, other))).toEqual([]);
      const named = JSON.stringify(scene.host.said);
      expect(named).not.toMatch(/root\.qcow2|scratch\.qcow2/);
    },
  );

  test("without an agent pauses it for the moment, and says so", async () => {
    scene.snap.agentThere = false;
    expect((await scene.subject.take("first", true)).how).toBe("paused");
    expect(scene.snap.story).toEqual(["suspend", "take first", "resume"]);
    expect(scene.snap.domain.state).toBe("running");
    expect(scene.warnings.join()).toContain("it is paused for a moment instead");
  });

  test("of one that is paused already leaves it so", async () => {
    scene.snap.domain = { state: "paused", reason: "I/O error" };
    expect((await scene.subject.take("first", true)).how).toBe("still");
    expect(scene.snap.story).toEqual(["take first"]);
  });

  test("that fails leaves the guest thawed and nothing behind", async () => {
    for (const done of [false, true]) {
      scene.snap.broken.set("take first", { times: 1, done });
      await expect(scene.subject.take("first", true)).rejects.toThrow("told to fail at take first");
      expect([scene.snap.frozen, snapshotsIn(scene.file), scene.copies()]).toEqual([false, [], []]);
    }
  });

  test("thaws again and again where that is what fails", async () => {
    scene.snap.broken.set("thaw", { times: 3, done: false });
    await scene.subject.take("first", true);
    expect(scene.snap.frozen).toBe(false);
    expect(scene.snap.story.filter((what) => what === "thaw fails")).toHaveLength(3);
  });

  test("a freeze that was too slow for us, but came to its end, is undone before the VM is paused", async () => {
    scene.snap.broken.set("freeze", { times: 1, done: true });
    expect((await scene.subject.take("first", true)).how).toBe("paused");
    expect(scene.snap.story).toEqual(["freeze fails", "thaw", "suspend", "take first", "resume"]);
    expect(scene.snap.frozen).toBe(false);
  });

  test("finds what a killed run has left frozen", async () => {
    scene.snap.frozen = true;
    await scene.subject.take("first", true);
    expect(scene.snap.story).toEqual(["thaw", "freeze", "take first", "thaw"]);
  });

  test("is taken anew when the UEFI variables change meanwhile, so that both are of one moment (T-65)", async () => {
    let changes = 1;
    scene.snap.onMonitor = () => {
      if (changes-- > 0) fs.writeFileSync(scene.nvram, "changed meanwhile");
    };
    await scene.subject.take("first", true);
    expect(scene.snap.story.filter((what) => what.startsWith("take"))).toHaveLength(2);
    expect(snapshotsIn(scene.file)).toEqual(["first"]);
    expect(fs.readFileSync(path.join(scene.folder, COPY))).toEqual(fs.readFileSync(scene.nvram));
  });

  test("that Ctrl-C ends is undone", async () => {
    const aborted = (): void => {
      throw new Error("Ctrl-C");
    };
    await expect(scene.subject.take("first", true, aborted)).rejects.toThrow("Ctrl-C");
    expect([scene.snap.frozen, snapshotsIn(scene.file), scene.copies()]).toEqual([false, [], []]);
  });

  test("is refused when the volume is no disk of what runs, with nothing frozen", async () => {
    scene.snap.nodeFile = "/pool/other";
    await expect(scene.subject.take("first", true)).rejects.toThrow("is no qcow2 disk of web as it runs now");
    expect(scene.snap.story).toEqual([]);
  });
});

test("a snapshot of a VM that is off is the same, and deleting either leaves nothing (T-63, T-65)", async () => {
  scene.off();
  write(1);
  expect((await scene.subject.take("first", true)).how).toBe("off");
  scene.snap.domain = { state: "running", reason: "booted" };
  await scene.subject.take("second", true);
  expect(scene.snap.story).toEqual(["freeze", "take second", "thaw"]);
  expect(snapshotsIn(scene.file)).toEqual(["first", "second"]);
  await scene.subject.remove("first");
  scene.off();
  await scene.subject.remove("second");
  expect([snapshotsIn(scene.file), scene.copies(), scene.host.domains.size]).toEqual([[], [], 0]);
});

test("a name that is taken is wrong input, and a pool without room no state for it; nothing is touched (T-63)", async () => {
  await scene.subject.take("first", true);
  await expect(scene.subject.take("first", true)).rejects.toMatchObject({ code: 2 });
  expect([snapshotsIn(scene.file), scene.copies()]).toEqual([["first"], [COPY]]);
  write(1);
  await scene.subject.checkRoom();
  scene.host.free = 1000;
  await expect(scene.subject.checkRoom()).rejects.toMatchObject({ code: 3 });
});

test("a VM that has no domain, or is on its way off, is told so", async () => {
  scene.snap.domain = { state: "in shutdown", reason: "" };
  await expect(scene.subject.take("first", true)).rejects.toMatchObject({ code: 3 });
  scene.snap.list = [];
  await expect(scene.subject.take("first", true)).rejects.toThrow(
    'web has no domain on its host; run "pulumi up" first',
  );
});

test("the list has snapshots by hand, of upgrades and of others, with time, image and UEFI variables (T-68)", async () => {
  const upgrade = "nixvm-cccccccccccc-20260101T000000Z";
  for (const name of [upgrade, "nixvm-clone-copy", "by somebody"]) scene.host.img("snapshot", "-c", name, scene.file);
  await scene.subject.take("first", true);
  const all = await scene.subject.list();
  expect(all.map(({ name, by, image, uefi }) => [name, by, image, uefi])).toEqual([
    [upgrade, "upgrade", "cccccccccccc", false],
    ["nixvm-clone-copy", "clone", null, false],
    ["by somebody", "other", null, false],
    ["first", "hand", "aaaaaaaaaaaa", true],
  ]);
  for (const { takenAt, diskBytes } of all) {
    expect(Math.abs(Date.parse(takenAt) - Date.now())).toBeLessThan(60_000);
    expect(diskBytes).toBe(8 * 2 ** 20);
  }
});

describe("restoring", () => {
  const plan = { want: { ...want, persistPath: "", checks: [] }, limitMs: 60_000, name: "first", safety: "before" };
  const state = (): unknown[] => [byte(), fs.readFileSync(scene.nvram, "utf8"), scene.snap.domain.state];
  const cliDeps = (): never => ({ ...scene.deps, signal: scene.abort.signal }) as never;

  beforeEach(async () => {
    write(1);
    await scene.subject.take("first", true);
    write(2);
    fs.writeFileSync(scene.nvram, "variables 2");
    scene.snap.calls = [];
  });

  test("brings data and UEFI variables back, and keeps what was there (T-65, T-67)", async () => {
    await restore(scene.subject, plan, cliDeps());
    expect(state()).toEqual([1, "variables 1", "running"]);
    expect(byte("before")).toBe(2);
    expect(scene.snap.calls.filter((call) => /shutdown|start/.test(call))).toEqual(["shutdown agent", "start"]);
    await restore(scene.subject, { ...plan, name: "before", safety: "again" }, cliDeps());
    expect(state()).toEqual([2, "variables 2", "running"]);
  });

  test("leaves a VM that is declared off, off (T-67)", async () => {
    await restore(scene.subject, { ...plan, want: { ...plan.want, running: false } }, cliDeps());
    expect(state()).toEqual([1, "variables 1", "shut off"]);
  });

  test("makes no disk smaller that has grown since (T-62, T-67)", async () => {
    scene.host.img("resize", "-q", scene.file, "16M");
    await restore(scene.subject, plan, cliDeps());
    expect([byte(), contentOf(scene.file).length]).toEqual([1, 16 * 2 ** 20]);
  });

  test("goes back to what was there when the VM does not get healthy with it (T-67)", async () => {
    scene.snap.status = { ...scene.snap.status, healthy: false, reasons: ["its data is of yesterday"] };
    await expect(restore(scene.subject, plan, cliDeps())).rejects.toThrow(
      /its data is of yesterday.*its data is again what it was before, and it is started again/,
    );
    expect(state()).toEqual([2, "variables 2", "running"]);
  });

  test("that Ctrl-C ends before anything changed starts the VM again", async () => {
    scene.snap.onShutdown = () => {
      scene.snap.domain = { state: "shut off", reason: "shutdown" };
      scene.abort.abort();
    };
    await expect(restore(scene.subject, plan, cliDeps())).rejects.toMatchObject({ code: 130 });
    expect(state()).toEqual([2, "variables 2", "running"]);
    expect(snapshotsIn(scene.file)).toEqual(["first"]);
  });

  test("that fails before anything changed says so, and starts the VM again", async () => {
    scene.host.failing = { verb: "snapshot-create-as", done: false };
    await expect(restore(scene.subject, plan, cliDeps())).rejects.toThrow(
      /told to fail; nothing of web has changed, and it is started again/,
    );
    expect(state()).toEqual([2, "variables 2", "running"]);
  });

  test("that fails on its way can be run again, and loses nothing", async () => {
    scene.host.failing = { verb: "snapshot-revert", done: true };
    await expect(restore(scene.subject, plan, cliDeps())).rejects.toThrow("going back failed too");
    scene.host.failing = undefined;
    await restore(scene.subject, { ...plan, safety: "again" }, cliDeps());
    expect(state()).toEqual([1, "variables 1", "running"]);
    expect(byte("before")).toBe(2);
  });
});

describe("UEFI variables", () => {
  test("are found where the definition names them, and where libvirt chooses them (T-65)", async () => {
    expect(await nvramPath(`<domain><os><nvram template="/t">/vars/a b.fd</nvram></os></domain>`, scene.snap)).toBe(
      "/vars/a b.fd",
    );
    expect(await nvramPath(`<domain><os firmware="efi"/></domain>`, scene.snap)).toBe('/vars/chosen "1".fd');
    expect(await nvramPath(`<domain><os/></domain>`, scene.snap)).toBeUndefined();
    expect(nvramOf("qemu -nodefaults")).toBeUndefined();
  });

  test("are read and written through a pool that is gone afterwards", async () => {
    const host = new PoolHost();
    const nvram = new Nvram("qemu:///system", host.run, new FakeClock());
    expect((await nvram.read(scene.nvram))?.toString()).toBe("variables 1");
    await nvram.write(scene.nvram, Buffer.from("variables 9"));
    expect(fs.readFileSync(scene.nvram, "utf8")).toBe("variables 9");
    expect(await nvram.read(`${scene.nvram}.not`)).toBeUndefined();
    expect(await nvram.read("/no/such/folder/VARS.fd")).toBeUndefined();
    const fresh = path.join(parent, "vars", "new.fd");
    await nvram.write(fresh, Buffer.from("new"));
    expect(fs.readFileSync(fresh, "utf8")).toBe("new");
    expect(host.pools.size).toBe(0);
  });

  test("are found through somebody else's pool, which stays, and through one that a killed run has left, which goes", async () => {
    const host = new PoolHost();
    host.pools.set("theirs", path.dirname(scene.nvram));
    const nvram = new Nvram("qemu:///system", host.run, new FakeClock());
    expect((await nvram.read(scene.nvram))?.toString()).toBe("variables 1");
    expect([...host.pools.keys()]).toEqual(["theirs"]);
    host.pools.clear();
    host.faults.set("pool-destroy", 1);
    await nvram.read(scene.nvram);
    expect(host.pools.size).toBe(1);
    expect((await nvram.read(scene.nvram))?.toString()).toBe("variables 1");
    expect(host.pools.size).toBe(0);
  });
});
