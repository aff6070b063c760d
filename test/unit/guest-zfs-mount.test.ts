// `zfs mount`, and how the pool grows.
import { mkdirSync, statSync, truncateSync } from "node:fs";
import { MIB } from "./guest-sandbox";
import { GUID, SIZE, ZfsSandbox } from "./guest-zfs-support";

let box: ZfsSandbox;
beforeEach(() => (box = new ZfsSandbox()));
afterEach(() => box.done());

describe("mount", () => {
  const mount = () => box.guest("zfs", "mount", box.path("target"));
  const MOUNTS = [
    "mount -t zfs rpool/local/root /target",
    "mount -t zfs rpool/local/boot /target/boot",
    "mount -t zfs rpool/local/nix /target/nix",
    "mount -t zfs rpool/safe/home /target/home",
    "mount -t zfs rpool/safe/persist /target/persist",
  ];
  const ESP = "mount -t vfat -o umask=0077 /dev/vda1 /target/boot/efi";
  const esp = (serial: string, name = "EFI") => {
    box.disk("vda", serial, 1);
    box.write("sys/block/vda/vda1/partition", "1\n");
    box.write("dev/vda1", "");
    truncateSync(box.path("dev/vda1"), 4 * MIB);
    box.tool("mkfs.vfat", "-n", name, box.path("dev/vda1"));
  };
  beforeEach(() => {
    box.havePool("rpool");
    box.open();
    box.write("calls", "");
    mkdirSync(box.path("target"));
  });

  test("root first, then the mount points in it, then what lies on it (Z-34, Z-35, Z-38)", () => {
    // a mount in the wrong order finds no folder and fails
    expect(mount()).toMatchObject({ code: 0 });
    expect(box.changes()).toEqual(MOUNTS);
    for (const dir of ["boot", "boot/efi", "nix", "home", "persist"]) expect(box.has(`target/${dir}`)).toBe(true);
    expect(box.state("datasets")).toMatchObject({ state: "mounted" });
    expect(statSync(box.path("target/persist")).mode & 0o777).toBe(0o711);
  });

  test("makes the mount points again at every boot, as the rollback takes them away (Z-39)", () => {
    mount();
    box.boot();
    box.open();
    mkdirSync(box.path("target"));
    expect(mount().code).toBe(0);
    for (const dir of ["boot/efi", "nix", "home", "persist"]) expect(box.has(`target/${dir}`)).toBe(true);
  });

  test("/boot before the EFI partition, which only root can read (Z-36, Z-37)", () => {
    esp("boot");
    expect(mount().code).toBe(0);
    expect(box.changes()).toEqual([...MOUNTS, ESP]);
  });

  test.each([
    ["of a data disk", "persist-2", "EFI"],
    ["with another label", "boot", "OTHER"],
  ])("takes no FAT %s for the EFI partition", (_name, serial, name) => {
    esp(serial, name);
    expect(mount().code).toBe(0);
    expect(box.changes()).toEqual(MOUNTS);
  });

  test("does nothing twice", () => {
    esp("boot");
    mount();
    box.write("calls", "");
    expect(mount().code).toBe(0);
    expect(box.changes()).toEqual([]);
  });

  test("leaves a root alone that has been mounted by its caller", () => {
    box.write("proc/self/mounts", "rpool/local/root /elsewhere zfs rw 0 0\n");
    expect(mount().code).toBe(0);
    expect(box.changes()).toEqual(MOUNTS.slice(1));
  });

  test("a root that cannot be mounted fails closed; a second call mounts the rest on another root", () => {
    box.write("fails", "mount -t zfs rpool/local/root\nit is damaged\n");
    expect(mount().code).toBe(1);
    expect(box.state("rollback")).toMatchObject({ state: "failed", reason: expect.stringContaining("it is damaged") });
    expect(mount().code).toBe(0);
    expect(box.changes()).toEqual([MOUNTS[0], ...MOUNTS.slice(1)]);
  });

  test("an encrypted pool says what is missing, and does not wait for it", () => {
    box.write("fails", "mount -t zfs\nPermission denied\n");
    box.write("keystatus", "unavailable\n");
    expect(mount().code).toBe(1);
    expect(box.state("rollback")).toMatchObject({ reason: expect.stringContaining("passphrase") });
  });

  test.each([
    ["rpool/local/nix", "/nix", "mounted"],
    ["rpool/safe/persist", "/persist", "refused"],
  ])("%s missing: all others are there, and the reason is kept", (dataset, dir, state) => {
    box.write("fails", `mount -t zfs ${dataset}\nit is damaged\n`);
    expect(mount().code).toBe(1);
    expect(box.changes()).toEqual(MOUNTS);
    expect(box.state("datasets")).toEqual({ state: "failed", reason: `not mounted: ${dir} (mount: it is damaged)` });
    expect(box.state("persist")).toMatchObject({ state });
  });

  test("has nothing to do when there is no pool", () => {
    box.boot();
    box.remove("sys/block/vdq");
    box.open();
    expect(mount().code).toBe(0);
    expect(box.changes()).toEqual([]);
  });
});

describe("grow", () => {
  beforeEach(() => {
    box.havePool("rpool");
    box.open();
    box.write("calls", "");
  });

  test("lets the pool follow the box.persist, once, with the size of both", () => {
    expect(box.guest("grow").code).toBe(0);
    expect(box.state("grow")).toMatchObject({ state: "unchanged", sizeBytes: String(SIZE * MIB) });
    expect(box.changes()).toEqual([]);
    truncateSync(box.persist, 128 * MIB);
    box.write("list", "117440512\t-\n");
    expect(box.guest("grow").code).toBe(0);
    expect(box.changes()).toEqual(["zpool online -e rpool /dev/vdq", "zpool list -Hp -o size,expandsize rpool"]);
    expect(box.state("grow")).toMatchObject({ state: "grown", sizeBytes: String(128 * MIB) });
    box.write("calls", "");
    box.guest("grow");
    expect(box.state("grow")).toMatchObject({ state: "unchanged", sizeBytes: String(128 * MIB) });
    expect(box.changes()).toEqual([]);
  });

  test("catches up with a disk that grew while the guest was off", () => {
    box.boot();
    box.write("list", `58720256\t67108864\t${GUID}\n`);
    box.open();
    expect(box.state("persist")).toMatchObject({ sizeBytes: "58720256" });
    box.write("list", "125829120\t-\n");
    box.guest("grow");
    expect(box.changes()).toContain("zpool online -e rpool /dev/vdq");
    expect(box.state("grow")).toMatchObject({ state: "grown", sizeBytes: String(SIZE * MIB) });
  });

  test.each([
    ["zpool online", "cannot expand rpool"],
    ["zpool list", "cannot open rpool"],
  ])("reports what %s said", (at, said) => {
    truncateSync(box.persist, 128 * MIB);
    box.write("fails", `${at}\n${said}\n`);
    expect(box.guest("grow").code).toBe(1);
    expect(box.state("grow")).toMatchObject({
      state: "failed",
      sizeBytes: String(SIZE * MIB),
      reason: `zpool: ${said}`,
    });
  });
});
