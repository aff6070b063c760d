import { createHash } from "node:crypto";
import { closeSync, openSync, readFileSync, readlinkSync, truncateSync, writeSync } from "node:fs";
import { MIB, Sandbox } from "./guest-sandbox";

let box: Sandbox;
let disk: string;
beforeEach(() => {
  box = new Sandbox();
  disk = box.disk("vdq", "persist", 24);
});
afterEach(() => box.done());

const digest = () => createHash("sha256").update(readFileSync(disk)).digest("hex");
function put(offset: number, data: Buffer | string): void {
  const fd = openSync(disk, "r+");
  writeSync(fd, Buffer.from(data), 0, Buffer.byteLength(data), offset);
  closeSync(fd);
}
const ext4 = (label: string) => box.tool("mkfs.ext4", "-q", "-F", "-L", label, disk);
const label = () => box.tool("blkid", "-p", "-s", "LABEL", "-o", "value", disk).trim();
const mark = "nixvm: this disk is being formatted\n";

/** The script must end with success (a boot goes on), leave the disk as it was, and put a tmpfs where the disk should be. */
function expectRefused(reason: RegExp): void {
  const before = digest();
  const run = box.guest("persist");
  expect(run.code).toBe(0);
  expect(box.state("persist")).toMatchObject({ state: "refused", reason: expect.stringMatching(reason) });
  expect(digest()).toBe(before);
  expect(box.calls()).toMatch(/^mount -t tmpfs .* nixvm-persist /m);
  expect(box.calls()).not.toMatch(/mount -t ext4/);
  expect(box.read("var/log/README")).toBe("skeleton\n");
}

test("a blank disk is formatted, labelled last, filled from the skeleton and mounted", () => {
  const run = box.guest("persist");
  expect(run).toMatchObject({ code: 0 });
  expect(box.state("persist")).toMatchObject({ state: "formatted", label: "var", mount: "/var", device: disk });
  expect(label()).toBe("var");
  expect(box.tool("debugfs", "-R", "cat /log/README", disk)).toBe("skeleton\n");
  expect(box.calls()).toMatch(new RegExp(`^mount -t ext4 -o [^ ]*nodev[^ ]* ${disk} `, "m"));
  expect(
    readFileSync(disk)
      .subarray(23 * MIB)
      .every((byte) => byte === 0),
  ).toBe(true);
});

test("a disk of ours is mounted as it is, whatever its letter, and gets the folders that a newer image needs", () => {
  ext4("var");
  box.disk("vda", "boot", 1);
  const before = box.tool("dumpe2fs", "-h", disk).match(/UUID: +(.*)/)![1];
  expect(box.guest("persist").code).toBe(0);
  expect(box.state("persist")).toMatchObject({ state: "mounted" });
  expect(box.tool("dumpe2fs", "-h", disk)).toContain(before);
  expect(box.has("var/home")).toBe(true);
});

test("the label comes from the seed", () => {
  box.write("run/seed/incoming/plan", "hostname\tweb\npersist\t/var\text4\tdata-1\n");
  expect(box.guest("persist").code).toBe(0);
  expect(label()).toBe("data-1");
  expect(box.state("persist")).toMatchObject({ state: "formatted", label: "data-1" });
});

describe("a disk that carries anything else is refused and not written to", () => {
  test.each<[string, RegExp, () => void]>([
    ["ext4 with another label", /labelled 'other', the seed asks for 'var'/, () => ext4("other")],
    ["ext4 without a label", /labelled ''/, () => box.tool("mkfs.ext4", "-q", "-F", disk)],
    ["ext2", /ext2, not ext4/, () => box.tool("mkfs.ext4", "-q", "-F", "-t", "ext2", "-L", "var", disk)],
    ["FAT", /vfat/, () => box.tool("mkfs.vfat", "-n", "VAR", disk)],
    [
      "a LUKS header",
      /crypto_LUKS/,
      () => put(0, Buffer.concat([Buffer.from("LUKS\xba\xbe\0\x01", "latin1"), Buffer.alloc(600, 65)])),
    ],
    ["swap", /swap|not empty/, () => put(4086, "SWAPSPACE2")],
    [
      "XFS",
      /xfs|not empty/,
      () => put(0, Buffer.concat([Buffer.from("XFSB\0\0\x10\0", "latin1"), Buffer.alloc(8, 1)])),
    ],
    [
      "a ZFS member",
      /zfs_member/,
      () => {
        // smaller disks are not looked at for ZFS
        truncateSync(disk, 64 * MIB);
        const uberblock = Buffer.alloc(1024);
        uberblock.writeBigUInt64LE(0x00bab10cn);
        for (let i = 0; i < 16; i++) put(128 * 1024 + i * 1024, uberblock);
      },
    ],
    ["a GPT", /gpt|PMBR/, () => box.tool("sh", "-c", `echo 'label: gpt' | sfdisk -q '${disk}'`)],
    ["a DOS partition table", /dos/, () => box.tool("sh", "-c", `echo 'label: dos' | sfdisk -q '${disk}'`)],
    [
      "ext4 of ours with another signature beside it",
      /signatures|crypto_LUKS/,
      () => (ext4("var"), put(0, Buffer.from("LUKS\xba\xbe\0\x01", "latin1"))),
    ],
    ["unknown bytes at the start", /first MiB is not empty/, () => put(700_000, "x")],
    ["unknown bytes at the end", /last MiB is not empty/, () => put(24 * MIB - 1, "x")],
  ])("%s", (_name, reason, prepare) => {
    prepare();
    expectRefused(reason);
  });

  test("a disk too small for a file system", () => {
    truncateSync(disk, 8 * MIB);
    expectRefused(/at least 16777216 are needed/);
  });

  test("two disks with the same serial", () => {
    box.disk("vdz", "persist", 24);
    expectRefused(/more than one disk/);
  });
});

describe("formatting that was broken off is done again", () => {
  test("before the file system was there: only our mark and unknown blocks", () => {
    put(23 * MIB, mark);
    put(300_000, "half a file system");
    expect(box.guest("persist").code).toBe(0);
    expect(box.state("persist")).toMatchObject({ state: "formatted", reason: expect.stringContaining("redone") });
    expect(label()).toBe("var");
  });

  test("after the file system, before its final label", () => {
    ext4("nixvm-formatting");
    expect(box.guest("persist").code).toBe(0);
    expect(box.state("persist")).toMatchObject({ state: "formatted" });
    expect(label()).toBe("var");
    expect(box.tool("debugfs", "-R", "cat /log/README", disk)).toBe("skeleton\n");
  });

  test("after the final label, before the mark was cleared: the data is kept", () => {
    box.tool("mkfs.ext4", "-q", "-F", "-b", "4096", "-L", "var", disk, String((23 * MIB) / 4096));
    put(23 * MIB, mark);
    const uuid = box.tool("blkid", "-p", "-s", "UUID", "-o", "value", disk);
    expect(box.guest("persist").code).toBe(0);
    expect(box.state("persist")).toMatchObject({ state: "mounted" });
    expect(box.tool("blkid", "-p", "-s", "UUID", "-o", "value", disk)).toBe(uuid);
  });

  test("our mark gives no right to a foreign signature", () => {
    put(23 * MIB, mark);
    put(0, Buffer.concat([Buffer.from("LUKS\xba\xbe\0\x01", "latin1"), Buffer.alloc(600, 65)]));
    expectRefused(/crypto_LUKS/);
  });
});

test("without a disk the guest starts on a tmpfs and says so", () => {
  box.remove("sys/block/vdq");
  expect(box.guest("persist").code).toBe(0);
  expect(box.state("persist")).toMatchObject({ state: "missing", reason: expect.stringContaining("serial persist") });
  expect(box.calls()).toMatch(/^mount -t tmpfs .* nixvm-persist /m);
});

test("a seed that wants no disk leaves the one there alone", () => {
  box.write("run/seed/incoming/plan", "persist\tnone\n");
  const before = digest();
  expect(box.guest("persist").code).toBe(0);
  expect(box.state("persist")).toMatchObject({ state: "none" });
  expect(digest()).toBe(before);
});

test("a tool that breaks in the middle ends in a refusal, not in a guest without /var", () => {
  box.write("bin/mkfs.ext4", "#!/bin/sh\nexit 1\n");
  box.tool("chmod", "755", box.path("bin/mkfs.ext4"));
  expect(box.guest("persist").code).toBe(0);
  expect(box.state("persist")).toMatchObject({ state: "refused", reason: expect.stringContaining("mkfs.ext4 failed") });
  expect(box.calls()).toMatch(/^mount -t tmpfs .* nixvm-persist /m);
});

describe("grow", () => {
  test("lets the file system follow the disk, once", () => {
    box.guest("persist");
    expect(box.state("persist")).toMatchObject({ sizeBytes: String(23 * MIB) });
    expect(box.guest("grow").code).toBe(0);
    expect(box.state("grow")).toMatchObject({ state: "unchanged", sizeBytes: String(23 * MIB) });
    truncateSync(disk, 40 * MIB);
    expect(box.guest("grow").code).toBe(0);
    expect(box.state("grow")).toMatchObject({ state: "grown", sizeBytes: String(40 * MIB) });
    expect(box.guest("grow").code).toBe(0);
    expect(box.state("grow")).toMatchObject({ state: "unchanged", sizeBytes: String(40 * MIB) });
  });

  test("is started by a boot that finds the disk larger, and by no other", () => {
    for (const size of [24, 26]) {
      truncateSync(disk, size * MIB);
      box.guest("persist");
      expect(box.has("wants")).toBe(false);
    }
    truncateSync(disk, 40 * MIB);
    box.guest("persist");
    expect(readlinkSync(box.path("wants/nixvm-grow.service"))).toBe("../nixvm-grow.service");
  });

  test("reports what resize2fs said", () => {
    box.guest("persist");
    truncateSync(disk, 40 * MIB);
    box.write("resize-fails", "");
    expect(box.guest("grow").code).toBe(1);
    expect(box.state("grow")).toMatchObject({ state: "failed", reason: expect.stringContaining("no space for it") });
  });

  test("has nothing to do without a mounted disk", () => {
    box.remove("sys/block/vdq");
    box.guest("persist");
    expect(box.guest("grow").code).toBe(0);
    expect(box.state("grow")).toMatchObject({ state: "none" });
    expect(box.calls()).not.toMatch(/resize2fs/);
  });
});
