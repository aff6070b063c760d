import * as fs from "node:fs";
import * as path from "node:path";
import * as libvirt from "@pulumi/libvirt";
import * as pulumi from "@pulumi/pulumi";
import { Seed } from "../../components/Seed";
import { type SeedFiles, seedDigest } from "../../components/plan/seed";
import { LiveStack, virsh } from "../helpers/liveStack";

// Seeds as volumes of a real libvirt, through the real engine and both providers. Nothing here boots.
jest.setTimeout(5 * 60_000);

/** More than libvirt serves at a time on a connection, so that reads wait for each other. */
const COUNT = 20;
const POOL = "nixvm-seeds";
const folder = path.join(process.env.NIXVM_POOL_ROOT ?? "", POOL);
const uri = process.env.LIBVIRT_DEFAULT_URI ?? "qemu:///system";

let stack: LiveStack;
/** What the program declares: how many seeds, with what in them, and whether in the way of former versions. */
const wish = { count: COUNT, secret: "hash-one", former: false };

const fileOf = (index: number): string => path.join(folder, `vm${index}-seed.iso`);
const filesOf = (index: number): SeedFiles => ({
  userData: `#cloud-config\n{"vm":${index},"passwd":"${wish.secret}"}\n`,
  metaData: `{"instance-id":"vm${index}"}\n`,
  networkConfig: `{"version":2}\n`,
});

/** The component as it was when the medium was the libvirt provider's. */
class FormerSeed extends pulumi.ComponentResource {
  constructor(name: string, args: { pool: string; volumeName: string; files: SeedFiles }, provider: libvirt.Provider) {
    super("nixvm:index:Seed", name, {}, { provider });
    const options = { parent: this, deleteBeforeReplace: true };
    new libvirt.CloudinitDisk(`${name}-iso`, { name: args.volumeName, pool: args.pool, ...args.files }, options);
  }
}

async function seeds(): Promise<void> {
  const provider = new libvirt.Provider("host", { uri }, { ignoreChanges: ["version"] });
  for (let index = 0; index < wish.count; index++) {
    const args = { pool: POOL, volumeName: path.basename(fileOf(index)), files: filesOf(index) };
    if (wish.former) new FormerSeed(`vm${index}-seed`, args, provider);
    else new Seed(`vm${index}-seed`, { uri, ...args }, { provider });
  }
}

/** A file of a medium, as a guest that mounts it sees it. */
const userData = (index: number): string => fs.readFileSync(fileOf(index), "latin1");

async function upAndSame(): Promise<string[]> {
  const up = await stack.up();
  expect(up.error).toBe("");
  expect((await stack.preview({ refresh: true, expectNoChanges: true })).error).toBe("");
  return up.steps;
}

beforeAll(async () => {
  fs.mkdirSync(folder);
  virsh("pool-define-as", POOL, "dir", "--target", folder);
  virsh("pool-start", POOL);
  stack = await LiveStack.make("seeds", seeds);
});

afterAll(() => {
  stack.destroyByHand();
  virsh("pool-destroy", POOL);
  virsh("pool-undefine", POOL);
  for (const dir of [folder, stack.dir]) fs.rmSync(dir, { recursive: true, force: true });
});

// One story: each test starts where the one before ended.

test("seeds are made and read, all at a time, and no secret is in the state in clear (T-26, G-5)", async () => {
  const steps = await upAndSame();
  expect(steps.filter((step) => step.startsWith("create nixvm:index:SeedVolume"))).toHaveLength(COUNT);
  expect(fs.readdirSync(folder)).toHaveLength(COUNT);
  expect(fs.statSync(fileOf(0)).mode & 0o077).toBe(0);
  expect(userData(3)).toContain('"vm":3,"passwd":"hash-one"');
  expect(stack.stateText()).toContain(seedDigest(filesOf(3)));
  expect(stack.stateText()).not.toContain("hash-one");
});

test("another seed is a new file of the same name: who has the former one open keeps it", async () => {
  const before = fs.openSync(fileOf(0), "r");
  wish.secret = "hash-two";
  expect(new Set((await upAndSame()).map((step) => step.replace(/ vm.*/, "")))).toEqual(
    new Set(["update nixvm:index:SeedVolume"]),
  );
  expect(fs.readFileSync(before, "latin1")).toContain("hash-one");
  fs.closeSync(before);
  expect(userData(0)).toContain("hash-two");
  expect(fs.readdirSync(folder)).toHaveLength(COUNT);
});

test("a change that failed is tried again, and going back from it is a change too", async () => {
  wish.count = 3;
  await upAndSame();
  expect(fs.readdirSync(folder)).toHaveLength(3);
  virsh("pool-destroy", POOL);
  wish.secret = "hash-three";
  const failed = await stack.up();
  virsh("pool-start", POOL);
  expect(failed.text).toContain("pool 'nixvm-seeds' is not active");
  wish.secret = "hash-two";
  const back = await upAndSame();
  expect(back.length).toBeGreaterThan(0);
  expect(new Set(back.map((step) => step.replace(/ vm.*/, "")))).toEqual(new Set(["update nixvm:index:SeedVolume"]));
  expect(userData(0)).toContain("hash-two");
});

test("a medium that was removed, or written only in part, shows at a refresh and is made again", async () => {
  fs.rmSync(fileOf(0));
  fs.truncateSync(fileOf(1), 40_000);
  const drift = await stack.preview({ refresh: true });
  expect(drift.steps.sort()).toEqual([
    "create nixvm:index:SeedVolume vm0-seed-iso",
    "update nixvm:index:SeedVolume vm1-seed-iso",
  ]);
  expect((await stack.up({ refresh: true })).error).toBe("");
  expect([0, 1, 2].map((index) => userData(index).includes("hash-two"))).toEqual([true, true, true]);
});

test("what is under the name and is no seed stays, and the message names it", async () => {
  wish.count = 4;
  fs.writeFileSync(fileOf(3), "precious");
  const up = await stack.up();
  expect(up.text).toMatch(/seed volume "vm3-seed\.iso" in pool "nixvm-seeds" of .* is left as it is/);
  expect(fs.readFileSync(fileOf(3), "utf8")).toBe("precious");
  fs.rmSync(fileOf(3));
  await upAndSame();
});

test("destroy removes the media, and one that is gone is no error", () => {
  fs.rmSync(fileOf(3));
  expect(stack.destroyByHand().code).toBe(0);
  expect(fs.readdirSync(folder)).toEqual([]);
});

test("a stack whose seeds are the libvirt provider's goes on with the same files: nothing is replaced or deleted", async () => {
  Object.assign(wish, { count: 2, former: true });
  expect((await stack.up()).error).toBe("");
  wish.former = false;
  expect((await upAndSame()).sort()).toEqual([
    "update nixvm:index:SeedVolume vm0-seed-iso",
    "update nixvm:index:SeedVolume vm1-seed-iso",
  ]);
  expect(fs.readdirSync(folder)).toHaveLength(2);
  expect(stack.stateText()).not.toContain("hash-two");
  expect(stack.destroyByHand().code).toBe(0);
  expect(fs.readdirSync(folder)).toEqual([]);
});
