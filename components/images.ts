import { execFile } from "node:child_process";
import { createWriteStream } from "node:fs";
import * as fs from "node:fs/promises";
import * as path from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { promisify } from "node:util";
import { commandEnv } from "../provider/run";
import { DigestCache, sha256Of } from "./digestCache";
import { type BuildHost, inputsDigest, lastBuilt, parseFlake } from "./flakes";
import { rememberPackages } from "./packageLists";
import { findKnown, type KnownImage } from "./plan/history";

const run = promisify(execFile);

/** Where an image comes from, as the stack file says it. */
export interface ImageSource {
  /** File on this machine; relative paths start at the project. */
  path?: string;
  /** Address to fetch from; needs `sha256`. */
  url?: string;
  /** Flake and attribute that it is built from, before the run: `nixvm image build`. */
  flake?: string;
  /** Where it is built; this machine by default. */
  buildHost?: BuildHost;
  /** Beginning of the digest of an image that is on the hosts already. */
  digest?: string;
  /** SHA-256 of the file as it is at `path` or `url`, packed or not: 64 hexadecimal digits. */
  sha256?: string;
  /** Image id that the guest has to report; by default what the sidecar file `<image>.json` says. */
  id?: string;
}

/** What is known of an image before any resource is made. */
export interface ResolvedImage {
  /** Unpacked disk image on this machine; empty for one that is on the hosts already. */
  file: string;
  /** SHA-256 over the unpacked image: what volumes are named by and upgrades are keyed on. */
  digest: string;
  format: "qcow2" | "raw";
  /** Id the guest reports; undefined where nothing says it. */
  id?: string;
  /** Version for people; undefined where nothing says it. */
  version?: string;
  /** Version of the guest contract it keeps; undefined for a foreign image. */
  contract?: number;
  /** Root modes the image can boot; undefined for a foreign image. */
  rootModes?: string[];
  /** Size on disk in bytes. */
  bytes: number;
}

/** A mistake in the `images` part of the stack file. */
export interface ImageProblem {
  path: string;
  value: unknown;
  message: string;
  allowed: string;
}

class Refused extends Error {
  constructor(
    readonly field: string,
    readonly value: unknown,
    message: string,
    readonly allowed: string,
  ) {
    super(message);
  }
}

const SIDECAR_MISSING = "ENOENT";

/** Resolves the images of a stack: finds, fetches, unpacks, checks and digests them; reports all mistakes together. */
export async function resolveImages(
  sources: Record<string, ImageSource>,
  options: { projectDir: string; cacheDir: string; history: readonly KnownImage[] },
): Promise<{ images: Record<string, ResolvedImage>; problems: ImageProblem[]; warnings: ImageProblem[] }> {
  const images: Record<string, ResolvedImage> = {};
  const problems: ImageProblem[] = [];
  const warnings: ImageProblem[] = [];
  const cache = await DigestCache.open(options.cacheDir);
  // One after another: two images of a stack are often one file, and hashing is bound by the disk.
  for (const [name, source] of Object.entries(sources)) {
    try {
      images[name] = source.digest
        ? resolveKnown(source.digest, options.history)
        : await resolveOne(name, source, cache, { ...options, warnings });
    } catch (error) {
      if (!(error instanceof Refused)) {
        throw error;
      }
      problems.push({
        path: `images.${name}.${error.field}`,
        value: error.value,
        message: error.message,
        allowed: error.allowed,
      });
    }
  }
  await cache.save();
  return { images, problems, warnings };
}

function resolveKnown(digest: string, history: readonly KnownImage[]): ResolvedImage {
  const known = findKnown(history, digest);
  if (known === undefined) {
    const has = history.map((image) => `${image.digest.slice(0, 12)}${image.version ? ` (${image.version})` : ""}`);
    const there = has.length > 0 ? `one of ${has.join(", ")}, or ` : "";
    throw new Refused("digest", digest, "is not an image that this stack has kept", `${there}path or url of the image`);
  }
  const { hosts: _, rootModes, ...facts } = known;
  return { ...facts, file: "", bytes: 0, ...(rootModes ? { rootModes: [...rootModes] } : {}) };
}

async function resolveOne(
  name: string,
  source: ImageSource,
  cache: DigestCache,
  options: { projectDir: string; cacheDir: string; warnings: ImageProblem[] },
): Promise<ResolvedImage> {
  const given = source.url
    ? await fetched(source.url, source.sha256 ?? "", options)
    : source.flake
      ? await built(name, source.flake, options)
      : path.resolve(options.projectDir, source.path ?? "");
  const field = source.url ? "url" : source.flake ? "flake" : "path";
  const value = source.url ?? source.flake ?? source.path;
  const stat = await fs.stat(given).catch(() => undefined);
  if (!stat?.isFile()) {
    throw new Refused(
      field,
      value,
      stat ? "is not a file" : "does not exist",
      "a disk image (qcow2 or raw, also packed with zstd)",
    );
  }
  if (source.sha256 !== undefined) {
    const actual = await cache.digest(given);
    if (actual !== source.sha256.toLowerCase()) {
      throw wrongDigest(source.sha256, actual);
    }
  }
  const file = given.endsWith(".zst") ? await unpacked(given, cache, options.cacheDir, field, value) : given;
  const format = await diskFormat(file, field, value);
  const sidecar = await readSidecar(given.replace(/\.zst$/, ""), field, value);
  const digest = await cache.digest(file);
  await rememberPackages(given, { digest, ...sidecar }, options.cacheDir);
  return {
    file,
    digest,
    format,
    bytes: (await fs.stat(file)).size,
    ...sidecar,
    ...(source.id === undefined ? {} : { id: source.id }),
  };
}

/** What was built last. A preview must not build: it has to know the digest, and nothing may be made by then. */
async function built(
  name: string,
  text: string,
  options: { projectDir: string; cacheDir: string; warnings: ImageProblem[] },
): Promise<string> {
  const flake = parseFlake(text, options.projectDir);
  const record = await lastBuilt(flake, options.cacheDir);
  if (record === undefined) {
    const message = "has not been built, or its image is gone";
    throw new Refused("flake", text, message, `run "nixvm image build ${name}" first; or path or url of an image`);
  }
  if ((await inputsDigest(flake).catch(() => "")) !== record.inputs) {
    options.warnings.push({
      path: `images.${name}.flake`,
      value: text,
      message: `has changed since its image was built (${record.builtAt}); VMs get the one that was built last`,
      allowed: `run "nixvm image build ${name}" to build it again`,
    });
  }
  return record.file;
}

function downloadOf(url: string, sha256: string, cacheDir: string): string {
  return path.join(cacheDir, "downloads", `${sha256.toLowerCase()}-${path.basename(new URL(url).pathname)}`);
}

function unpackedOf(packed: string, digest: string, cacheDir: string): string {
  return path.join(cacheDir, "unpacked", `${digest.slice(0, 16)}-${path.basename(packed).replace(/\.zst$/, "")}`);
}

/** Where the file of a source is, or would be, and what it is unpacked to: of the cache these are needed. */
export async function filesOf(
  source: ImageSource,
  options: { projectDir: string; cacheDir: string },
): Promise<{ given?: string; unpacked?: string }> {
  const { cacheDir } = options;
  const given =
    source.url && source.sha256
      ? downloadOf(source.url, source.sha256, cacheDir)
      : source.flake
        ? (await lastBuilt(parseFlake(source.flake, options.projectDir), cacheDir))?.file
        : source.path && path.resolve(options.projectDir, source.path);
  if (!given?.endsWith(".zst") || !(await exists(given))) return given ? { given } : {};
  const digest = await (await DigestCache.open(cacheDir)).digest(given);
  return { given, unpacked: unpackedOf(given, digest, cacheDir) };
}

/** Whether an image can be resolved without a download. */
export async function isHere({ url, sha256 }: ImageSource, cacheDir: string): Promise<boolean> {
  return url === undefined || exists(downloadOf(url, sha256 ?? "", cacheDir));
}

async function fetched(url: string, sha256: string, options: { cacheDir: string }): Promise<string> {
  const target = downloadOf(url, sha256, options.cacheDir);
  if (await exists(target)) {
    return target;
  }
  await fs.mkdir(path.dirname(target), { recursive: true });
  const response = await fetch(url).catch((error: unknown) => {
    const cause = (error as { cause?: { message?: string } }).cause?.message ?? String(error);
    throw new Refused("url", url, `cannot be fetched: ${cause}`, "an address that can be reached from here");
  });
  if (!response.ok || !response.body) {
    throw new Refused("url", url, `answers with status ${response.status}`, "an address that serves the image");
  }
  const part = `${target}.part-${process.pid}`;
  try {
    await pipeline(Readable.fromWeb(response.body), createWriteStream(part));
    const actual = await sha256Of(part);
    if (actual !== sha256.toLowerCase()) {
      // Not kept: the address may serve the right file the next time.
      throw wrongDigest(sha256, actual);
    }
    await fs.rename(part, target);
  } finally {
    await fs.rm(part, { force: true });
  }
  return target;
}

async function unpacked(
  packed: string,
  cache: DigestCache,
  cacheDir: string,
  field: string,
  value: unknown,
): Promise<string> {
  const target = unpackedOf(packed, await cache.digest(packed), cacheDir);
  if (await exists(target)) {
    return target;
  }
  await fs.mkdir(path.dirname(target), { recursive: true });
  const part = `${target}.part-${process.pid}`;
  try {
    await run("zstd", ["-q", "-d", "-f", "--sparse", packed, "-o", part], { env: commandEnv() });
    await fs.rename(part, target);
  } catch (error) {
    const text = error instanceof Error ? error.message.split("\n").slice(-2).join(" ").trim() : String(error);
    throw new Refused(field, value, `cannot be unpacked (${text})`, "a whole file packed with zstd, and the zstd tool");
  } finally {
    await fs.rm(part, { force: true });
  }
  return target;
}

/** The format by content: an image under a wrong name would be written to a disk as it is and never boot. */
async function diskFormat(file: string, field: string, value: unknown): Promise<"qcow2" | "raw"> {
  const handle = await fs.open(file);
  try {
    const { size } = await handle.stat();
    const head = Buffer.alloc(1024);
    await handle.read(head, 0, head.length, 0);
    if (head.toString("latin1", 0, 4) === "QFI\xfb") {
      await checkQcow2(file, field, value);
      return "qcow2";
    }
    if (head.readUInt16LE(510) !== 0xaa55) {
      throw new Refused(field, value, "is not a disk image", "a qcow2 image, or a raw one with a partition table");
    }
    if (head.toString("latin1", 512, 520) === "EFI PART") {
      const backup = Buffer.alloc(8);
      // The primary header says where the backup header is: at the disk's last sector.
      const at = Number(head.readBigUInt64LE(512 + 32)) * 512;
      await handle.read(backup, 0, 8, at);
      if (at + 512 > size || backup.toString("latin1") !== "EFI PART") {
        throw new Refused(
          field,
          value,
          "is truncated: the end of its partition table is missing",
          "the whole disk image",
        );
      }
    }
    return "raw";
  } finally {
    await handle.close();
  }
}

async function checkQcow2(file: string, field: string, value: unknown): Promise<void> {
  const out = await run("qemu-img", ["info", "--output=json", file], { env: commandEnv() }).catch(
    (error: { stderr?: string }) => {
      throw new Refused(
        field,
        value,
        `cannot be read as qcow2 (${(error.stderr ?? "").trim()})`,
        "a whole qcow2 image",
      );
    },
  );
  const info = JSON.parse(out.stdout) as { "backing-filename"?: string };
  if (info["backing-filename"] !== undefined) {
    throw new Refused(
      field,
      value,
      `needs another file below it (${info["backing-filename"]})`,
      "an image that stands alone; `qemu-img convert` makes one",
    );
  }
  // A refcount table or cluster beyond the end of the file shows here: it only reads metadata.
  await run("qemu-img", ["check", "-q", "--output=json", file], { env: commandEnv() }).catch(() => {
    throw new Refused(field, value, "is truncated or damaged: qemu-img check refuses it", "a whole qcow2 image");
  });
}

async function readSidecar(
  image: string,
  field: string,
  value: unknown,
): Promise<Pick<ResolvedImage, "id" | "version" | "contract" | "rootModes">> {
  const file = `${image.replace(/\.(qcow2|raw|img)$/, "")}.json`;
  let text: string;
  try {
    text = await fs.readFile(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === SIDECAR_MISSING) {
      return {};
    }
    throw error;
  }
  try {
    const said = JSON.parse(text) as Required<Pick<ResolvedImage, "id" | "version" | "contract" | "rootModes">> & {
      schema: number;
    };
    if (said.schema !== 1 || typeof said.id !== "string" || !Array.isArray(said.rootModes)) {
      throw new Error("schema 1 with id and rootModes is expected");
    }
    return { id: said.id, version: said.version, contract: said.contract, rootModes: said.rootModes };
  } catch (error) {
    throw new Refused(
      field,
      value,
      `has a sidecar file ${path.basename(file)} that cannot be used: ${(error as Error).message}`,
      "the sidecar that the image build wrote, or none",
    );
  }
}

function wrongDigest(wanted: string, actual: string): Refused {
  return new Refused(
    "sha256",
    wanted,
    `does not fit the file, whose SHA-256 is ${actual}`,
    "the SHA-256 of the file as it is there",
  );
}

async function exists(file: string): Promise<boolean> {
  return fs.access(file).then(
    () => true,
    () => false,
  );
}
