import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { IMAGES, LiveStack, virsh } from "../helpers/liveStack";

// What is on the host and not ours stays as it is, whatever it is called. Nothing here boots.
jest.setTimeout(5 * 60_000);

let stack: LiveStack;
const pool = path.join(process.env.NIXVM_POOL_ROOT ?? "", "nixvm-foreign");
const config = {
  images: { os: { path: path.join(IMAGES, "reference-v1.qcow2") } },
  defaults: { image: "os", memory: "64MiB", running: false, persist: { size: "64MiB", protect: false, retain: false } },
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
  expect(JSON.parse(info.toString())).toMatchObject({ format: "qcow2", "virtual-size": 64 << 20 });
  const overlay = fs.readdirSync(pool).find((file) => /^nixvm-foreign-web-[0-9a-f]{12}-/.test(file)) ?? "";
  // A fresh overlay is tiny (T-3).
  expect(fs.statSync(path.join(pool, overlay)).blocks * 512).toBeLessThan(1 << 20);
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
