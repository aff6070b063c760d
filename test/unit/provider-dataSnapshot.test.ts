import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { checkSnapshot, dataSnapshots, restoreSnapshot, takeSnapshot } from "../../provider/dataSnapshot";
import { contentOf, DiskHost, snapshotsIn } from "./provider-disks";
import { Scene, UUID } from "./provider-fake";

// Real programs on real files: on a busy machine a test takes some seconds.
jest.setTimeout(30_000);

const MIB = 2 ** 20;
const [A, B] = ["aaaaaaaaaaaa", "bbbbbbbbbbbb"];
const NAME = /^nixvm-[0-9a-f]{12}-\d{8}T\d{6}Z$/;

let folder: string;
let file: string;
let host: DiskHost;
let scene: Scene;

beforeEach(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm data "));
  file = path.join(folder, "web persist");
  host = new DiskHost();
  scene = host.scene(file);
  create("qcow2", "-o", "compat=1.1");
});
afterEach(() => fs.rmSync(folder, { recursive: true }));

function create(format: string, ...options: string[]): void {
  fs.rmSync(file, { force: true });
  host.img("create", "-q", "-f", format, ...options, file, String(8 * MIB));
}
/** What a guest does to its disk. */
function write(byte: number): void {
  execFileSync("qemu-io", ["-f", "qcow2", "-c", `write -q -P ${byte} 0 1M`, file]);
}
const byte = (snapshot?: string): number => contentOf(file, snapshot)[0]!;
const size = (): number =>
  (JSON.parse(host.img("info", "--output=json", file)) as { "virtual-size": number })["virtual-size"];
const volume = (fromDigest = A) => ({ uuid: UUID, persistPath: file, fromDigest });
const take = (keep = 3, digest = A): Promise<string> => takeSnapshot({ ...volume(digest), keep }, scene.deps);
const restore = (name: string, digest = B): Promise<string> => restoreSnapshot({ ...volume(digest), name }, scene.deps);

jest.setTimeout(60_000);

describe("a snapshot of the data", () => {
  it("is inside the volume, named after the image and the time, and holds the data of that moment", async () => {
    write(1);
    const name = await take();
    expect(name).toMatch(new RegExp(`^nixvm-${A}-`));
    expect(name).toMatch(NAME);
    write(2);
    expect(snapshotsIn(file)).toEqual([name]);
    expect([byte(name), byte()]).toEqual([1, 2]);
    expect(await dataSnapshots(file, scene.deps)).toEqual([name]);
  });

  it("leaves the content of the disk as it is, byte for byte", async () => {
    write(1);
    const before = contentOf(file);
    await take();
    await take(1, B);
    expect(contentOf(file).equals(before)).toBe(true);
  });

  it("is taken through a domain without firmware that is gone afterwards, whatever happened", async () => {
    await take();
    expect(host.calls).toEqual(["define", "snapshot-create-as", "undefine"]);
    expect(host.domains.size).toBe(0);
    write(1);
    host.failing = { verb: "snapshot-create-as", done: false };
    await expect(take()).rejects.toThrow("virsh snapshot-create-as: the fake was told to fail");
    expect(host.domains.size).toBe(0);
  });

  it("is not taken a second time when a run was broken off and nothing was written since", async () => {
    write(1);
    host.failing = { verb: "snapshot-create-as", done: true };
    await expect(take()).rejects.toThrow("told to fail");
    host.failing = undefined;
    expect(snapshotsIn(file)).toEqual([await take()]);
    write(1);
    const [first, second] = [snapshotsIn(file)[0], await take()];
    expect(snapshotsIn(file)).toEqual([first, second]);
  });

  it("takes over what a run that was killed has left in libvirt", async () => {
    write(1);
    const first = await take();
    write(2);
    host.failing = { verb: "undefine", done: false };
    await expect(take(1)).rejects.toThrow("told to fail");
    host.failing = undefined;
    expect(host.domains.size).toBe(1);
    const second = await take(1);
    expect(snapshotsIn(file)).toEqual([second]);
    expect(second).not.toBe(first);
    expect(host.domains.size).toBe(0);
  });

  it("is one of the newest that are kept; what is not ours stays", async () => {
    host.img("snapshot", "-c", "by hand", file);
    host.img("snapshot", "-c", `nixvm-${A}-tuesday`, file);
    const taken: string[] = [];
    for (let n = 1; n <= 4; n++) {
      write(n);
      taken.push(await take(2));
    }
    expect(new Set(taken).size).toBe(4);
    expect(snapshotsIn(file)).toEqual(["by hand", `nixvm-${A}-tuesday`, ...taken.slice(2)]);
    expect([byte(taken[2]), byte(taken[3])]).toEqual([3, 4]);
  });

  it("has a later name than all others, whatever the clock says", async () => {
    const clock = jest.spyOn(Date, "now");
    const taken: string[] = [];
    try {
      for (const [n, now] of [5000, 5000, 5999, 1000].entries()) {
        clock.mockReturnValue(now);
        write(n);
        taken.push(await take(2));
      }
    } finally {
      clock.mockRestore();
    }
    const stamps = [5, 6, 7, 8].map((second) => `19700101T00000${second}Z`);
    expect(taken).toEqual(stamps.map((stamp) => `nixvm-${A}-${stamp}`));
    expect(snapshotsIn(file)).toEqual(taken.slice(2));
  });

  it("of another image is another one, though the data is the same", async () => {
    const names = [await take(), await take(3, B), await take(3, A)];
    expect(snapshotsIn(file)).toEqual([names[0], names[1]]);
    expect(names[2]).toBe(names[0]);
  });

  it("is refused while something has the volume open", async () => {
    const guest = spawn("qemu-io", ["-f", "qcow2", file], { stdio: "pipe" });
    try {
      // Its prompt comes when the file is open.
      await once(guest.stdout, "data");
      await expect(take()).rejects.toThrow(/Failed to get "write" lock/);
    } finally {
      guest.stdin.end("quit\n");
      await once(guest, "close");
    }
    expect(snapshotsIn(file)).toEqual([]);
  });

  it("is refused when the volume is no disk of the domain", async () => {
    scene.libvirt.inactive = scene.libvirt.inactive.replace(file, "/pool/other");
    await expect(take()).rejects.toThrow(`${file} is no disk of the domain fleet-web`);
    expect(host.calls).toEqual([]);
  });
});

describe("before a VM is stopped", () => {
  it("a volume of another format is refused", async () => {
    create("raw");
    await expect(checkSnapshot(file, scene.deps)).rejects.toThrow(
      `persist.snapshots: ${file} is not a qcow2 file, so no snapshot can be kept in it; allowed: a qcow2 volume, or persist.snapshots: 0`,
    );
    expect(host.calls).toEqual([]);
  });

  it("a pool without room for all that may be overwritten is refused, with what is free and what is needed", async () => {
    write(1);
    const used = fs.statSync(file).blocks * 512;
    host.free = used;
    await checkSnapshot(file, scene.deps);
    host.free = MIB / 2;
    await expect(checkSnapshot(file, scene.deps)).rejects.toThrow(
      /^persist\.snapshots: the pool fleet of qemu:\/\/\/system has 512 KiB free, and up to \S+ \S+ are needed.*allowed: a pool with more space, or persist\.snapshots: 0$/,
    );
  });

  it("former snapshots do not count: no more than the disk's own size can be overwritten", async () => {
    for (const name of ["one", "two"]) {
      execFileSync("qemu-io", ["-f", "qcow2", "-c", "write -q -P 1 0 8M", file]);
      host.img("snapshot", "-c", name, file);
    }
    expect(fs.statSync(file).blocks * 512).toBeGreaterThan(8 * MIB);
    host.free = 8 * MIB;
    await checkSnapshot(file, scene.deps);
  });
});

describe("restoring", () => {
  it("puts the data back, and keeps what was there in a snapshot", async () => {
    write(1);
    const name = await take();
    write(2);
    const kept = await restore(name);
    expect(byte()).toBe(1);
    expect(kept).toMatch(new RegExp(`^nixvm-${B}-`));
    expect(byte(kept)).toBe(2);
    await restore(kept, A);
    expect(byte()).toBe(2);
    expect(snapshotsIn(file)).toEqual([name, kept]);
  });

  it("that was broken off is finished by the next one, and loses nothing", async () => {
    write(1);
    const name = await take();
    write(2);
    for (const done of [false, true]) {
      host.failing = { verb: "snapshot-revert", done };
      await expect(restore(name)).rejects.toThrow("told to fail");
    }
    host.failing = undefined;
    await restore(name);
    expect(byte()).toBe(1);
    expect(snapshotsIn(file).map((saved) => byte(saved))).toContain(2);
  });

  it("of a snapshot that is not there, or not ours, is refused before anything is touched", async () => {
    host.img("snapshot", "-c", "by hand", file);
    write(2);
    await expect(restore("by hand")).rejects.toThrow(`${file} has no snapshot by hand of ours; it has: none`);
    const name = await take();
    const other = `nixvm-${B}-20260101T000000Z`;
    await expect(restore(other)).rejects.toThrow(`${file} has no snapshot ${other} of ours; it has: ${name}`);
    expect(snapshotsIn(file)).toEqual(["by hand", name]);
    expect(byte()).toBe(2);
  });

  it("does not happen when what is there cannot be kept", async () => {
    write(1);
    const name = await take();
    write(2);
    host.failing = { verb: "snapshot-create-as", done: false };
    await expect(restore(name)).rejects.toThrow("told to fail");
    expect(byte()).toBe(2);
  });
});

describe("a volume that grows", () => {
  it("keeps its snapshots, and stays as large as it is when one is restored", async () => {
    write(1);
    const name = await take();
    host.img("resize", "-q", file, String(16 * MIB));
    write(2);
    const kept = await restore(name);
    expect(size()).toBe(16 * MIB);
    const content = contentOf(file);
    expect([content[0], content.length, content.subarray(8 * MIB).some((value) => value !== 0)]).toEqual([
      1,
      16 * MIB,
      false,
    ]);
    expect([contentOf(file, kept).length, byte(kept)]).toEqual([16 * MIB, 2]);
    expect(() => host.img("check", "-q", file)).not.toThrow();
  });

  it("of the old version has its snapshots too, and grows after the upgrade that the message names", async () => {
    create("qcow2", "-o", "compat=0.10");
    write(1);
    const name = await take();
    expect(() => host.img("resize", "-q", file, String(16 * MIB))).toThrow(
      /Can't resize a v2 image which has snapshots/,
    );
    host.img("amend", "-f", "qcow2", "-o", "compat=1.1", file);
    host.img("resize", "-q", file, String(16 * MIB));
    write(2);
    await restore(name);
    expect([byte(), size()]).toEqual([1, 16 * MIB]);
  });
});
