import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import * as os from "node:os";
import * as path from "node:path";
import {
  type ImageProblem,
  type ImageSource,
  isHere,
  resolveImages,
  type ResolvedImage,
} from "../../components/images";
import { readKeyFiles } from "../../components/keyFiles";

const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm images "));
const at = (name: string): string => path.join(dir, name);
const sha256 = (file: string): string => createHash("sha256").update(fs.readFileSync(file)).digest("hex");

async function resolve(source: ImageSource): Promise<{ image?: ResolvedImage; problems: ImageProblem[] }> {
  const { images, problems } = await resolveImages(
    { os: source },
    { projectDir: dir, cacheDir: at("cache"), history: [] },
  );
  return images.os ? { image: images.os, problems } : { problems };
}

async function refused(source: ImageSource): Promise<ImageProblem> {
  const { image, problems } = await resolve(source);
  expect(image).toBeUndefined();
  expect(problems).toHaveLength(1);
  return problems[0] as ImageProblem;
}

beforeAll(() => {
  fs.writeFileSync(at("disk.raw"), "");
  fs.truncateSync(at("disk.raw"), 8 << 20);
  execFileSync("sfdisk", ["-q", at("disk.raw")], { input: "label: gpt\nsize=4MiB\n" });
  const fill = Buffer.alloc(3 << 20, "nixvm");
  const handle = fs.openSync(at("disk.raw"), "r+");
  fs.writeSync(handle, fill, 0, fill.length, 2 << 20);
  fs.closeSync(handle);
  execFileSync("qemu-img", ["convert", "-O", "qcow2", at("disk.raw"), at("disk.qcow2")]);
  fs.writeFileSync(
    at("disk.json"),
    JSON.stringify({ schema: 1, id: "os-1", version: "v1", contract: 1, rootModes: ["readonly"] }),
  );
});
afterAll(() => fs.rmSync(dir, { recursive: true, force: true }));

describe("an image that is good", () => {
  it("is known by digest, format and what lies beside it", async () => {
    const { image, problems } = await resolve({ path: "disk.qcow2" });
    expect(problems).toEqual([]);
    expect(image).toMatchObject({ format: "qcow2", id: "os-1", version: "v1", rootModes: ["readonly"] });
    expect(image?.digest).toBe(sha256(at("disk.qcow2")));
  });

  it("may be raw, and may have an id of its own", async () => {
    expect((await resolve({ path: "disk.raw", id: "mine" })).image).toMatchObject({ format: "raw", id: "mine" });
  });

  it("may be packed with zstd: the digest is that of the disk inside", async () => {
    execFileSync("zstd", ["-q", "-f", at("disk.qcow2"), "-o", at("packed.qcow2.zst")]);
    const { image } = await resolve({ path: "packed.qcow2.zst", sha256: sha256(at("packed.qcow2.zst")) });
    expect(image?.digest).toBe(sha256(at("disk.qcow2")));
  });

  it("is hashed once: the digest comes from the cache while size and time stay, and anew when they change", async () => {
    const [atime, mtime] = [new Date(), new Date(1_700_000_000_000)];
    fs.copyFileSync(at("disk.qcow2"), at("cached.qcow2"));
    fs.utimesSync(at("cached.qcow2"), atime, mtime);
    const first = await resolve({ path: "cached.qcow2" });
    const text = fs.readFileSync(at("cached.qcow2"));
    text.writeUInt8(text.readUInt8(text.length - 1) ^ 1, text.length - 1);
    fs.writeFileSync(at("cached.qcow2"), text);
    fs.utimesSync(at("cached.qcow2"), atime, mtime);
    expect((await resolve({ path: "cached.qcow2" })).image?.digest).toBe(first.image?.digest);
    fs.utimesSync(at("cached.qcow2"), atime, new Date(mtime.getTime() + 5000));
    expect((await resolve({ path: "cached.qcow2" })).image?.digest).toBe(sha256(at("cached.qcow2")));
  });

  it("survives a cache that was cut off while it was written", async () => {
    fs.writeFileSync(at("cache/digests.json"), '{"half');
    expect((await resolve({ path: "disk.qcow2" })).problems).toEqual([]);
  });
});

describe("an image that is not", () => {
  it("is refused when it is missing", async () => {
    expect(await refused({ path: "none.qcow2" })).toMatchObject({
      path: "images.os.path",
      value: "none.qcow2",
      message: "does not exist",
    });
  });

  it("is refused when it is a folder", async () => {
    expect((await refused({ path: "cache" })).message).toBe("is not a file");
  });

  it("is refused when it is something else", async () => {
    fs.writeFileSync(at("page.qcow2"), "<html>".padEnd(4096, " "));
    expect((await refused({ path: "page.qcow2" })).message).toBe("is not a disk image");
    fs.writeFileSync(at("empty.qcow2"), "");
    expect((await refused({ path: "empty.qcow2" })).message).toBe("is not a disk image");
  });

  it("is refused when it is truncated", async () => {
    for (const name of ["disk.qcow2", "disk.raw"]) {
      fs.writeFileSync(at(`cut-${name}`), fs.readFileSync(at(name)).subarray(0, 1 << 20));
      expect((await refused({ path: `cut-${name}` })).message).toMatch(/truncated/);
    }
  });

  it("is refused when it needs another file below it", async () => {
    execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", at("disk.qcow2"), at("thin.qcow2")]);
    expect((await refused({ path: "thin.qcow2" })).message).toMatch(/needs another file below it/);
  });

  it("is refused when its SHA-256 is another one, and both are named", async () => {
    const problem = await refused({ path: "disk.qcow2", sha256: "0".repeat(64) });
    expect(problem).toMatchObject({ path: "images.os.sha256", value: "0".repeat(64) });
    expect(problem.message).toContain(sha256(at("disk.qcow2")));
  });

  it("is refused when what lies beside it is broken", async () => {
    fs.copyFileSync(at("disk.qcow2"), at("odd.qcow2"));
    fs.writeFileSync(at("odd.json"), '{"schema": 2}');
    expect((await refused({ path: "odd.qcow2" })).message).toMatch(/sidecar file odd.json that cannot be used/);
  });

  it("is refused when what is packed is broken", async () => {
    fs.writeFileSync(at("broken.qcow2.zst"), "no zstd");
    expect((await refused({ path: "broken.qcow2.zst" })).message).toMatch(/cannot be unpacked/);
  });

  it("leaves the good ones, and all bad ones are reported together", async () => {
    const sources = { good: { path: "disk.qcow2" }, none: { path: "none" }, page: { path: "page.qcow2" } };
    const { images, problems } = await resolveImages(sources, { projectDir: dir, cacheDir: at("cache"), history: [] });
    expect(Object.keys(images)).toEqual(["good"]);
    expect(problems.map((p) => p.path)).toEqual(["images.none.path", "images.page.path"]);
  });
});

describe("an image from an address", () => {
  let server: Server;
  let requests = 0;
  const url = (name: string): string => `http://127.0.0.1:${(server.address() as AddressInfo).port}/${name}`;
  beforeAll(async () => {
    server = createServer((request, response) => {
      requests++;
      const file = at(path.basename(request.url ?? ""));
      if (!fs.existsSync(file)) {
        response.writeHead(404).end();
        return;
      }
      fs.createReadStream(file).pipe(response);
    });
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  });
  afterAll(() => new Promise((done) => server.close(done)));

  it("is fetched once and checked", async () => {
    const source = { url: url("disk.qcow2"), sha256: sha256(at("disk.qcow2")) };
    expect((await resolve(source)).image?.digest).toBe(source.sha256);
    expect((await resolve(source)).problems).toEqual([]);
    expect(requests).toBe(1);
  });

  it("is not kept when it is another file, so that the right one is taken the next time", async () => {
    const source = { url: url("disk.raw"), sha256: "1".repeat(64) };
    expect((await refused(source)).message).toContain(sha256(at("disk.raw")));
    expect(fs.readdirSync(at("cache/downloads")).filter((file) => file.startsWith("1111"))).toEqual([]);
  });

  it("is refused with the reason when the address does not serve it", async () => {
    expect((await refused({ url: url("nothing"), sha256: "2".repeat(64) })).message).toBe("answers with status 404");
    const other = createServer();
    await new Promise<void>((done) => other.listen(0, "127.0.0.1", done));
    const { port } = other.address() as AddressInfo;
    await new Promise((done) => other.close(done));
    const closed = { url: `http://127.0.0.1:${port}/x`, sha256: "2".repeat(64) };
    expect((await refused(closed)).message).toMatch(/cannot be fetched: .*ECONNREFUSED/);
  });
});

describe("SSH keys in files", () => {
  const KEY = "ssh-ed25519 AAAA one";

  it("are put in their place, in every list of keys, with comments left out", async () => {
    fs.writeFileSync(at("two.pub"), `# mine\n${KEY}\n\nssh-ed25519 BBBB two\n`);
    const { config, problems } = await readKeyFiles(
      {
        defaults: { adminKeys: ["file:two.pub", "ssh-rsa C"] },
        fleet: { web: { accounts: [{ authorizedKeys: [`file:${at("two.pub")}`] }] } },
      },
      dir,
    );
    expect(problems).toEqual([]);
    expect(config).toEqual({
      defaults: { adminKeys: [KEY, "ssh-ed25519 BBBB two", "ssh-rsa C"] },
      fleet: { web: { accounts: [{ authorizedKeys: [KEY, "ssh-ed25519 BBBB two"] }] } },
    });
  });

  it("are reported with their path in the stack file when the file is missing", async () => {
    const { problems } = await readKeyFiles({ fleet: { web: { userKeys: ["x", "file:none.pub"] } } }, dir);
    expect(problems).toEqual([
      expect.objectContaining({ path: "fleet.web.userKeys[1]", value: "file:none.pub", message: "does not exist" }),
    ]);
  });
});

test("an image is here when nothing has to be downloaded for it", async () => {
  const source = { url: "https://images.example/os.qcow2?x=1", sha256: "AB".repeat(32) };
  expect(await isHere({ path: "disk.qcow2" }, at("cache"))).toBe(true);
  expect(await isHere({ digest: "1f3a" }, at("cache"))).toBe(true);
  expect(await isHere(source, at("cache"))).toBe(false);
  fs.mkdirSync(at("cache/downloads"), { recursive: true });
  fs.writeFileSync(at(`cache/downloads/${"ab".repeat(32)}-os.qcow2`), "");
  expect(await isHere(source, at("cache"))).toBe(true);
});
