import { createHash } from "node:crypto";
import * as fs from "node:fs";
import * as path from "node:path";
import { select } from "@inquirer/prompts";
import { FORMAT, type Manifest, MEMBER } from "../../cli/archive";
import { writeArchive } from "../../cli/archiveWrite";
import { backup } from "../../cli/backup";
import { refuseMisfit, restore, type RestoreResult } from "../../cli/restore";
import { breakOffWhen, World } from "./cli-backup-support";

// Only the question itself: nobody is there to answer it.
jest.mock("@inquirer/prompts", () => ({ select: jest.fn() }));

let world: World;
let archive: string;
jest.setTimeout(60_000);

/** A VM whose data was `first` when it was backed up, and is `second` now. */
async function begin(vm: Record<string, unknown> = {}): Promise<void> {
  world = new World(vm);
  ({ archive } = await world.with((context) => backup(context, "web", { json: true })));
  world.disk(world.volume, "64M", "second");
  world.calls();
}
beforeEach(() => begin());
afterEach(() => world.remove());

const bring = (name: string | undefined = archive, yes = true): Promise<RestoreResult> =>
  world.with((context) => restore(context, "web", name, { json: true, yes }));
const info = (file: string): Record<string, unknown> =>
  JSON.parse(world.img("info", "--output=json", file)) as Record<string, unknown>;

/** Nothing of the VM was touched. */
function expectUntouched(): void {
  expect(world.calls()).toEqual([]);
  expect(world.textOf(world.volume)).toBe("second");
  expect(world.strays()).toEqual([]);
}

test("the data comes back under the same path, with the same size, owner and mode, and the VM is on again (T-76)", async () => {
  fs.chmodSync(world.volume, 0o640);
  const { uid, gid, mode } = fs.statSync(world.volume);
  expect(await bring(path.basename(archive))).toMatchObject({ vm: "web", archive, running: true, firmware: true });
  expect(world.calls()).toEqual(["shutdown", "start"]);
  expect(world.textOf(world.volume)).toBe("first");
  expect(fs.statSync(world.volume)).toMatchObject({ uid, gid, mode });
  expect(info(world.volume)).toMatchObject({ "virtual-size": 64 * 2 ** 20, format: "qcow2" });
  expect(world.strays()).toEqual([]);
  expect(fs.existsSync(world.journal)).toBe(false);
});

test("the overlay in the archive is thrown away: the VM keeps the one that it has (T-76)", async () => {
  const overlay = world.in("pool", "web-overlay.qcow2");
  const digest = (): string => createHash("sha256").update(fs.readFileSync(overlay)).digest("hex");
  fs.appendFileSync(overlay, Buffer.alloc(512, 1));
  const before = digest();
  await bring();
  expect(digest()).toBe(before);
});

test("UEFI variables come back where they are of the same firmware, and stay where not (T-73)", async () => {
  const firmware = world.in("web_VARS.fd");
  fs.writeFileSync(firmware, Buffer.alloc(540_672, 9));
  expect((await bring()).firmware).toBe(true);
  expect(fs.readFileSync(firmware).equals(Buffer.alloc(540_672, 7))).toBe(true);
  fs.writeFileSync(firmware, Buffer.alloc(131_072, 9));
  expect((await bring()).firmware).toBe(false);
  expect(fs.readFileSync(firmware).equals(Buffer.alloc(131_072, 9))).toBe(true);
  expect(world.notes.join("\n")).toContain("keeps its UEFI variables");
});

test("a volume that is larger than the archive's stays as large as it is (T-77)", async () => {
  world.img("resize", "-q", world.volume, "128M");
  await bring();
  expect(info(world.volume)).toMatchObject({ "virtual-size": 128 * 2 ** 20 });
  expect(world.textOf(world.volume)).toBe("first");
});

test("snapshots in the volume stay, with their data", async () => {
  world.img("snapshot", "-c", "mine", world.volume);
  await bring();
  expect(world.textOf(world.volume)).toBe("first");
  world.img("snapshot", "-a", "mine", world.volume);
  expect(world.textOf(world.volume)).toBe("second");
  expect(world.strays()).toEqual([]);
});

test("a VM that is declared off stays off", async () => {
  world.remove();
  await begin({ running: false });
  world.libvirt({ state: "shut off" });
  expect(await bring()).toMatchObject({ running: false });
  expect(world.calls()).toEqual([]);
  expect(world.textOf(world.volume)).toBe("first");
});

test("data that is newer than the archive is not lost without a word: both times are named (T-75)", async () => {
  world.libvirt({ state: "shut off" });
  const refused = bring(archive, false);
  const [created, written] = [/\d{4}-\d\d-\d\dT[\d:.]+Z/, fs.statSync(world.volume).mtime.toISOString()];
  await expect(refused).rejects.toMatchObject({ code: 2, message: expect.stringMatching(created) });
  await expect(refused).rejects.toThrow(written);
  expectUntouched();
  fs.utimesSync(world.volume, 0, 0);
  await bring(archive, false);
  expect(world.textOf(world.volume)).toBe("first");
});

test("without a name the archives of that VM are listed, or offered where somebody can choose (T-75)", async () => {
  fs.copyFileSync(archive, path.join(world.backups, "db-20260102-030405.tar.zst"));
  const unnamed = (json: boolean): Promise<RestoreResult> =>
    world.with((context) => restore(context, "web", undefined, { json, yes: true }));
  const name = path.basename(archive);
  await expect(unnamed(true)).rejects.toMatchObject({
    code: 2,
    message: expect.stringMatching(new RegExp(`allowed: ${name}$`)),
  });
  await expect(bring("nothing")).rejects.toMatchObject({ code: 2, message: expect.stringContaining(name) });
  expectUntouched();
  jest.mocked(select).mockResolvedValue(archive);
  // A stdin that is a terminal has it as a property that nobody can assign to.
  const terminal = Object.getOwnPropertyDescriptor(process.stdin, "isTTY");
  Object.defineProperty(process.stdin, "isTTY", { value: true, configurable: true });
  try {
    await unnamed(false);
  } finally {
    if (terminal) Object.defineProperty(process.stdin, "isTTY", terminal);
    else delete (process.stdin as { isTTY?: boolean }).isTTY;
  }
  expect(jest.mocked(select).mock.calls[0]?.[0].choices).toMatchObject([{ value: archive }]);
  expect(world.textOf(world.volume)).toBe("first");
});

test("a damaged archive is refused before the VM is touched (T-75)", async () => {
  const bytes = fs.readFileSync(archive);
  const middle = Math.floor(bytes.length / 2);
  bytes[middle] = (bytes[middle] ?? 0) ^ 1;
  fs.writeFileSync(archive, bytes);
  await expect(bring()).rejects.toMatchObject({ code: 2, message: expect.stringContaining("nixvm backups --check") });
  expectUntouched();
});

test("an archive whose disk shows files of the host is refused", async () => {
  const evil = world.in("evil.qcow2");
  world.img("create", "-q", "-f", "qcow2", "-b", "/etc/hostname", "-F", "raw", evil, "64M");
  const bytes = fs.statSync(evil).size;
  const manifest: Manifest = {
    ...{ format: FORMAT, nixvm: "1", stack: "s", vm: "web", uuid: "u", created: "2030-01-01T00:00:00.000Z" },
    ...{ quiesced: "off", image: { digest: "a" }, persist: { virtualBytes: 64 * 2 ** 20 } },
    members: [{ name: MEMBER.data, bytes }],
  };
  const file = world.in("evil.tar.zst");
  const record = (): Promise<void> => Promise.resolve();
  await writeArchive({ file, manifest, sources: [{ name: MEMBER.data, path: evil, bytes }], record });
  await expect(bring(file)).rejects.toMatchObject({
    code: 2,
    message: expect.stringContaining("refers to another file"),
  });
  expectUntouched();
});

test("data that this VM could not use is refused", () => {
  const persist = { virtualBytes: 2 ** 30, fs: "ext4", mount: "/var", label: "var" };
  const manifest = { persist } as Manifest;
  const refuse = (virtualBytes: number, wanted: object): void =>
    refuseMisfit(manifest, "web", { virtualBytes }, wanted);
  refuse(2 ** 30, persist);
  refuse(2 ** 31, {});
  expect(() => refuse(2 ** 29, persist)).toThrow(/512 MiB is too small for the 1 GiB.*persist.size/);
  for (const wrong of [{ fs: "zfs" }, { mount: "/persist" }, { label: "other" }]) {
    expect(() => refuse(2 ** 30, { ...persist, ...wrong })).toThrow(`persist.${Object.keys(wrong).join()} is`);
  }
});

test("a VM that does not get well with the restored data has its data from before again", async () => {
  world.remove();
  // Whatever is asked in this guest, its answer is no page.
  const page = { kind: "http", address: "127.0.0.1", port: 1, path: "/", status: 200 };
  const check = { name: "door", ...page, timeoutSeconds: 1, withinSeconds: 1 };
  await begin({ checks: [check] });
  await expect(bring()).rejects.toThrow(/door.*has its data from before, and is started again/s);
  expect(world.calls()).toEqual(["shutdown", "start", "shutdown", "start"]);
  expect(world.textOf(world.volume)).toBe("second");
  expect(world.strays()).toEqual([]);
});

test("after Ctrl-C the data from before is there, and the VM on", async () => {
  const stop = breakOffWhen(() => world.is("state") === "shut off");
  await expect(bring()).rejects.toMatchObject({ code: 130, message: expect.stringContaining("data from before") });
  stop();
  expect(world.is("state")).toBe("running");
  expect(world.textOf(world.volume)).toBe("second");
  expect(world.strays()).toEqual([]);
});

test("what a restore that was killed has left is removed, but for the data from before it", async () => {
  const [comes, kept] = ["restore", "before-restore"].map((what) => `${world.volume}.nixvm-${what}-20260102T030405Z`);
  for (const file of [comes, kept]) fs.writeFileSync(file ?? "", "x");
  await bring();
  expect(world.strays()).toEqual([path.basename(kept ?? "")]);
  expect(world.notes.join("\n")).toContain(`the data from before it in ${kept}`);
});

test("the archive of another VM can be taken, and that is said (T-77)", async () => {
  world.disk(world.volume, "64M", "first");
  fs.writeFileSync(
    world.in("stack.json"),
    fs.readFileSync(world.in("stack.json"), "utf8").replaceAll('"web"', '"copy"'),
  );
  const keep = world.in("moved.tar.zst");
  const { archive: made } = await world.with((context) => backup(context, "copy", { json: true, output: keep }));
  fs.writeFileSync(
    world.in("stack.json"),
    fs.readFileSync(world.in("stack.json"), "utf8").replaceAll('"copy"', '"web"'),
  );
  world.disk(world.volume, "64M", "second");
  await bring(made);
  expect(world.notes.join("\n")).toContain("web gets data of another VM: copy of the stack test");
  expect(world.textOf(world.volume)).toBe("first");
});
