import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { crc32 } from "node:zlib";
import fc from "fast-check";
import * as tar from "tar-stream";
import {
  archiveName,
  BadArchive,
  FORMAT,
  type Manifest,
  MEMBER,
  parseArchiveName,
  seal,
  tarHeader,
} from "../../cli/archive";
import { readArchive, readManifest } from "../../cli/archiveRead";
import { writeArchive } from "../../cli/archiveWrite";
import { type Frame, SourceChanged } from "../../cli/frames";

const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm archive "));
afterAll(() => fs.rmSync(dir, { recursive: true }));
const at = (name: string): string => path.join(dir, name);

function manifestOf(bytes: Record<string, number>): Manifest {
  return {
    format: FORMAT,
    nixvm: "0.1.0",
    stack: "test",
    vm: "web",
    uuid: "u",
    created: "2026-01-02T03:04:05.000Z",
    quiesced: "off",
    image: { digest: "abc" },
    persist: { virtualBytes: 2 ** 30 },
    members: Object.entries(bytes).map(([name, size]) => ({ name: name as "var.qcow2", bytes: size })),
  };
}

/** An archive of files with that content. */
async function archive(name: string, content: Record<string, Buffer>): Promise<string> {
  const sources = Object.entries(content).map(([member, data]) => {
    fs.writeFileSync(at(`${name}-${member}`), data);
    return { name: member as "var.qcow2", path: at(`${name}-${member}`), bytes: data.length };
  });
  const manifest = manifestOf(Object.fromEntries(sources.map((one) => [one.name, one.bytes])));
  await writeArchive({ file: at(name), manifest, sources, record: () => Promise.resolve() });
  return at(name);
}

/** An archive that says of itself what its maker likes, and is whole. */
async function forged(name: string, members: { header: Partial<tar.Header>; data: string }[]): Promise<string> {
  const pack = tar.pack();
  for (const { header, data } of members) pack.entry(header as tar.Header, data);
  pack.finalize();
  const chunks: Buffer[] = [];
  for await (const chunk of pack) chunks.push(chunk as Buffer);
  const all = Buffer.concat(chunks);
  // The manifest with its header, and the header of what follows.
  const head = 1024 + Math.ceil((members[0]?.data.length ?? 0) / 512) * 512;
  const parts = [all.subarray(0, head), all.subarray(head)];
  const frames = parts.map((input) => execFileSync("zstd", ["-q", "-c"], { input }));
  const end = seal(frames[0]?.length ?? 0, crc32(Buffer.concat(frames)));
  fs.writeFileSync(at(name), Buffer.concat([...frames, end]));
  return at(name);
}

test("its name has the VM and the time in UTC, also of VMs with dashes and numbers in their names (T-71)", () => {
  expect(archiveName("web", new Date("2026-01-02T03:04:05.678Z"))).toBe("web-20260102-030405.tar.zst");
  const vm = fc.stringMatching(/^[a-z]([a-z0-9-]{0,20}[a-z0-9])?$/);
  const time = fc.integer({ min: 0, max: 4e9 }).map((seconds) => new Date(seconds * 1000));
  fc.assert(
    fc.property(vm, time, (name, when) => {
      expect(archiveName(name, when)).toMatch(/^.+-\d{8}-\d{6}\.tar\.zst$/);
      expect(parseArchiveName(archiveName(name, when))).toEqual({ vm: name, at: when });
    }),
  );
  for (const other of ["web.tar.zst", "web-20260102-030405.tar.zst.part", "web-20269902-030405.tar.zst", "-"]) {
    expect(parseArchiveName(other)).toBeUndefined();
  }
});

test("tar and zstd read it: manifest first, checksums last, each member as it was (T-72, T-73)", async () => {
  const content = {
    [MEMBER.data]: randomBytes(300_001),
    [MEMBER.overlay]: Buffer.alloc(512),
    [MEMBER.firmware]: Buffer.from("x"),
  };
  const file = await archive("plain", content);
  expect(fs.statSync(file).mode & 0o777).toBe(0o600);
  execFileSync("zstd", ["-q", "-t", file]);
  const names = execFileSync("tar", ["--zstd", "-tf", file], { encoding: "utf8" }).trim().split("\n");
  expect(names).toEqual(["manifest.json", "var.qcow2", "boot.qcow2", "OVMF_VARS.qcow2", "checksums.json"]);
  for (const [name, data] of Object.entries(content)) {
    expect(execFileSync("tar", ["--zstd", "-xOf", file, name]).equals(data)).toBe(true);
  }
  expect(
    JSON.parse(execFileSync("tar", ["--zstd", "-xOf", file, "checksums.json"], { encoding: "utf8" })),
  ).toMatchObject({
    "var.qcow2": { bytes: 300_001, sha256: createHash("sha256").update(content[MEMBER.data]).digest("hex") },
  });
});

test("what is unpacked is what was packed, zeros included", async () => {
  const data = Buffer.concat([randomBytes(70_000), Buffer.alloc(3_000_000), randomBytes(5), Buffer.alloc(200_000)]);
  const file = await archive("holes", { [MEMBER.data]: data });
  const begin = (): Promise<Record<string, string>> => Promise.resolve({ [MEMBER.data]: at("out") });
  expect(await readArchive({ file, begin })).toMatchObject({ vm: "web" });
  expect(fs.readFileSync(at("out")).equals(data)).toBe(true);
  expect(fs.statSync(at("out"))).toMatchObject({ size: data.length, mode: 0o100600 });
  expect(await readManifest(file)).toMatchObject({ stack: "test" });
});

test("any changed byte anywhere is refused, and so is an archive that is cut off or has more behind it (T-75)", async () => {
  const file = await archive("good", { [MEMBER.data]: randomBytes(20_000), [MEMBER.overlay]: Buffer.alloc(40_000) });
  const whole = fs.readFileSync(file);
  await readArchive({ file });
  const refused = async (bytes: Buffer): Promise<void> => {
    fs.writeFileSync(at("bad"), bytes);
    await expect(readArchive({ file: at("bad") })).rejects.toThrow(BadArchive);
  };
  // The first frame's header and the seal hold the bytes that unpacking alone would not miss.
  const positions = fc.oneof(
    fc.nat(whole.length - 1),
    fc.nat(20),
    fc.nat(60).map((back) => whole.length - 1 - Math.min(back, whole.length - 1)),
  );
  await fc.assert(
    fc.asyncProperty(positions, fc.integer({ min: 1, max: 255 }), async (position, flip) => {
      const bytes = Buffer.from(whole);
      bytes[position] = (bytes[position] ?? 0) ^ flip;
      await refused(bytes);
    }),
    { numRuns: 60 },
  );
  await fc.assert(
    fc.asyncProperty(fc.nat(whole.length - 1), (length) => refused(whole.subarray(0, length))),
    { numRuns: 15 },
  );
  await refused(Buffer.concat([whole, Buffer.from([0])]));
}, 120_000);

test("an archive of a newer format is refused, and says what to use", async () => {
  const manifest = JSON.stringify({ ...manifestOf({}), format: FORMAT + 1, novelty: true });
  const file = await forged("newer", [{ header: { name: MEMBER.manifest }, data: manifest }]);
  await expect(readArchive({ file })).rejects.toThrow(/is of format 2.*use the nixvm that made it/);
});

test.each([
  ["a path out of the folder", { name: "../../etc/passwd" }],
  ["a member that the manifest does not have", { name: MEMBER.firmware }],
  ["a link", { name: MEMBER.data, type: "symlink" as const, linkname: "/etc/shadow", size: 0 }],
])("%s is refused", async (_, header) => {
  const manifest = JSON.stringify(manifestOf({ [MEMBER.data]: 1 }));
  const file = await forged("forged", [
    { header: { name: MEMBER.manifest }, data: manifest },
    { header, data: "type" in header ? "" : "x" },
  ]);
  const begin = (): Promise<Record<string, string>> => Promise.resolve({ [MEMBER.data]: at("forged-out") });
  await expect(readArchive({ file, begin })).rejects.toThrow(/where var.qcow2 belongs/);
  // No file but the one that was asked for.
  fs.rmSync(at("forged-out"));
  expect(fs.readdirSync(dir).filter((one) => /out|passwd|shadow/.test(one))).toEqual(["out"]);
});

test("a member of any size has a header that tar reads", async () => {
  for (const size of [0, 8 ** 11 - 1, 8 ** 11, 2 ** 45]) {
    const extract = tar.extract();
    const found = new Promise<tar.Header>((resolve) => extract.once("entry", resolve));
    extract.write(tarHeader("var.qcow2", size, new Date(0)));
    expect(await found).toMatchObject({ name: "var.qcow2", size, type: "file", mode: 0o600 });
    extract.destroy();
  }
});

describe("an archive that was broken off", () => {
  const source = at("large");
  const frameBytes = 8 * 2 ** 20;
  const size = 2 * frameBytes + 1_000_000;
  const manifest = manifestOf({ [MEMBER.data]: size });
  const sources = [{ name: MEMBER.data, path: source, bytes: size }];
  let frames: Frame[];
  let broken: Buffer;

  const go = (file: string, done: Frame[], more: object = {}): ReturnType<typeof writeArchive> =>
    writeArchive({
      file,
      manifest,
      sources,
      done,
      frameBytes,
      record: (frame) => Promise.resolve(void frames.push(frame)),
      ...more,
    });

  beforeAll(async () => {
    fs.writeFileSync(source, randomBytes(3_000_000));
    fs.truncateSync(source, size);
    frames = [];
    const controller = new AbortController();
    const record = (frame: Frame): Promise<void> => {
      if (frames.push(frame) === 2) controller.abort();
      return Promise.resolve();
    };
    await expect(go(at("broken"), [], { signal: controller.signal, record })).rejects.toThrow("cancelled");
    expect(frames).toHaveLength(2);
    broken = fs.readFileSync(at("broken"));
  }, 60_000);

  test("is gone on with behind its last whole frame, and is then as good as one in a piece", async () => {
    const done = [...frames];
    await go(at("broken"), done);
    // The second one of the data, the rest of it, and all that is behind it.
    expect(frames.slice(2)).toHaveLength(3);
    await readArchive({ file: at("broken") });
    const whole = at("whole");
    frames = [];
    await go(whole, []);
    expect(fs.readFileSync(at("broken")).equals(fs.readFileSync(whole))).toBe(true);
    frames = done;
  }, 60_000);

  test("is not trusted: one changed byte in what was written, and it is begun anew", async () => {
    const first = frames.slice(0, 2).reduce((sum, { bytes }) => sum + bytes, 0);
    await fc.assert(
      fc.asyncProperty(fc.nat(first - 1), async (position) => {
        const bytes = Buffer.from(broken);
        bytes[position] = (bytes[position] ?? 0) ^ 1;
        fs.writeFileSync(at("touched"), bytes);
        await expect(go(at("touched"), frames.slice(0, 2))).rejects.toThrow(SourceChanged);
      }),
      { numRuns: 20 },
    );
  }, 60_000);
});

test("a source that becomes longer or shorter while it is read is an error", async () => {
  fs.writeFileSync(at("moving"), "abc");
  for (const bytes of [2, 4]) {
    const sources = [{ name: MEMBER.data, path: at("moving"), bytes }];
    const manifest = manifestOf({ [MEMBER.data]: bytes });
    const record = (): Promise<void> => Promise.resolve();
    await expect(writeArchive({ file: at("moved"), manifest, sources, record })).rejects.toThrow(SourceChanged);
  }
});
