// `zfs open`: which disk becomes the pool, which is refused, and what is told about it.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, statSync, truncateSync } from "node:fs";
import path from "node:path";
import { guestDir, MIB } from "./guest-sandbox";
import { CREATE, DATASETS, MARK, OPENED, SIZE, ZfsSandbox } from "./guest-zfs-support";

const root = path.resolve(guestDir, "../..");
let box: ZfsSandbox;
beforeEach(() => (box = new ZfsSandbox()));
afterEach(() => box.done());

describe("open, on a blank disk", () => {
  test("makes the pool with the document's properties, unencrypted, and all datasets (Z-15 to Z-18, Z-20, Z-28, Z-30 to Z-33, C-24)", () => {
    expect(box.open().code).toBe(0);
    expect(box.changes()).toEqual([
      "mknod /dev/nixvm-pool b 254 16",
      CREATE,
      ...DATASETS,
      "zpool export rpool",
      ...OPENED,
    ]);
    expect(box.calls()).not.toMatch(/encryption/);
    expect(box.state("persist")).toEqual({
      state: "formatted",
      reason: "",
      label: "rpool",
      mount: "/persist",
      device: box.persist,
      sizeBytes: String(SIZE * MIB),
    });
    expect(box.state("rollback")).toEqual({ state: "done", reason: "", dataset: "rpool/local/root" });
    expect(box.has("dev/nixvm-pool")).toBe(false);
  });

  test("makes and mounts the same with busybox", () => {
    box.open();
    const dash = box.changes();
    box.done();
    box = new ZfsSandbox("ash");
    expect(box.open()).toMatchObject({ code: 0 });
    expect(box.changes()).toEqual(dash);
    expect(readFileSync(box.path("run/hostid")).readUInt32LE(0).toString(16)).toBe("dbd36cb7");
    mkdirSync(box.path("target"));
    expect(box.guest("zfs", "mount", box.path("target"))).toMatchObject({ code: 0 });
    expect(box.changes()).toContain("mount -t zfs rpool/safe/persist /target/persist");
  });

  test("takes the empty snapshot right after the dataset, before anything is mounted (Z-29)", () => {
    box.open();
    const made = box.changes();
    const at = made.indexOf(DATASETS[0]!);
    expect(made[at + 1]).toBe(DATASETS[1]);
    expect(made.some((call) => call.startsWith("mount "))).toBe(false);
  });

  test("has normalization=none, and the form that the document took back is used nowhere (Z-19)", () => {
    box.open();
    expect(box.calls()).toContain(" -O normalization=none ");
    const parts = ["nix", "images", "components", "provider", "cli", "stacks"].map((dir) => path.join(root, dir));
    expect(spawnSync("grep", ["-rIl", "formD", ...parts], { encoding: "utf8" })).toMatchObject({
      status: 1,
      stdout: "",
    });
  });

  test("leaves no mark behind, and nothing waits for udev", () => {
    box.open();
    expect(readFileSync(box.persist).includes(MARK.trim())).toBe(false);
    expect(box.read("opt-out").trim()).toBe("YES");
  });

  test("a second start opens the same pool and creates nothing (Z-27, Z-49, Z-53)", () => {
    box.open();
    box.boot();
    const before = box.digest();
    expect(box.open().code).toBe(0);
    expect(box.changes()).toEqual(OPENED);
    expect(box.state("persist")).toMatchObject({ state: "mounted", reason: "" });
    expect(box.digest()).toBe(before);
  });

  test("the pool has the name that the seed gives it", () => {
    box.write("run/state/layout", box.layout.replace("rpool", "tank"));
    box.write("pool", "tank");
    box.nextPool("tank");
    box.open();
    expect(box.changes()).toContain(CREATE.replace("rpool", "tank"));
    expect(box.state("persist")).toMatchObject({ state: "formatted", label: "tank" });
    expect(box.state("rollback")).toMatchObject({ state: "done", dataset: "tank/local/root" });
  });

  test("encryption changes the creation of the pool and nothing else (Z-21 to Z-23)", () => {
    box.open();
    const plain = box.changes();
    box.boot();
    truncateSync(box.persist, 0);
    truncateSync(box.persist, SIZE * MIB);
    box.open({ NIXVM_ZFS_ENCRYPTION: "on" });
    const encrypted =
      "zpool create -f -o ashift=12 -O encryption=aes-256-gcm -O keyformat=passphrase -O keylocation=prompt " +
      "-O mountpoint=none -O acltype=posixacl -O compression=lz4 -O xattr=sa rpool /dev/nixvm-pool";
    expect(box.changes()).toEqual(plain.map((call) => (call === CREATE ? encrypted : call)));
  });
});

describe("creation that was cut off is done again from the start", () => {
  test.each([
    ["while the labels were written", "zpool create -o ashift=12", " half"],
    ["after the pool was there", "rpool /dev/nixvm-pool", ""],
    ["before the snapshot", "create -p -o canmount=noauto", ""],
    ["after the snapshot", "snapshot rpool/local/root@blank", ""],
    ["before the last dataset", "rpool/safe/home", ""],
    ["before the mark was removed", "export rpool", ""],
  ])("%s", (_when, at, half) => {
    // the sandbox has a space in its path, so the call is named by what is left and right of it
    box.write("cut", half ? half.trim() : at.replace("/dev/nixvm-pool", `${box.dir}/dev/nixvm-pool`));
    box.open();
    expect(box.calls()).toContain(at.split(" /dev")[0]);
    expect(existsSync(box.path("run/state/persist"))).toBe(false);
    box.boot();
    expect(box.open().code).toBe(0);
    expect(box.changes().filter((call) => !call.startsWith("mknod"))).toEqual([
      CREATE,
      ...DATASETS,
      "zpool export rpool",
      ...OPENED,
    ]);
    expect(box.state("persist")).toMatchObject({ state: "formatted", reason: "redone after an interruption" });
    box.boot();
    box.open();
    expect(box.changes()).toEqual(OPENED);
  });

  test("but our mark gives no right to a foreign signature", () => {
    box.put(MIB, MARK);
    box.put(0, Buffer.concat([Buffer.from("LUKS\xba\xbe\0\x01", "latin1"), Buffer.alloc(600, 65)]));
    expectRefused(/crypto_LUKS/);
  });
});

/** The boot goes on, the disk is as it was, no tool that could change it was called, and the root is not the one on the pool. */
function expectRefused(reason: RegExp): void {
  const before = box.digest();
  expect(box.open().code).toBe(0);
  expect(box.state("persist")).toMatchObject({ state: "refused", reason: expect.stringMatching(reason) });
  expect(box.state("persist")["reason"]).toMatch(/nothing was written to it/);
  expect(box.state("rollback")).toMatchObject({ state: "failed", reason: expect.stringMatching(reason), dataset: "" });
  expect(box.digest()).toBe(before);
  expect(box.changes()).toEqual([]);
}

describe("a disk that is not ours is refused and not written to", () => {
  test.each<[string, RegExp, () => void]>([
    ["ext4", /carries ext4/, () => box.tool("mkfs.ext4", "-q", "-F", "-L", "rpool", box.persist)],
    ["FAT", /carries vfat/, () => box.tool("mkfs.vfat", "-n", "RPOOL", box.persist)],
    ["a pool of another name", /holds the pool 'tank', not 'rpool'/, () => box.havePool("tank")],
    [
      "a GPT",
      /partition table \(gpt\)|PMBR/,
      () => box.tool("sh", "-c", `echo 'label: gpt' | sfdisk -q '${box.persist}'`),
    ],
    [
      "a pool beside another signature",
      /LUKS|several signatures/,
      () => (box.havePool("rpool"), box.put(0, Buffer.from("LUKS\xba\xbe\0\x01", "latin1"))),
    ],
    [
      "labels without a name",
      /holds the pool ''/,
      () => (box.havePool("rpool"), [0, 262144].forEach((at) => box.put(at + 16384, Buffer.alloc(4096)))),
    ],
    ["unknown bytes at the start", /first MiB is not empty/, () => box.put(700_000, "x")],
    ["unknown bytes at the end", /last MiB is not empty/, () => box.put(SIZE * MIB - 1, "x")],
    ["too little room", /at least 67108864/, () => truncateSync(box.persist, 32 * MIB)],
  ])("%s", (_name, reason, prepare) => {
    prepare();
    expectRefused(reason);
  });

  test("two disks with the same serial", () => {
    box.disk("vdz", "persist", SIZE);
    expectRefused(/more than one disk/);
  });

  test("a mount point that the pool has no dataset for", () => {
    box.write("run/state/layout", box.layout.replace("/persist", "/var"));
    expectRefused(/for \/persist, the seed asks for \/var/);
  });

  test("a kernel without ZFS", () => {
    box.write("fails", "modprobe zfs\nmodprobe: FATAL: Module zfs not found.\n");
    expectRefused(/no ZFS: modprobe: FATAL: Module zfs not found/);
  });
});

test("without a disk the guest starts and says so", () => {
  box.remove("sys/block/vdq");
  expect(box.open().code).toBe(0);
  expect(box.state("persist")).toMatchObject({ state: "missing", reason: "no disk with the serial persist" });
  expect(box.state("rollback")).toMatchObject({ state: "failed", reason: expect.stringContaining("serial persist") });
});

describe("a tool that fails ends in a state, not in a broken start", () => {
  test.each([
    ["mknod", "mknod", /mknod: not permitted/],
    ["zpool create", "zpool create", /zpool: cannot create/],
    ["zfs snapshot", "zfs snapshot", /zfs: out of space/],
    ["zpool export", "zpool export", /zpool: pool is busy/],
  ])("%s, while the pool is made: the next start does it again", (_name, at, reason) => {
    const said = { mknod: "not permitted", "zpool create": "cannot create", "zfs snapshot": "out of space" }[at];
    box.write("fails", `${at}\n${said ?? "pool is busy"}\n`);
    expect(box.open().code).toBe(0);
    expect(box.state("persist")).toMatchObject({ state: "refused", reason: expect.stringMatching(reason) });
    expect(box.state("rollback")).toMatchObject({ state: "failed" });
    expect(box.calls()).not.toMatch(/zpool import|zfs rollback/);
    expect(box.has("dev/nixvm-pool")).toBe(false);
    box.boot();
    box.open();
    expect(box.state("persist")).toMatchObject({ state: "formatted" });
  });

  test("zpool import: the disk is left alone, and no pool is made over it", () => {
    box.havePool("rpool");
    const before = box.digest();
    box.write("fails", `zpool import\ncannot import 'rpool': one or more devices is currently unavailable\n`);
    box.open();
    expect(box.state("persist")).toMatchObject({
      state: "refused",
      reason: expect.stringContaining("cannot import 'rpool': one or more devices"),
    });
    expect(box.calls()).not.toMatch(/create|rollback/);
    expect(box.digest()).toBe(before);
  });

  test("another pool of that name is open already: it is not taken for ours, and not rolled back", () => {
    box.havePool("rpool");
    box.write("list", "58720256\t-\t42\n");
    box.open();
    expect(box.state("persist")).toMatchObject({ state: "refused", reason: expect.stringContaining("another pool") });
    expect(box.calls()).not.toMatch(/rollback/);
  });

  test("a script that breaks in the middle", () => {
    box.havePool("rpool");
    mkdirSync(box.path("run/hostid"));
    box.open();
    expect(box.state("persist")).toMatchObject({ state: "refused", reason: "zfs broke off unexpectedly" });
  });
});

describe("rollback", () => {
  beforeEach(() => box.havePool("rpool"));

  test("runs at every boot after the import, and touches the root dataset only (Z-53, Z-57, Z-58)", () => {
    for (let start = 0; start < 3; start++) {
      box.boot();
      box.open();
      expect(box.changes()).toEqual(OPENED);
    }
  });

  test.each([
    ["the snapshot is gone", "cannot open 'rpool/local/root@blank': dataset does not exist"],
    ["it fails", "cannot rollback 'rpool/local/root': out of space"],
  ])("when %s the console says so and the root is not used (Z-62)", (_name, said) => {
    box.write("fails", `rollback\n${said}\n`);
    const run = box.open();
    expect(run.code).toBe(0);
    expect(run.log).toMatch(/CANNOT be put back/);
    expect(box.state("persist")).toMatchObject({ state: "mounted" });
    expect(box.state("rollback")).toEqual({ state: "failed", reason: `zfs: ${said}`, dataset: "rpool/local/root" });
    box.remove("fails");
    mkdirSync(box.path("target"));
    expect(box.guest("zfs", "mount", box.path("target")).code).toBe(0);
    expect(box.changes()).not.toContain("mount -t zfs rpool/local/root /target");
    expect(box.changes()).toContain("mount -t zfs rpool/safe/persist /target/persist");
  });

  test("is a switch: off for the boot after an installation, on by itself (Z-59)", () => {
    box.open({ NIXVM_ROLLBACK: "off" });
    expect(box.calls()).not.toMatch(/rollback/);
    expect(box.state("rollback")).toMatchObject({ state: "off", dataset: "rpool/local/root" });
    box.boot();
    box.open({ NIXVM_ROLLBACK: "on" });
    expect(box.state("rollback")).toMatchObject({ state: "done" });
  });

  test("never happens to a root that is in use", () => {
    box.open();
    box.write("proc/self/mounts", "rpool/local/root / zfs rw 0 0\n");
    box.write("calls", "");
    expect(box.open().code).toBe(0);
    expect(box.changes()).toEqual([]);
    expect(box.state("rollback")).toMatchObject({ state: "done" });
  });
});

describe("host id", () => {
  test("reaches the module before the pool is opened, and hostid(1) by the image's link", () => {
    box.havePool("rpool");
    box.open();
    expect(box.read("sys/module/spl/parameters/spl_hostid")).toBe("0xdbd36cb7\n");
    expect(readFileSync(box.path("run/hostid")).readUInt32LE(0).toString(16)).toBe("dbd36cb7");
    expect(statSync(box.path("run/hostid")).size).toBe(4);
  });

  test.each(["DBD36CB7", "dbd36cb", "dbd36cb77", "$(reboot)"])("%s is none, and is not used", (id) => {
    box.havePool("rpool");
    box.write("run/seed/incoming/plan", `hostId\t${id}\n`);
    const run = box.open();
    expect(run.log).toMatch(/no host id/);
    expect(box.has("run/hostid")).toBe(false);
    expect(box.state("persist")).toMatchObject({ state: "mounted" });
  });
});

test.each([[], ["open", "now"], ["mount"], ["layout", "raid", "/dev/vda"], ["destroy"]])(
  "anything else is answered with the usage: %s",
  (...args) => {
    expect(box.guest("zfs", ...args)).toMatchObject({ code: 2, log: expect.stringMatching(/usage: zfs open/) });
    expect(box.changes()).toEqual([]);
  },
);
