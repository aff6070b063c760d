import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import * as fc from "fast-check";
import { CliError, EXIT } from "../../cli/errors";
import { copyOut, fit, inspectDisk, pack } from "../../cli/foreignDisk";
import { type Entry, fitting, type Folders, listing } from "../../cli/foreignVar";
import { findFileSystem, readExt4 } from "../../cli/partition";

const { signal } = new AbortController();
const MIB = 2 ** 20;

let dir: string;
beforeEach(() => (dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm import, "))));
afterEach(() => fs.rmSync(dir, { recursive: true, force: true }));

const tool = (command: string, ...args: string[]): string =>
  execFileSync(command, args, { encoding: "utf8", stdio: ["pipe", "pipe", "pipe"] });
const sha256 = (file: string): string => createHash("sha256").update(fs.readFileSync(file)).digest("hex");
const debugfs = (file: string, command: string): string => tool("debugfs", "-R", command, file);

/** A file system of 32 MiB with what the template has in /var. */
function makeFs(more: string[] = []): string {
  const top = path.join(dir, "top");
  for (const folder of ["identity", "home/admin", "home/user", "lib/app"]) {
    fs.mkdirSync(path.join(top, folder), { recursive: true });
  }
  fs.writeFileSync(path.join(top, "identity", "ssh_host_ed25519_key"), "the key\n", { mode: 0o644 });
  fs.writeFileSync(path.join(top, "identity", "ssh_host_ed25519_key.pub"), "ssh-ed25519 AAAAkey root@old\n");
  fs.writeFileSync(path.join(top, "lib", "app", "marker"), "data\n");
  const file = path.join(dir, "fs.raw");
  fs.writeFileSync(file, "");
  fs.truncateSync(file, 32 * MIB);
  tool("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", ...more, "-d", top, file);
  for (const [name, uid] of [
    ["admin", 1001],
    ["user", 1000],
  ] as const) {
    tool("debugfs", "-w", "-R", `set_inode_field /home/${name} uid ${uid}`, file);
    tool("debugfs", "-w", "-R", `set_inode_field /home/${name} gid 100`, file);
  }
  return file;
}

/** A qcow2 of 40 MiB with a file system in its one partition, as the template makes it. */
function makeDisk(fsFile = makeFs(), table = "label: gpt\nfirst-lba: 64\nstart=128,size=65536\n"): string {
  const raw = path.join(dir, "disk.raw");
  fs.writeFileSync(raw, "");
  fs.truncateSync(raw, 40 * MIB);
  execFileSync("sfdisk", ["-q", raw], { input: table, stdio: ["pipe", "ignore", "ignore"] });
  tool("dd", `if=${fsFile}`, `of=${raw}`, "bs=64K", "seek=1", "conv=notrunc,sparse", "status=none");
  const file = path.join(dir, "var.qcow2");
  tool("qemu-img", "convert", "-O", "qcow2", raw, file);
  fs.rmSync(raw);
  return file;
}

async function refused(work: Promise<unknown>): Promise<CliError> {
  const error = await work.then(
    () => undefined,
    (caught: unknown) => caught,
  );
  if (!(error instanceof CliError)) throw new Error(`not refused: ${String(error)}`);
  return error;
}

const WANT = { accounts: ["admin", "user"], newIdentity: false, keyInDirectory: false };

test("the copy has the data, the label, the host key in our place, and the numbers of accounts; the original is untouched (T-88, T-95)", async () => {
  const file = makeDisk();
  const before = sha256(file);
  const disk = await inspectDisk(file, dir, signal);
  expect(disk).toMatchObject({
    diskBytes: 40 * MIB,
    window: { offset: 65_536, bytes: 32 * MIB },
    fs: { label: "", dirty: false },
  });
  const raw = path.join(dir, "copy.raw");
  expect(await copyOut(disk, raw, signal)).toEqual([]);
  const fitted = await fit(disk, raw, "var", { ...WANT, keyFolder: dir }, signal);
  expect(fitted).toEqual({
    notes: [],
    hostKey: "ssh-ed25519 AAAAkey",
    keyFrom: "/identity/ssh_host_ed25519_key on the disk",
  });

  expect(debugfs(raw, "cat /lib/app/marker")).toBe("data\n");
  expect(debugfs(raw, "cat /lib/identity/ssh_host_ed25519_key")).toBe("the key\n");
  expect(debugfs(raw, "stat /lib/identity/ssh_host_ed25519_key")).toMatch(
    /Mode: {2}0600[^]*User: +0 +Group: +0[^]*Links: 1 /,
  );
  expect(debugfs(raw, "stat /lib/identity")).toMatch(/Mode: {2}0700/);
  expect(debugfs(raw, "cat /lib/nixvm/uids")).toBe("1000 user\n1001 admin\n");
  expect(listing(debugfs(raw, "ls -p /identity"))).toEqual([]);
  expect(tool("e2label", raw).trim()).toBe("var");
  const out = path.join(dir, "out.qcow2");
  await pack(raw, out, 41 * MIB, signal);
  const info = JSON.parse(tool("qemu-img", "info", "--output=json", out)) as Record<string, unknown>;
  expect(info).toMatchObject({ format: "qcow2", "virtual-size": 41 * MIB });
  expect(info).not.toHaveProperty("backing-filename");
  expect(sha256(file)).toBe(before);
});

test("a new identity has none of the former keys (T-88, T-95)", async () => {
  const disk = await inspectDisk(makeDisk(), dir, signal);
  const raw = path.join(dir, "copy.raw");
  await copyOut(disk, raw, signal);
  const fitted = await fit(disk, raw, "var", { ...WANT, newIdentity: true, keyFolder: dir }, signal);
  expect(fitted).toEqual({ notes: [] });
  expect(listing(debugfs(raw, "ls -p /identity"))).toEqual([]);
  expect(listing(debugfs(raw, "ls -p /lib/identity"))).toEqual([]);
});

test("a host key that is only in the directory is written to its place, for root only (T-95)", async () => {
  const file = makeFs();
  for (const name of ["", ".pub"]) tool("debugfs", "-w", "-R", `rm /identity/ssh_host_ed25519_key${name}`, file);
  fs.writeFileSync(path.join(dir, "ssh_host_ed25519_key"), "another key\n", { mode: 0o640 });
  const disk = await inspectDisk(makeDisk(file), dir, signal);
  const raw = path.join(dir, "copy.raw");
  await copyOut(disk, raw, signal);
  const fitted = await fit(disk, raw, "var", { ...WANT, keyInDirectory: true, keyFolder: dir }, signal);
  expect(fitted.keyFrom).toBe("ssh_host_ed25519_key");
  expect(debugfs(raw, "cat /lib/identity/ssh_host_ed25519_key")).toBe("another key\n");
  expect(debugfs(raw, "stat /lib/identity/ssh_host_ed25519_key")).toMatch(/Mode: {2}0600[^]*User: +0 +Group: +0/);
});

test("a whole disk without partitions and an MBR are taken as well (T-88)", async () => {
  const raw = makeFs();
  const file = path.join(dir, "whole.qcow2");
  tool("qemu-img", "convert", "-O", "qcow2", raw, file);
  expect((await inspectDisk(file, dir, signal)).window).toEqual({ offset: 0, bytes: 32 * MIB });
  const mbr = makeDisk(raw, "label: dos\nstart=128,size=65536,type=83\n");
  expect((await inspectDisk(mbr, dir, signal)).window).toEqual({ offset: 65_536, bytes: 32 * MIB });
});

test("a disk with a backing file is taken with what is in that; one whose backing file is gone is refused (T-88)", async () => {
  const base = makeDisk();
  const file = path.join(dir, "top.qcow2");
  tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, file);
  const disk = await inspectDisk(file, dir, signal);
  const raw = path.join(dir, "copy.raw");
  await copyOut(disk, raw, signal);
  expect(debugfs(raw, "cat /lib/app/marker")).toBe("data\n");
  fs.rmSync(base);
  expect((await refused(inspectDisk(file, dir, signal))).message).toMatch(/cannot? .*read|can be read/i);
});

test.each([
  ["two partitions", "label: gpt\nfirst-lba: 64\nstart=128,size=65536\nsize=1M\n", /2 partitions/],
  ["no partition", "label: gpt\nfirst-lba: 64\n", /0 partitions/],
])("%s: refused, as nothing says which one the data is in (T-88)", async (_, table, message) => {
  const error = await refused(inspectDisk(makeDisk(makeFs(), table), dir, signal));
  expect(error.code).toBe(EXIT.state);
  expect(error.message).toMatch(message);
});

test("what is no ext4 file system, or one that guests of ours cannot use, is refused (T-88)", async () => {
  const empty = path.join(dir, "empty.qcow2");
  tool("qemu-img", "create", "-q", "-f", "qcow2", empty, "40M");
  expect((await refused(inspectDisk(empty, dir, signal))).message).toMatch(/neither a partition table nor an ext4/);
  const small = makeDisk(makeFs(["-b", "1024"]));
  expect((await refused(inspectDisk(small, dir, signal))).message).toMatch(/blocks of 1024 bytes/);
  const old = makeDisk(makeFs(["-O", "^extents,^64bit"]));
  expect((await refused(inspectDisk(old, dir, signal))).message).toMatch(/ext2 or ext3/);
  const text = path.join(dir, "text.qcow2");
  fs.writeFileSync(text, "no disk");
  expect((await refused(inspectDisk(text, dir, signal))).code).toBe(EXIT.state);
});

test("a disk that a running QEMU has open is refused (T-88)", async () => {
  const file = makeDisk();
  const holder = spawn("qemu-io", ["-f", "qcow2", file], { stdio: ["pipe", "pipe", "inherit"] });
  try {
    // Its prompt comes when the file is open.
    await new Promise((resolve) => holder.stdout.once("data", resolve));
    const error = await refused(inspectDisk(file, dir, signal));
    expect(error.code).toBe(EXIT.state);
    expect(error.message).toMatch(/is in use: its VM is running/);
  } finally {
    holder.stdin.end("quit\n");
    await new Promise((resolve) => holder.once("close", resolve));
  }
});

test("a VM that was not shut down: its journal is replayed in the copy, and that is said (T-88)", async () => {
  const raw = makeFs();
  // As after a crash: the flag stays that unmounting takes away.
  tool("debugfs", "-w", "-R", "feature needs_recovery", raw);
  const file = makeDisk(raw);
  const before = sha256(file);
  const disk = await inspectDisk(file, dir, signal);
  expect(disk.fs.dirty).toBe(true);
  const copy = path.join(dir, "copy.raw");
  expect(await copyOut(disk, copy, signal)).toEqual([expect.stringContaining("was not shut down cleanly")]);
  expect(readExt4(fs.readFileSync(copy).subarray(0, 4096))).toMatchObject({ dirty: false });
  expect(sha256(file)).toBe(before);
});

test("a damaged file system is refused (T-88)", async () => {
  const raw = makeFs();
  tool("debugfs", "-w", "-R", "clri /lib/app", raw);
  const disk = await inspectDisk(makeDisk(raw), dir, signal);
  const error = await refused(copyOut(disk, path.join(dir, "copy.raw"), signal));
  expect(error.code).toBe(EXIT.state);
  expect(error.message).toMatch(/is damaged/);
});

test("Ctrl-C ends it (T-88)", async () => {
  const file = makeDisk();
  const controller = new AbortController();
  const disk = await inspectDisk(file, dir, signal);
  controller.abort();
  expect((await refused(copyOut(disk, path.join(dir, "copy.raw"), controller.signal))).code).toBe(EXIT.interrupted);
});

test("whatever a disk begins with, a window lies on it or a reason is given (T-88)", () => {
  const bytes = fc.uint8Array({ minLength: 0, maxLength: 4096 });
  const patched = fc.tuple(bytes, fc.constantFrom("", "EFI PART"), fc.boolean()).map(([given, gpt, mbr]) => {
    const head = Buffer.alloc(Math.max(given.length, 2048));
    head.set(given);
    if (gpt !== "") head.write(gpt, 512, "latin1");
    if (mbr) head.writeUInt16LE(0xaa55, 510);
    return head;
  });
  fc.assert(
    fc.property(
      fc.oneof(
        bytes.map((b) => Buffer.from(b)),
        patched,
      ),
      fc.integer({ min: 0, max: 2 ** 40 }),
      (head, size) => {
        const found = findFileSystem(head, size);
        if (typeof found === "string") return expect(found).not.toBe("");
        expect(found.offset).toBeGreaterThanOrEqual(0);
        expect(found.bytes).toBeGreaterThanOrEqual(0);
        expect(found.offset + found.bytes).toBeLessThanOrEqual(size);
      },
    ),
    { numRuns: 2000 },
  );
});

const EMPTY: Folders = { "/": [], "/identity": [], "/lib": [], "/lib/identity": [], "/lib/nixvm": [], "/home": [] };
const home = fc.record({
  name: fc.constantFrom("admin", "user", "deploy", "root", "Not an account", "x"),
  folder: fc.boolean(),
  uid: fc.oneof(fc.integer({ min: 0, max: 70_000 }), fc.constantFrom(0, 1000, 1001)),
});

test("account numbers: never one twice, never one of the system, and accounts come first (T-88)", () => {
  const homes = fc.uniqueArray(home, { selector: ({ name }) => name });
  fc.assert(
    fc.property(homes, (entries: Entry[]) => {
      const { uids, notes } = fitting({ ...EMPTY, "/home": entries }, WANT);
      const lines = uids.split("\n").filter((line) => line !== "");
      const numbers = lines.map((line) => Number(line.split(" ")[0]));
      expect(new Set(numbers).size).toBe(numbers.length);
      for (const number of numbers) expect(number).toBeGreaterThanOrEqual(1000);
      for (const { name, uid, folder } of entries) {
        if (!folder || !WANT.accounts.includes(name)) continue;
        const kept = lines.includes(`${uid} ${name}`);
        expect(kept || notes.some((note) => note.startsWith(`/var/home/${name} `))).toBe(true);
        if (uid >= 1000 && uid < 60_000 && !entries.some((one) => one.name !== name && one.uid === uid))
          expect(kept).toBe(true);
      }
    }),
  );
});

test("a file system that was ours before keeps its numbers and its key (T-88)", () => {
  const entry = (name: string): Entry => ({ name, folder: false, uid: 0 });
  const { commands, uids } = fitting(
    {
      ...EMPTY,
      "/": [entry("lib")],
      "/lib": [entry("identity"), entry("nixvm")],
      "/lib/identity": [entry("ssh_host_ed25519_key")],
      "/lib/nixvm": [entry("uids")],
      "/identity": [entry("ssh_host_ed25519_key")],
      "/home": [{ name: "admin", folder: true, uid: 1005 }],
    },
    WANT,
  );
  expect({ commands, uids }).toEqual({ commands: [], uids: "" });
});
