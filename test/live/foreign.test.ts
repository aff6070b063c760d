import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import * as path from "node:path";
import { IMAGES, LiveStack, virsh } from "../helpers/liveStack";

// What is on the host and not ours stays as it is, whatever it is called. Nothing here boots.
jest.setTimeout(5 * 60_000);

let stack: LiveStack;
const sha256 = (file: string): string => createHash("sha256").update(fs.readFileSync(file)).digest("hex");

/** SHA-256 of a disk as a guest would see it, or of a snapshot in it. */
function contentOf(volume: string, snapshot?: string): string {
  const raw = path.join(stack.dir, "content.raw");
  const of = snapshot === undefined ? [] : ["-l", `snapshot.name=${snapshot}`];
  execFileSync("qemu-img", ["convert", ...of, "-f", "qcow2", "-O", "raw", volume, raw]);
  return sha256(raw);
}
const pool = path.join(process.env.NIXVM_POOL_ROOT ?? "", "nixvm-foreign");
const config = {
  images: { os: { path: path.join(IMAGES, "reference-v1.qcow2") } },
  defaults: {
    image: "os",
    memory: "64MiB",
    running: false,
    persist: { size: "64MiB", protect: false, retain: false, snapshots: 0 },
  },
  fleet: { web: { network: { mode: "user", sshPort: 23701 } } },
};

function definition(name: string): string {
  const file = path.join(stack.dir, "foreign.xml");
  fs.writeFileSync(
    file,
    `<domain type="qemu"><name>${name}</name><memory unit="MiB">64</memory><os><type>hvm</type></os></domain>`,
  );
  return file;
}

beforeAll(async () => {
  stack = await LiveStack.make("foreign");
  await stack.configure(config);
});

afterAll(() => stack.remove(config));

test("a pool of the same name that this stack did not make is an error, and stays", async () => {
  fs.mkdirSync(pool);
  fs.writeFileSync(path.join(pool, "precious"), "not ours");
  virsh("pool-define-as", "nixvm-foreign", "dir", "--target", pool);
  virsh("pool-start", "nixvm-foreign");
  try {
    const up = await stack.up();
    expect(up.text).toMatch(/storage pool 'nixvm-foreign' already exists/);
    expect(up.error).not.toBe("");
    expect(fs.readdirSync(pool)).toEqual(["precious"]);
  } finally {
    virsh("pool-destroy", "nixvm-foreign");
    virsh("pool-undefine", "nixvm-foreign");
    fs.rmSync(pool, { recursive: true });
  }
});

test("a domain of the same name that this stack did not make is an error, and stays", async () => {
  virsh("define", definition("nixvm-foreign-web"));
  const before = virsh("dumpxml", "nixvm-foreign-web");
  try {
    const up = await stack.up();
    expect(up.text).toMatch(/domain 'nixvm-foreign-web' already exists with uuid/);
    expect(up.error).not.toBe("");
    expect(virsh("dumpxml", "nixvm-foreign-web")).toBe(before);
  } finally {
    virsh("undefine", "nixvm-foreign-web");
  }
});

test("a VM that is not to run is defined and off, and up makes the rest of what was broken off (T-37)", async () => {
  const up = await stack.up();
  expect(up.error).toBe("");
  expect(virsh("domstate", "nixvm-foreign-web").trim()).toBe("shut off");
  const info = execFileSync("qemu-img", ["info", "--output=json", path.join(pool, "nixvm-foreign-web-persist")]);
  // Of the version that grows with snapshots in it.
  const version = { "format-specific": { data: { compat: "1.1" } } };
  expect(JSON.parse(info.toString())).toMatchObject({ format: "qcow2", "virtual-size": 64 << 20, ...version });
  const overlay = fs.readdirSync(pool).find((file) => /^nixvm-foreign-web-[0-9a-f]{12}-/.test(file)) ?? "";
  // A fresh overlay is tiny (T-3).
  expect(fs.statSync(path.join(pool, overlay)).blocks * 512).toBeLessThan(1 << 20);
});

test("an upgrade changes not a bit of a persistent volume that no guest writes to, and a snapshot of it is kept (T-53)", async () => {
  const volume = path.join(pool, "nixvm-foreign-web-persist");
  execFileSync("qemu-io", ["-f", "qcow2", "-c", "write -q -P 7 1M 3M", volume]);
  const [file, content] = [sha256(volume), contentOf(volume)];
  config.images.os.path = path.join(IMAGES, "reference-v2.qcow2");
  await stack.configure(config);
  expect((await stack.up()).error).toBe("");
  expect(sha256(volume)).toBe(file);

  // A snapshot is in the file, so it is the content that stays.
  config.images.os.path = path.join(IMAGES, "reference-v1.qcow2");
  config.defaults.persist.snapshots = 1;
  await stack.configure(config);
  expect((await stack.up()).error).toBe("");
  const info = execFileSync("qemu-img", ["info", "--output=json", volume]).toString();
  const names = (JSON.parse(info) as { snapshots: Array<{ name: string }> }).snapshots.map(({ name }) => name);
  expect(names).toEqual([expect.stringMatching(/^nixvm-[0-9a-f]{12}-\d{8}T\d{6}Z$/)]);
  expect(contentOf(volume)).toBe(content);
  expect(contentOf(volume, names[0])).toBe(content);
  expect(virsh("list", "--all", "--name")).not.toContain("nixvm-data-");
});

test("a stack that is locked by another run is refused, and Pulumi says how to unlock it", async () => {
  const locks = path.join(stack.dir, "state/.pulumi/locks/organization/nixvm/foreign");
  fs.mkdirSync(locks, { recursive: true });
  const lock = path.join(locks, "0c2a9a3e-7f3b-4f0c-8c62-0d5a4d5d2c11.json");
  fs.writeFileSync(lock, JSON.stringify({ pid: 1, username: "other", hostname: "elsewhere", timestamp: new Date() }));
  try {
    const up = await stack.up();
    expect(up.error).toMatch(/currently locked by 1 lock/);
    expect(up.error).toMatch(/pulumi cancel/);
  } finally {
    fs.rmSync(lock);
  }
});
