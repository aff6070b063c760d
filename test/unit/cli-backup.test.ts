import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { readArchive } from "../../cli/archiveRead";
import { backup, type BackupResult } from "../../cli/backup";
import { listBackups } from "../../cli/backups";
import { requireSpace } from "../../cli/diskFile";
import { backupXml } from "../../cli/stillCopy";
import { breakOffWhen, World } from "./cli-backup-support";

let world: World;
beforeEach(() => (world = new World()));
afterEach(() => world.remove());
// Under the load of a whole run each of the small programs takes its time.
jest.setTimeout(60_000);

const make = (more: object = {}): Promise<BackupResult> =>
  world.with((context) => backup(context, "web", { json: true, ...more }));
const files = (): string[] => (fs.existsSync(world.backups) ? fs.readdirSync(world.backups) : []);

/** Nothing of a backup is left in the VM, beside its volume or in the journal. */
function expectNothingLeft(): void {
  expect([world.is("state"), world.is("frozen"), world.is("job")]).toEqual(["running", "false", ""]);
  expect(world.strays()).toEqual([]);
  expect(fs.existsSync(world.journal)).toBe(false);
}

test("a running VM is frozen for the moment in which the copy begins, and no longer (T-70, T-78)", async () => {
  const made = await make();
  expect(world.calls()).toEqual(["domfsfreeze", "backup-begin", "domfsthaw"]);
  expect(world.is("still")).toBe("running true");
  expect(made).toMatchObject({ vm: "web", quiesced: "agent" });
  expect(path.dirname(made.archive)).toBe(world.backups);
  expect(path.basename(made.archive)).toMatch(/^web-\d{8}-\d{6}\.tar\.zst$/);
  await readArchive({ file: made.archive });
  expect(world.textOf(world.member(made.archive, "var.qcow2"))).toBe("first");
  const firmware = world.member(made.archive, "OVMF_VARS.qcow2");
  expect(JSON.parse(world.img("info", "--output=json", firmware))).toMatchObject({
    format: "qcow2",
    "virtual-size": 540_672,
  });
  expectNothingLeft();
});

test("archive and folder are for their owner only, whatever the umask (T-79)", async () => {
  const before = process.umask(0);
  try {
    const { archive } = await make();
    expect(fs.statSync(archive).mode & 0o777).toBe(0o600);
    expect(fs.statSync(world.backups).mode & 0o777).toBe(0o700);
  } finally {
    process.umask(before);
  }
});

test("of all disks of a domain only the one with the data is copied; of the system there is the overlay alone (E-35, T-17, T-74)", async () => {
  const xml = backupXml(world.is("xml"), world.volume, "/pool/a & b") ?? "";
  expect(xml.match(/<disk [^>]*>/g)).toEqual([
    '<disk name="vda" backup="no"/>',
    '<disk name="vdb" backup="yes" type="file">',
    '<disk name="vdc" backup="no"/>',
  ]);
  expect(xml).toContain("/pool/a &amp; b");
  expect(backupXml(world.is("xml"), "/elsewhere", "/copy")).toBeUndefined();
  const { archive, members } = await make();
  expect(members.map(({ name }) => name)).toEqual(["var.qcow2", "boot.qcow2", "OVMF_VARS.qcow2"]);
  expect(fs.statSync(world.member(archive, "boot.qcow2")).size).toBeLessThan(2 ** 20);
});

test("without an agent, or with one that cannot freeze, the VM is paused for that moment (T-78)", async () => {
  world.libvirt({ agent: false });
  expect((await make({ output: world.in("one.tar.zst") })).quiesced).toBe("paused");
  expect(world.calls()).toEqual(["suspend", "backup-begin", "resume"]);
  expect(world.is("still")).toBe("paused false");
  world.libvirt({ agent: true, fails: "domfsfreeze" });
  expect((await make({ output: world.in("two.tar.zst") })).quiesced).toBe("paused");
  // A freeze that came too late is undone before anything else.
  expect(world.calls()).toEqual(["domfsfreeze", "domfsthaw", "suspend", "backup-begin", "resume"]);
  expectNothingLeft();
});

test("a VM that somebody has paused stays paused (T-78)", async () => {
  world.libvirt({ state: "paused" });
  await make();
  expect(world.calls()).toEqual(["backup-begin"]);
  expect(world.is("state")).toBe("paused");
});

test.each([
  ["the copy does not begin", { fails: "backup-begin" }],
  ["the copy fails", { ends: "Failed" }],
  ["the domain does not say how far it is", { fails: "domjobinfo" }],
])("when %s, the VM goes on as before and nothing is left (T-78)", async (_, how) => {
  world.libvirt(how);
  await expect(make()).rejects.toThrow(/backup-begin|did not finish|domjobinfo/);
  world.libvirt({ fails: "" });
  expectNothingLeft();
  expect(files()).toEqual([]);
});

test("Ctrl-C in the midst of the copy ends it, and nothing is left (T-78)", async () => {
  world.libvirt({ looks: 1000 });
  const stop = breakOffWhen(() => world.is("job") !== "");
  await expect(make()).rejects.toThrow("cancelled");
  stop();
  expect(world.calls()).toEqual(["domfsfreeze", "backup-begin", "domfsthaw", "domjobabort"]);
  expectNothingLeft();
  expect(files()).toEqual([]);
});

test("what a backup that was killed has left is put right by the next one (T-78)", async () => {
  const copy = `${world.volume}.nixvm-backup-20260102T030405Z`;
  const foreign = [`${world.volume}.nixvm-backup-mine`, `${world.volume}.other`];
  for (const file of [copy, ...foreign]) fs.writeFileSync(file, "");
  const ended = execFileSync("sh", ["-c", "echo $$"], { encoding: "utf8" });
  fs.mkdirSync(path.dirname(world.journal), { recursive: true });
  const archive = path.join(world.backups, "web-20260102-030405.tar.zst");
  fs.mkdirSync(`${archive}.part.d`, { recursive: true });
  fs.writeFileSync(world.journal, JSON.stringify({ pid: Number(ended), began: "1", still: "agent", archive, copy }));
  world.libvirt({ frozen: true, job: backupXml(world.is("xml"), world.volume, copy) ?? "" });
  const made = await make();
  expect(world.calls()).toEqual(["domjobabort", "domfsthaw", "domfsfreeze", "backup-begin", "domfsthaw"]);
  expect(files()).toEqual([path.basename(made.archive)]);
  expect(world.strays()).toEqual(foreign.map((file) => path.basename(file)).sort());
});

test("a backup job of somebody else is not touched, and a second run does not start beside the first", async () => {
  world.libvirt({ job: '<domainbackup mode="pull"><disks><disk name="vdb"/></disks></domainbackup>' });
  await expect(make()).rejects.toMatchObject({ code: 3, message: expect.stringContaining("none of nixvm's") });
  expect(world.calls()).toEqual([]);
  world.libvirt({ job: "", looks: 5 });
  const [one, two] = await Promise.allSettled([make(), make({ output: world.in("other.tar.zst") })]);
  const refused = [one, two].filter(({ status }) => status === "rejected");
  expect(refused).toMatchObject([{ reason: { code: 3, message: expect.stringContaining("is running") } }]);
});

test("a VM that is off is read directly, and must stay off (T-78)", async () => {
  world.libvirt({ state: "shut off" });
  const { archive, quiesced } = await make();
  expect(quiesced).toBe("off");
  expect(world.calls()).toEqual([]);
  expect(fs.readFileSync(world.member(archive, "var.qcow2")).equals(fs.readFileSync(world.volume))).toBe(true);
});

test("snapshots that are in the volume do not come along (T-17)", async () => {
  world.libvirt({ state: "shut off" });
  world.img("snapshot", "-c", "before", world.volume);
  world.disk(world.volume, "64M", "second");
  const data = world.member((await make()).archive, "var.qcow2");
  expect(JSON.parse(world.img("info", "--output=json", data)).snapshots).toBeUndefined();
  expect(world.textOf(data)).toBe("second");
  expect(world.strays()).toEqual([]);
});

test("one that is broken off while the archive is written is gone on with, of the same moment (T-78)", async () => {
  const stop = breakOffWhen(() => files().some((name) => fs.existsSync(path.join(world.backups, name, "state.jsonl"))));
  const broken: unknown = await make().catch((error: unknown) => error);
  stop();
  expect(broken).toMatchObject({ code: 130, message: expect.stringMatching(/--resume.*of its pool are taken by/) });
  expect([world.is("state"), world.is("frozen")]).toEqual(["running", "false"]);
  expect(world.strays()).toHaveLength(1);
  world.disk(world.volume, "64M", "written later");
  world.calls();
  const made = await make({ resume: true });
  expect(world.calls()).toEqual([]);
  await readArchive({ file: made.archive });
  expect(world.textOf(world.member(made.archive, "var.qcow2"))).toBe("first");
  expectNothingLeft();
  expect(files()).toEqual([path.basename(made.archive)]);
  await expect(make({ resume: true })).rejects.toMatchObject({ code: 3 });
});

test("one that cannot be gone on with says why, and is made anew", async () => {
  const stop = breakOffWhen(() => files().some((name) => fs.existsSync(path.join(world.backups, name, "state.jsonl"))));
  await make().catch(() => undefined);
  stop();
  const [copy] = world.strays();
  fs.appendFileSync(world.in("pool", copy ?? ""), "x");
  world.disk(world.volume, "64M", "written later");
  const { archive } = await make({ resume: true });
  expect(world.notes.join("\n")).toMatch(/cannot be gone on with, as .* is not what it was; a new one is made/);
  expect(world.textOf(world.member(archive, "var.qcow2"))).toBe("written later");
  expectNothingLeft();
});

test("what cannot be backed up is refused before anything is done", async () => {
  await expect(world.with((context) => backup(context, "db", { json: true }))).rejects.toMatchObject({ code: 2 });
  await expect(make({ output: world.in("stack.json") })).rejects.toMatchObject({ code: 2 });
  world.remove();
  for (const [vm, why] of [
    [{ persistPath: undefined }, "no persistent volume"],
    [{ uri: "qemu+ssh://rack/system" }, "another machine"],
    [{ persistPath: "/nowhere/at/all" }, "is gone"],
  ] as const) {
    world = new World(vm);
    await expect(make()).rejects.toMatchObject({ code: 3, message: expect.stringContaining(why) });
    expect(world.calls()).toEqual([]);
    world.remove();
  }
  world = new World();
});

test("room is looked for first, and what is on one file system is added up", () => {
  const needs = [
    { folder: world.dir, bytes: 600, what: "the archive" },
    { folder: world.in("pool"), bytes: 600, what: "the copy" },
  ];
  const size = (bytes: number): string => `${bytes} B`;
  requireSpace(needs, size, () => 1200);
  expect(() => requireSpace(needs, size, () => 1199)).toThrow(
    /archive.*and the copy.*1200 B are needed, and 1199 B are free/,
  );
});

test("archives are listed with what they say, and a damaged one is found by its bytes", async () => {
  const { archive } = await make();
  const list = (check: boolean): ReturnType<typeof listBackups> =>
    world.with((context) => listBackups(context, undefined, { check, json: true }));
  expect(await list(true)).toMatchObject([{ vm: "web", archive, stack: "test", good: true }]);
  const bytes = fs.readFileSync(archive);
  const middle = Math.floor(bytes.length / 2);
  bytes[middle] = (bytes[middle] ?? 0) ^ 1;
  fs.writeFileSync(archive, bytes);
  expect(await list(true)).toMatchObject([{ vm: "web", good: false, problem: expect.any(String) }]);
  expect(await world.with((context) => listBackups(context, "db", { json: true }))).toEqual([]);
});
