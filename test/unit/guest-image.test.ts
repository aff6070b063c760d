// The writer of the root file system: the same tree gives the same bytes, and what is in it is what was in the archive.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

const images = path.resolve(__dirname, "../../images");
const EPOCH = 1763596800;
const env = { ...process.env, PATH: `${process.env["PATH"]}:/usr/sbin:/sbin` };
let dir: string;
beforeEach(() => (dir = mkdtempSync(path.join(tmpdir(), "nixvm image "))));
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function run(command: string, ...args: string[]): string {
  const result = spawnSync(command, args, { encoding: "utf8", env });
  if (result.error || result.status !== 0) throw new Error(`${command}: ${result.error?.message ?? result.stderr}`);
  return result.stdout;
}

/** A small tree, made in the order given, so that two calls leave different times and directory orders behind. */
function tree(name: string, order: string[]): string {
  const root = path.join(dir, name);
  const make: Record<string, () => void> = {
    tool: () => (writeFileSync(`${root}/usr/tool`, "#!/bin/sh\n"), chmodSync(`${root}/usr/tool`, 0o755)),
    unit: () => writeFileSync(`${root}/usr/a\\x2db.slice`, "x".repeat(10_000)),
    spaced: () => writeFileSync(`${root}/usr/with space`, "1"),
    link: () => symlinkSync("/run/nixvm/etc/passwd", `${root}/etc/passwd`),
    secret: () => (writeFileSync(`${root}/etc/secret`, "s"), chmodSync(`${root}/etc/secret`, 0o600)),
    empty: () => writeFileSync(`${root}/etc/empty`, ""),
    long: () => {
      const deep = `${root}/usr/${"d".repeat(90)}/${"e".repeat(90)}`;
      mkdirSync(deep, { recursive: true });
      writeFileSync(`${deep}/f`, "deep");
    },
  };
  mkdirSync(`${root}/usr`, { recursive: true });
  mkdirSync(`${root}/etc`);
  mkdirSync(`${root}/nixvm-build`);
  writeFileSync(`${root}/nixvm-build/vmlinuz`, "not for the image");
  for (const part of order) make[part]!();
  linkSync(`${root}/usr/tool`, `${root}/usr/tool2`);
  run(
    "tar",
    "-c",
    "--sort=name",
    "--format=pax",
    "--pax-option=delete=atime,delete=ctime",
    "--numeric-owner",
    "--owner=5",
    "--group=7",
    `--mtime=@${EPOCH}`,
    "-f",
    `${root}.tar`,
    "-C",
    root,
    ".",
  );
  return `${root}.tar`;
}
const parts = ["tool", "unit", "spaced", "link", "secret", "empty", "long"];

function image(tar: string, name: string): string {
  const overlay = path.join(dir, "overlay");
  mkdirSync(`${overlay}/etc/nixvm`, { recursive: true });
  writeFileSync(`${overlay}/etc/nixvm/image.json`, "{}\n");
  writeFileSync(`${overlay}/etc/empty`, "no longer\n");
  utimesSync(`${overlay}/etc/empty`, new Date(), new Date());
  const out = path.join(dir, `${name}.ext4`);
  run(
    process.execPath,
    path.join(images, "tar2ext4.mjs"),
    tar,
    overlay,
    path.join(dir, `${name}.work`),
    out,
    String(EPOCH),
  );
  return out;
}
const digest = (file: string) => createHash("sha256").update(readFileSync(file)).digest("hex");
const debugfs = (file: string, command: string) => run("debugfs", "-R", command, file);

test("the same tree gives the same bytes, whatever the order and time it was made in", () => {
  const a = image(tree("a", parts), "a");
  const b = image(tree("b", [...parts].reverse()), "b");
  expect(digest(a)).toBe(digest(b));
});

test("content, modes, owners, links and times are those of the archive, with the overlay above", () => {
  const file = image(tree("a", parts), "a");
  expect(debugfs(file, 'cat "/usr/with space"')).toBe("1");
  expect(debugfs(file, "cat /usr/a\\x2db.slice")).toHaveLength(10_000);
  expect(debugfs(file, `cat /usr/${"d".repeat(90)}/${"e".repeat(90)}/f`)).toBe("deep");
  expect(debugfs(file, "cat /etc/empty")).toBe("no longer\n");
  expect(debugfs(file, "stat /etc/passwd")).toMatch(/Type: symlink[^]*"\/run\/nixvm\/etc\/passwd"/);
  expect(debugfs(file, "stat /etc/secret")).toMatch(/Mode: +0600[^]*User: +5 +Group: +7/);
  expect(debugfs(file, "stat /usr/tool2")).toMatch(/Mode: +0755[^]*Links: 2/);
  expect(debugfs(file, "ls /")).not.toMatch(/nixvm-build/);
  for (const inode of ["/usr/tool", "/etc", "/", "/etc/nixvm/image.json", "/lost+found"]) {
    const times = [...debugfs(file, `stat "${inode}"`).matchAll(/[acm]time: 0x([0-9a-f]+)/g)].map((match) =>
      parseInt(match[1]!, 16),
    );
    expect(times).toHaveLength(3);
    expect(new Set(times)).toEqual(new Set([EPOCH]));
  }
});

test("an archive that is cut off is an error, not a smaller image", () => {
  const tar = tree("a", parts);
  writeFileSync(tar, readFileSync(tar).subarray(0, 5000));
  expect(() => image(tar, "a")).toThrow(/ends in the middle/);
});

test("an unknown variant is refused by name before anything is made", () => {
  const result = spawnSync(path.join(images, "build"), ["v3"], {
    encoding: "utf8",
    env: { ...env, NIXVM_DIR: path.join(dir, "nixvm") },
  });
  expect(result.status).toBe(1);
  expect(result.stderr).toMatch(/unknown variant 'v3'; use one of: v1 v2 zfs1 zfs2 broken/);
});

test("no archive host is named in the builder", () => {
  for (const file of ["build", "rootfs", "apt.sh", "zfs-modules", "mkimage", "lib.sh", "hooks/customize"])
    expect(readFileSync(path.join(images, file), "utf8")).not.toMatch(/https?:\/\//);
});

test("the list of packages beside an image is that of dpkg, in an order that does not depend on it, as JSON", () => {
  const list = path.join(dir, "reference.packages");
  writeFileSync(list, "zlib1g 1:1.2.13.dfsg-1\nadduser 3.134\nlibc6 2.36-9+deb12u13\n");
  const text = run("bash", "-c", '. "$1"/lib.sh && package_list "$2"', "bash", images, list);
  expect(JSON.parse(text)).toEqual({
    schema: 1,
    kind: "dpkg",
    packages: [
      ["adduser", "3.134"],
      ["libc6", "2.36-9+deb12u13"],
      ["zlib1g", "1:1.2.13.dfsg-1"],
    ],
  });
});
