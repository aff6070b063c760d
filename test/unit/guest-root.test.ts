import { lstatSync, mkdirSync, readdirSync, readlinkSync, statSync, symlinkSync } from "node:fs";
import { Sandbox } from "./guest-sandbox";

let box: Sandbox;
beforeEach(() => {
  box = new Sandbox();
  // the read-only system of an image
  for (const dir of ["usr/bin", "etc/ssh", "boot", "home", "root", "proc", "nix/store", "lost+found"])
    mkdirSync(box.path(`image/${dir}`), { recursive: true });
  box.write("image/etc/fstab", "PARTLABEL=nixvm-esp /boot vfat ro 0 0\n");
  box.write("image/etc/os-release", "ID=test\n");
  box.write("image/usr/bin/tool", "");
  symlinkSync("usr/bin", box.path("image/bin"));
});
afterEach(() => box.done());

const plan = (...lines: string[]) => box.write("run/seed/incoming/plan", lines.map((line) => `${line}\n`).join(""));
const target = () => box.read("run/target").trim();
const ZVM = ["rootMode\ttmpfs", "persist\t/persist\text4\tpersist"];

test("readonly: the system runs in the image's own root, and only /tmp is in memory (T-7, T-11)", () => {
  plan("rootMode\treadonly", "persist\t/var\text4\tvar");
  expect(box.guest("assemble-root").code).toBe(0);
  expect(target()).toBe("");
  expect(box.calls()).toMatch(/^mount -t tmpfs -o mode=1777\S* nixvm-tmp \S.*\/image\/tmp$/m);
  expect(box.calls()).not.toMatch(/remount/);
  expect(box.state("layout")).toEqual({ rootMode: "readonly", mount: "/var", fs: "ext4", label: "var", reason: "" });
});

test("without any seed the image's own defaults hold", () => {
  expect(box.guest("assemble-root").code).toBe(0);
  expect(box.state("layout")).toMatchObject({ rootMode: "readonly", mount: "/var", label: "var" });
  box.restart();
  const image = { NIXVM_ROOT_MODE: "tmpfs", NIXVM_PERSIST: "/persist\text4\tpersist" };
  expect(box.guest("assemble-root", image).code).toBe(0);
  expect(box.state("layout")).toMatchObject({ rootMode: "tmpfs", mount: "/persist", label: "persist" });
});

test("tmpfs: an empty root gets the programs by bind mount, /etc as a copy and /var from the skeleton (V-2, P-22)", () => {
  plan(...ZVM);
  expect(box.guest("assemble-root").code).toBe(0);
  expect(target()).toBe(box.path("sysroot"));
  expect(box.calls()).toMatch(/^mount -t tmpfs -o mode=755 nixvm-root .*\/sysroot$/m);
  expect(readlinkSync(box.path("sysroot/bin"))).toBe("usr/bin");
  expect(box.calls()).toContain(`mount --bind ${box.path("image/usr")} ${box.path("sysroot/usr")}\n`);
  expect(box.calls()).toContain(`mount --bind ${box.path("image/nix")} ${box.path("sysroot/nix")}\n`);
  expect(lstatSync(box.path("sysroot/etc")).isSymbolicLink()).toBe(false);
  expect(box.read("sysroot/etc/os-release")).toBe("ID=test\n");
  expect(box.read("sysroot/var/log/README")).toBe("skeleton\n");
  expect(readdirSync(box.path("sysroot")).sort()).toEqual(
    "bin boot dev etc home media mnt nix opt persist proc root run scratch srv sys sysroot tmp usr var".split(" "),
  );
  expect(statSync(box.path("sysroot/root")).mode & 0o777).toBe(0o700);
  // nothing was written to the image
  expect(readdirSync(box.path("image")).sort()).toEqual(
    "bin boot etc home image.json lost+found nix proc root tmp usr".split(" "),
  );
});

test("tmpfs: the size comes from the seed", () => {
  plan(...ZVM, "rootSize\t268435456");
  box.guest("assemble-root");
  expect(box.calls()).toMatch(/^mount -t tmpfs -o mode=755,size=268435456 nixvm-root /m);
});

test("persistent: the image's root is made writable, and /var filled once; /tmp is on it (P-20, P-34)", () => {
  plan("rootMode\tpersistent", "persist\t/persist\text4\tpersist");
  mkdirSync(box.path("image/var"));
  expect(box.guest("assemble-root").code).toBe(0);
  expect(target()).toBe("");
  expect(box.calls()).toContain(`mount -o remount,rw ${box.path("image")}\n`);
  expect(box.read("image/var/log/README")).toBe("skeleton\n");
  expect(box.calls()).not.toMatch(/nixvm-tmp/);
  mkdirSync(box.path("image/var/lib"));
  box.write("image/var/log/README", "mine\n");
  box.restart();
  plan("rootMode\tpersistent", "persist\t/persist\text4\tpersist");
  box.guest("assemble-root");
  expect(box.read("image/var/log/README")).toBe("mine\n");
});

describe("zfs-rollback", () => {
  const wanted = ["rootMode\tzfs-rollback", "persist\t/persist\tzfs\trpool", "hostId\t0badcafe"];

  test("without a usable pool the root is in memory, and the reason is kept (Z-62)", () => {
    plan(...wanted);
    expect(box.guest("assemble-root").code).toBe(0);
    expect(box.state("rollback")).toMatchObject({ state: "failed" });
    expect(box.state("layout")).toMatchObject({ rootMode: "zfs-rollback", reason: "the root is in memory" });
    expect(box.calls()).toMatch(/^mount -t tmpfs -o mode=755 nixvm-root /m);
    expect(box.calls()).not.toMatch(/^mount -t zfs/m);
    expect(target()).toBe(box.path("sysroot"));
  });
});

test("a root that another tool makes is only decided upon", () => {
  plan(...ZVM);
  expect(box.guest("assemble-root", { NIXVM_ROOT_MADE: "1" }).code).toBe(0);
  expect(box.state("layout")).toMatchObject({ rootMode: "tmpfs", mount: "/persist", reason: "" });
  expect(box.calls()).toBe("");
});

test("a root mode that nobody knows leaves the image's root as it is, and says so", () => {
  plan("rootMode\tlater");
  expect(box.guest("assemble-root").code).toBe(0);
  expect(box.state("layout")["reason"]).toBe("the root mode 'later' is not known");
  expect(target()).toBe("");
});

test("a tmpfs that cannot be mounted is told, and the image's root is used", () => {
  plan(...ZVM);
  box.write("mount-fails", `-t tmpfs -o mode=755 nixvm-root ${box.path("sysroot")}\n`);
  expect(box.guest("assemble-root").code).toBe(0);
  expect(box.state("layout")["reason"]).toBe("the tmpfs for the root cannot be mounted");
  expect(target()).toBe("");
});

describe("home", () => {
  test.each([
    ["tmpfs\t268435456", /^mount -t tmpfs -o nosuid,nodev,mode=755,size=268435456 nixvm-home \S.*\/home$/m, "tmpfs"],
    ["tmpfs\t-", /^mount -t tmpfs -o nosuid,nodev,mode=755 nixvm-home /m, "tmpfs"],
    ["persistent\t-", /^mount --bind .*\/persist\/home .*\/home$/m, "kept"],
  ])("%j (P-3 to P-5, T-10)", (line, call, state) => {
    plan(...ZVM, `home\t${line}`);
    expect(box.guest("home").code).toBe(0);
    expect(box.calls()).toMatch(call);
    expect(box.state("home")).toMatchObject({ state });
  });

  test("kept without a persistent disk is a folder of the root", () => {
    plan("rootMode\tpersistent", "persist\tnone", "home\tpersistent\t-");
    box.guest("home");
    expect(box.state("home")).toMatchObject({ state: "root" });
    expect(box.calls()).not.toMatch(/ .*\/home$/m);
  });

  test("a failing mount is a reason in the record", () => {
    plan(...ZVM, "home\ttmpfs\t-");
    box.write("mount-fails", `-t tmpfs -o nosuid,nodev,mode=755 nixvm-home ${box.path("home")}\n`);
    expect(box.guest("home").code).toBe(0);
    expect(box.state("home")).toMatchObject({ state: "failed", reason: "the tmpfs cannot be mounted" });
  });
});

test("the initrd's runner goes through all parts and stops at none of them", () => {
  box.disk("vdb", "persist", 32);
  const run = box.guest("initrd", { NIXVM_SEED_WAIT: "0" });
  expect(run.code).toBe(0);
  for (const part of ["layout", "persist", "home", "seed", "allowlist", "scratch"])
    expect([part, box.has(`run/state/${part}`)]).toEqual([part, true]);
});
