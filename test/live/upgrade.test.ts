import { createHash } from "node:crypto";
import * as fs from "node:fs";
import * as net from "node:net";
import * as path from "node:path";
import { newKey, ssh } from "../helpers/guest";
import { IMAGES, LiveStack, type Operation, virsh } from "../helpers/liveStack";

// Four VMs through images that fail and one that does not, and through changes that need no restart, told in one go.
jest.setTimeout(15 * 60_000);

const VMS = ["a", "b", "c", "d"];
/** Networks of libvirt need its system instance. Without one VM c has user-mode networking, of which a change is a restart. */
const NETWORKED = process.getuid?.() === 0;
const [HERE, THERE, MOVED] = NETWORKED
  ? [
      "nat:lan",
      { network: "dmz", address: "10.213.78.10" },
      "c: its network card moves from network nixvm-upgrade-lan to network nixvm-upgrade-dmz live, no restart",
    ]
  : [
      { mode: "user", sshPort: 23803 },
      { mode: "user", sshPort: 23805 },
      "c: restarts, because the network changes from",
    ];
let stack: LiveStack;
let config: Record<string, any>;
/** Seconds of each phase, printed at the end: what a reader of the log wants to know of an upgrade that fails. */
const seconds: Record<string, number> = {};

const poolDir = (): string => path.join(process.env.NIXVM_POOL_ROOT ?? "", "nixvm-upgrade");
/** Whether a program in VM c gets through to one on the host, by a name of its hosts file. */
async function reachesHost(): Promise<string> {
  const server = net.createServer((socket) => socket.end()).listen(0);
  const { port } = server.address() as net.AddressInfo;
  const c = await stack.vm("c");
  const said = await c.exec(`timeout 10 bash -c '</dev/tcp/gate.test/${port}' 2>/dev/null && echo yes || echo no`);
  server.close();
  return said.trim();
}

const guestSteps = (operation: Operation): string[] =>
  operation.steps.filter((step) => /Guest|Domain/.test(step)).map((step) => step.replace(/ \S+:\S+ /, " "));

async function bootIds(): Promise<Record<string, string>> {
  const vms = [...(await stack.vms())];
  return Object.fromEntries(await Promise.all(vms.map(async ([name, vm]) => [name, (await vm.status()).bootId])));
}

async function useImage(image: string): Promise<void> {
  config.images.os.path = path.join(IMAGES, `reference-${image}.qcow2`);
  await stack.configure(config);
}

async function timed(phase: string, operation: Promise<Operation>): Promise<Operation> {
  const begun = Date.now();
  const done = await operation;
  seconds[phase] = Math.round((Date.now() - begun) / 1000);
  return done;
}

/** Digest of what a disk holds, read while its guest is off. */
const contentOf = (file: string): string => createHash("sha256").update(fs.readFileSync(file)).digest("hex");

beforeAll(async () => {
  stack = await LiveStack.make("upgrade");
  const key = newKey(stack.dir, "admin");
  config = {
    images: { os: { path: path.join(IMAGES, "reference-v1.qcow2") } },
    rollout: { canary: 1, maxUnavailable: 2, gateTimeout: "8m", stopTimeout: "2m", keepImages: 1 },
    defaults: {
      image: "os",
      memory: "384MiB",
      memoryMaximum: "512MiB",
      vcpus: 1,
      vcpusMaximum: 2,
      persist: { size: "128MiB" },
      adminKeys: [key.publicKey],
    },
    networks: NETWORKED ? { lan: { subnet: "10.213.77.0/24" }, dmz: { subnet: "10.213.78.0/24" } } : {},
    fleet: Object.fromEntries(VMS.map((vm, index) => [vm, { network: { mode: "user", sshPort: 23801 + index } }])),
  };
  config.fleet.c.network = HERE;
  await stack.configure(config);
});

afterAll(async () => {
  await stack.remove(config);
  expect(virsh("list", "--all", "--name")).not.toContain("nixvm-upgrade-");
  process.stdout.write(`upgrade: seconds of each phase ${JSON.stringify(seconds)}\n`);
});

test("a new fleet comes up at once, with no VM waiting for another", async () => {
  const up = await timed("up of four new VMs", stack.up());
  expect(up.error).toBe("");
  for (const [, vm] of await stack.vms())
    expect(await vm.status()).toMatchObject({ healthy: true, imageVersion: "v1" });
});

// One that boots and never gets healthy is in fleet.test.ts.
test("an image that panics touches the canary only, which is back on its old overlay and healthy; the image is refused (T-16, T-47)", async () => {
  const before = await bootIds();
  const overlay = fs.readdirSync(poolDir()).find((file) => /^nixvm-upgrade-a-[0-9a-f]{12}-/.test(file)) ?? "none";
  await useImage("panic");
  const bad = await timed("up with an image that panics", stack.up());
  expect(bad.error).not.toBe("");
  expect(bad.text).toMatch(/a: Kernel panic - not syncing: /);
  expect(bad.text).toMatch(/a: is back on image [0-9a-f]{12} and healthy there, \d+ s after the failure/);
  expect(guestSteps(bad)).toEqual(["update a-guest"]);
  const { a, ...others } = await bootIds();
  expect(others).toEqual({ b: before.b, c: before.c, d: before.d });
  expect(a).not.toBe(before.a);
  const canary = await stack.vm("a");
  expect(await canary.status()).toMatchObject({ healthy: true, imageVersion: "v1" });
  expect(virsh("domblklist", canary.vm.uuid)).toContain(overlay);
  const refused = await stack.preview();
  expect(refused.text + refused.error).toMatch(/a: image [0-9a-f]{12} is quarantined/);

  await useImage("v1");
  const clean = await stack.preview({ refresh: true });
  expect(clean.error).toBe("");
  // What is left of the image that failed goes; nothing else is a change.
  expect(clean.steps.filter((step) => !/^delete .*(overlay|base)/i.test(step))).toEqual([]);
});

test("memory, vCPUs, disk growth, keys, the network and what may be sent change live: the boot id stays, and the preview says so (T-44, T-62)", async () => {
  const back = await stack.up();
  expect(back.error).toBe("");
  expect(back.steps.filter((step) => !/^delete |Guest a-guest/.test(step))).toEqual([]);
  const before = await bootIds();
  const fresh = newKey(stack.dir, "fresh");
  config.fleet.b = { ...config.fleet.b, memory: "512MiB", vcpus: 2, persist: { size: "256MiB" } };
  config.fleet.b.adminKeys = [fresh.publicKey];
  config.fleet.b.seed = { eject: true };
  config.fleet.c.network = THERE;
  await stack.configure(config);
  const preview = await stack.preview();
  for (const line of [
    "b: the memory changes from 384 MiB to 512 MiB live, no restart",
    "b: the number of vCPUs changes from 1 to 2 live, no restart",
    "b: persist grows from 128 MiB to 256 MiB live",
    "b: applies a new seed live, no restart",
    "b: its seed leaves the drive once it is healthy, no restart",
    MOVED,
  ]) {
    expect(preview.text).toContain(line);
  }
  const b = await stack.vm("b");
  const total = async (): Promise<number> =>
    Number(await b.exec("awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo"));
  const small = await total();
  // Where a change of it is no restart.
  config.fleet.c.network = NETWORKED ? THERE : HERE;
  if (NETWORKED) {
    config.fleet.c.hostsFile = { lines: { "10.213.78.1": ["gate.test"] } };
    config.fleet.c.egress = { blockPrivateNetworks: true };
  }
  await stack.configure(config);
  const up = await timed("up with live changes", stack.up());
  expect(up.error).toBe("");
  expect(await bootIds()).toEqual(before);
  expect((await total()) - small).toBe(128);
  expect(await b.exec("nproc")).toBe("2\n");
  expect(Number(await b.exec("df --output=size -B1M /var | tail -1"))).toBeGreaterThan(200);
  expect(ssh(23802, "admin", fresh.file, "id -un").out).toBe("admin\n");
  expect(virsh("domblklist", b.vm.uuid)).not.toContain("-seed.iso");
  const vms = (await stack.output("vms")) as Record<string, { access: string }>;
  expect(vms["c"]?.access).toMatch(NETWORKED ? /^ssh admin@10\.213\.78\.\d+$/ : /^ssh -p 23803 /);

  if (NETWORKED) {
    expect(await reachesHost()).toBe("no");
    config.fleet.c.egress.allow = ["10.213.78.1/32"];
  }

  config.fleet.b = { ...config.fleet.b, memory: "384MiB" };
  await stack.configure(config);
  expect((await stack.up()).error).toBe("");
  expect(await bootIds()).toEqual(before);
  expect(await total()).toBe(small);
  if (NETWORKED) expect(await reachesHost()).toBe("yes");
  expect((await stack.preview({ refresh: true, expectNoChanges: true })).error).toBe("");
});

test("a stopped VM stays stopped through an upgrade, which does not write to its data (hash of the volume)", async () => {
  config.fleet.d = { ...config.fleet.d, running: false };
  await stack.configure(config);
  expect((await stack.up()).error).toBe("");
  const volume = path.join(poolDir(), "nixvm-upgrade-d-persist");
  const before = contentOf(volume);
  await useImage("v2");
  const up = await timed("up with image v2", stack.up());
  expect(up.error).toBe("");
  expect(contentOf(volume)).toBe(before);
  // The canary alone, then the others, two at a time.
  expect(guestSteps(up)[0]).toBe("update a-guest");
  expect(guestSteps(up).sort()).toEqual(VMS.map((vm) => `update ${vm}-guest`));
  for (const name of ["a", "b", "c"]) {
    expect(await (await stack.vm(name)).status()).toMatchObject({ healthy: true, imageVersion: "v2" });
  }
  // It was there for the start of the new image, and is out again; all others keep theirs.
  const media = await Promise.all(["a", "b", "c"].map(async (vm) => virsh("domblklist", (await stack.vm(vm)).vm.uuid)));
  expect(media.map((disks) => disks.includes("-seed.iso"))).toEqual([true, false, true]);
  expect(virsh("domstate", (await stack.vm("d")).vm.uuid).trim()).toBe("shut off");
  expect(fs.readdirSync(poolDir()).filter((file) => file.includes("-base-"))).toHaveLength(2);
});

test("a former image that was kept is gone back to by its digest, without its file, by one VM alone", async () => {
  const [, former] = (await stack.output("images")) as { digest: string; version: string }[];
  expect(former?.version).toBe("v1");
  config.images.former = { digest: former?.digest.slice(0, 12) };
  config.fleet.d = { ...config.fleet.d, image: "former", running: true };
  await stack.configure(config);
  const up = await timed("up of one VM back to the kept image v1", stack.up());
  expect(up.error).toBe("");
  expect(up.steps.filter((step) => /base-/.test(step))).toEqual([]);
  expect(guestSteps(up)).toEqual(["update d-guest"]);
  expect(await (await stack.vm("d")).status()).toMatchObject({ healthy: true, imageVersion: "v1" });
});
