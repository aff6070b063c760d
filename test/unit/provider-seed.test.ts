import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { seedDigest } from "../../components/plan/seed";
import { Props, UNKNOWN } from "../../provider/inputs";
import { InitFailed } from "../../provider/lifecycle";
import { SeedVolumeType } from "../../provider/seedType";
import { VirshVolumes } from "../../provider/volumes";
import { FakePool, NAME, POOL } from "./provider-pool";

const target = { urn: "urn:pulumi:test::fleet::nixvm:index:SeedVolume::web-seed-iso", id: `/pool/${NAME}` };
const files = {
  userData: '#cloud-config\n{"passwd":"$6$secret-hash"}\n',
  metaData: '{"instance-id":"secret-id"}\n',
  networkConfig: '{"secret-network":2}\n',
};
const seed: Props = { uri: "qemu+ssh://root@host/system", pool: POOL, name: NAME, ...files };
const digest = seedDigest(files);

let dir: string;
let pool: FakePool;
let type: SeedVolumeType;
const usual = process.env["TMPDIR"];

beforeEach(() => {
  dir = fs.mkdtempSync(join(usual ?? tmpdir(), "nixvm seed "));
  for (const name of ["tmp", "pool"]) fs.mkdirSync(join(dir, name));
  process.env["TMPDIR"] = join(dir, "tmp");
  pool = new FakePool(join(dir, "pool"));
  type = new SeedVolumeType({ volumes: (uri) => new VirshVolumes(uri, pool.run), run: pool.run });
});

afterEach(() => {
  // Whatever happened in a test, nothing of a seed is left where it was made, and no argument had a secret in it.
  const left = fs.readdirSync(join(dir, "tmp"));
  if (usual === undefined) delete process.env["TMPDIR"];
  else process.env["TMPDIR"] = usual;
  fs.rmSync(dir, { recursive: true });
  expect(left).toEqual([]);
  expect(pool.calls.flat().join("\n")).not.toMatch(/secret/);
});

const file = (): string => join(dir, "pool", NAME);
const create = async (news = seed): Promise<Props> => (await type.create(target.urn, news, 0, false)).properties;
const update = (news: Props, olds: Props = {}): Promise<Props> => type.update(target, olds, news, 0, false);
const failure = (work: Promise<unknown>): Promise<Error> =>
  work.then(
    () => new Error("it passed"),
    (error: Error) => error,
  );
const inMedium = (name: string, names: "-R" | "-J" = "-R"): string =>
  execFileSync("isoinfo", ["-i", file(), names, "-x", `/${name}`], { encoding: "utf8" });

describe("create", () => {
  it("makes a NoCloud medium, with long names in both ways that guests read, and says where it is", async () => {
    expect(await create()).toEqual({
      ...{ uri: seed["uri"], pool: POOL, name: NAME, volumeId: file(), digest },
      bytes: fs.statSync(file()).size,
    });
    expect(execFileSync("isoinfo", ["-d", "-i", file()], { encoding: "utf8" })).toMatch(/^Volume id: cidata$/m);
    for (const names of ["-R", "-J"] as const) {
      expect(inMedium("user-data", names)).toBe(files.userData);
      expect(inMedium("meta-data", names)).toBe(files.metaData);
      expect(inMedium("network-config", names)).toBe(files.networkConfig);
    }
  });

  it("streams from this machine to whatever host, and keeps secrets in files that nobody else can read (G-5)", async () => {
    await create();
    const verbs = pool.calls.map(([command, , , , verb]) => (command === "virsh" ? verb : command));
    expect(verbs).toEqual(["mkisofs", "vol-info", "vol-create-as", "vol-upload", "vol-path"]);
    const virsh = pool.calls.filter(([command]) => command === "virsh");
    expect(virsh.every((call) => call.slice(1, 4).join(" ") === `-q -c ${String(seed["uri"])}`)).toBe(true);
    expect(pool.modes).toEqual({ folder: 0o700, files: [0o600, 0o600, 0o600] });
  });

  it.each(["mkisofs", "vol-info", "vol-create-as", "vol-upload", "vol-path"])(
    "leaves nothing behind here when %s fails, and the next one makes it",
    async (step) => {
      pool.failing = step;
      const { message } = await failure(create());
      expect(message).toContain(`seed volume "${NAME}" in pool "${POOL}" of qemu+ssh://root@host/system: `);
      pool.failing = undefined;
      await create();
      expect(inMedium("user-data")).toBe(files.userData);
    },
  );

  it("keeps no half medium when the upload fails", async () => {
    pool.failing = "vol-upload";
    await failure(create());
    expect(fs.existsSync(file())).toBe(false);
  });

  it("says which package is missing", async () => {
    const run = async () => ({ code: undefined, stdout: "", stderr: "", failure: "missing" as const });
    const bare = new SeedVolumeType({ volumes: (uri) => new VirshVolumes(uri, run), run });
    expect((await failure(bare.create(target.urn, seed, 0, false))).message).toContain(
      "mkisofs is not on PATH; install the package genisoimage",
    );
  });

  it("repairs a medium whose upload was broken off, wherever that was", async () => {
    await create();
    const whole = fs.readFileSync(file());
    const blocks = fc.integer({ min: 0, max: whole.length / 512 });
    await fc.assert(
      fc.asyncProperty(fc.oneof(fc.constantFrom(0, 1, 64, 65, 68), blocks), async (count) => {
        fs.writeFileSync(file(), whole.subarray(0, count * 512));
        await create();
        expect(fs.statSync(file()).size).toBe(whole.length);
      }),
      { numRuns: 20 },
    );
  });

  it("takes the place of a seed that libvirt has not seen yet", async () => {
    await create({ ...seed, userData: "of a former stack" });
    pool.known.clear();
    await create();
    expect(inMedium("user-data")).toBe(files.userData);
  });

  it.each<[string, () => Buffer]>([
    ["a text", () => Buffer.from("precious")],
    ["an ISO image with another label", () => pool.iso("other")],
    ["an ISO image whose label only begins alike", () => pool.iso("cidata2")],
    ["a disk with nothing at its start", () => Buffer.concat([Buffer.alloc(65_536), Buffer.from("_BHRfS_M")])],
    ["a small disk with nothing but a boot sector", () => Buffer.concat([Buffer.from("\xeb\x3c"), Buffer.alloc(510)])],
  ])("leaves %s of that name as it is, and names it", async (_what, content) => {
    const before = content();
    for (const known of [true, false]) {
      fs.writeFileSync(file(), before);
      if (known) pool.known.add(NAME);
      else pool.known.clear();
      const { message } = await failure(create());
      expect(message).toContain(
        `seed volume "${NAME}" in pool "${POOL}" of qemu+ssh://root@host/system: a volume of that name is there and is left as it is`,
      );
      expect(fs.readFileSync(file()).equals(before)).toBe(true);
    }
  });
});

describe("update", () => {
  it("makes a new file of the same name, so that a running guest keeps what it has open", async () => {
    const olds = await create();
    const open = fs.openSync(file(), "r");
    const now = await update({ ...seed, userData: "new" }, olds);
    expect(fs.readFileSync(open, "latin1")).toContain("secret-hash");
    fs.closeSync(open);
    expect(inMedium("user-data")).toBe("new");
    expect(now).toMatchObject({ volumeId: file(), digest: seedDigest({ ...files, userData: "new" }) });
  });

  it.each(["mkisofs", "vol-info", "vol-delete", "vol-create-as", "vol-upload"])(
    "that fails at %s stays in the state as tried, so that going on and going back both write it",
    async (step) => {
      const olds = await create();
      const news = { ...seed, userData: "new" };
      pool.failing = step;
      const error = await failure(update(news, olds));
      pool.failing = undefined;
      expect(error).toBeInstanceOf(InitFailed);
      const { id, properties } = error as InitFailed;
      expect([id, properties]).toEqual([target.id, expect.objectContaining({ volumeId: file(), digest: "" })]);
      expect(type.diff(target, news, properties, news).drift).toEqual(["digest"]);
      expect(type.diff(target, news, properties, seed).updates).toEqual(["userData"]);
      await update(seed, properties);
      expect(inMedium("user-data")).toBe(files.userData);
    },
  );
});

describe("read", () => {
  it("asks for the size and downloads nothing", async () => {
    const olds = await create();
    pool.calls.length = 0;
    expect(await type.read(target, seed, olds)).toEqual({ inputs: seed, outputs: olds });
    expect(pool.calls.map((call) => call.slice(4))).toEqual([["vol-info", "--pool", POOL, "--vol", NAME, "--bytes"]]);
  });

  it("finds a medium gone with its file or its pool, and one that is there in part not whole", async () => {
    const olds = await create();
    fs.truncateSync(file(), 40_960);
    const part = (await type.read(target, seed, olds))!.outputs;
    expect(type.diff(target, seed, part, seed)).toMatchObject({ replaces: [], updates: [], drift: ["digest"] });
    fs.rmSync(file());
    expect(await type.read(target, seed, olds)).toBeUndefined();
    expect(await type.read(target, { ...seed, pool: "other" }, olds)).toBeUndefined();
  });

  it("finds a medium that a killed run has written, whose result nobody got to know", async () => {
    // One letter of it is another one, so that both images are of one length.
    const other = { ...seed, userData: files.userData.replace("hash", "hasp") };
    let known = await create();
    for (const news of [other, seed, other, other]) {
      const written = await update(news, known);
      expect(inMedium("user-data")).toBe(news.userData);
      const found = (await type.read(target, seed, known))!.outputs;
      expect(type.diff(target, seed, found, seed).drift).toEqual(["digest"]);
      known = written;
    }
  });

  it("does not take a libvirt that is away, or a pool that is off, for a medium that is gone", async () => {
    pool.failing = "vol-info";
    expect((await failure(type.read(target, seed, {}))).message).toContain("virsh vol-info: the fake was told to fail");
  });

  it("refuses an import, which has no content to compare", async () => {
    expect((await failure(type.read(target, {}, {}))).message).toContain("cannot be imported");
  });
});

describe("delete", () => {
  it("removes the volume; one that is gone, or whose pool is, is a success", async () => {
    await create();
    await type.delete(target, seed);
    expect(fs.existsSync(file())).toBe(false);
    await type.delete(target, seed);
    await type.delete(target, { ...seed, pool: "other" });
  });

  it("fails where libvirt refuses", async () => {
    pool.failing = "vol-delete";
    expect((await failure(type.delete(target, seed))).message).toContain("virsh vol-delete");
  });
});

describe("diff", () => {
  const { uri: _, ...former } = seed;

  it.each<[string, Props, Props, Props, [string[], string[], string[]]]>([
    ["nothing", seed, { digest }, {}, [[], [], []]],
    ["user-data", seed, { digest }, { userData: "new" }, [[], ["userData"], []]],
    ["meta-data", seed, { digest }, { metaData: "new" }, [[], ["metaData"], []]],
    ["network-config", seed, { digest }, { networkConfig: "new" }, [[], ["networkConfig"], []]],
    ["content not known yet", seed, { digest }, { userData: UNKNOWN }, [[], ["userData"], []]],
    ["the host", seed, { digest }, { uri: "qemu:///system" }, [["uri"], [], []]],
    ["the pool", seed, { digest }, { pool: UNKNOWN }, [["pool"], [], []]],
    ["the name", seed, { digest }, { name: "other" }, [["name"], [], []]],
    ["a medium that was not written in full", seed, { digest: "" }, {}, [[], [], ["digest"]]],
    ["the libvirt provider's CloudInitDisk, taken over", former, former, {}, [[], [], ["digest"]]],
  ])("%s", (_what, oldInputs, olds, change, [replaces, updates, drift]) => {
    const found = type.diff(target, oldInputs, olds, { ...seed, ...change });
    expect(found).toMatchObject({ replaces, updates, drift });
  });
});

describe("check", () => {
  it("accepts good inputs, and values that are not known yet", () => {
    expect(type.check(target.urn, undefined, seed)).toEqual([]);
    const unknown = Object.fromEntries(Object.keys(seed).map((key) => [key, UNKNOWN]));
    expect(type.check(target.urn, undefined, unknown)).toEqual([]);
  });

  it.each<[Props, string]>([
    [{ name: "../x.iso" }, 'name: must be the name of a volume, not a path, not "../x.iso"'],
    [{ name: "-x" }, "name: "],
    [{ pool: "" }, "pool: must not be empty"],
    [{ uri: "here" }, 'uri: must be a libvirt URI such as "qemu:///system", not "here"'],
    [{ colour: "red" }, "colour"],
    [{ userData: { passwd: "hidden" } }, "userData: "],
    [{ metaData: undefined }, "metaData: "],
  ])("refuses %j, and shows no secret", (change, reason) => {
    const failures = type.check(target.urn, undefined, { ...seed, ...change });
    expect(failures).toEqual([
      { property: expect.anything() as string, reason: expect.stringContaining(reason) as string },
    ]);
    expect(JSON.stringify(failures)).not.toMatch(/hidden|hash/);
  });
});

describe("nothing is touched", () => {
  afterEach(() => expect(pool.calls).toEqual([]));

  it("by a preview, which tells the digest when it is known", async () => {
    const made = await type.create(target.urn, seed, 0, true);
    expect(made).toEqual({ id: "", properties: expect.objectContaining({ digest, volumeId: UNKNOWN }) as Props });
    const news = { ...seed, userData: UNKNOWN };
    expect(await type.update(target, { volumeId: "/there" }, news, 0, true)).toEqual({
      ...{ uri: seed["uri"], pool: POOL, name: NAME, volumeId: "/there" },
      ...{ digest: UNKNOWN, bytes: UNKNOWN },
    });
  });

  it("on libvirt's test driver, which takes no uploads", async () => {
    for (const uri of ["test:///default", "test+unix:///default?socket=/x"]) {
      const olds = await create({ ...seed, uri });
      expect(olds).toMatchObject({ digest });
      expect(await type.read(target, { ...seed, uri }, olds)).toMatchObject({ outputs: olds });
      await type.delete(target, { ...seed, uri });
    }
  });
});

test("a pool in which another volume is just written is asked again until it can look", async () => {
  const busy = { code: 1, stdout: "", stderr: "error: internal error: pool 'p' has asynchronous jobs running." };
  const answers = [busy, busy, { code: 0, stdout: "", stderr: "" }];
  const run = jest.fn(async () => answers.shift() ?? { code: 1, stdout: "", stderr: "error: asked once more" });
  await new VirshVolumes("qemu:///system", run).refresh("p");
  expect(run).toHaveBeenCalledTimes(3);
  answers.push({ code: 1, stdout: "", stderr: "error: Storage pool not found" });
  await expect(new VirshVolumes("qemu:///system", run).refresh("p")).rejects.toThrow("Storage pool not found");
});
