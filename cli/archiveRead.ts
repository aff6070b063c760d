import type { ChildProcess } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { closeSync, fstatSync, openSync, readSync, truncateSync } from "node:fs";
import { open } from "node:fs/promises";
import type { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import * as tar from "tar-stream";
import { apart, goOn } from "./apart";
import {
  BadArchive,
  type Checksums,
  type Manifest,
  MEMBER,
  parseChecksums,
  parseManifest,
  readSeal,
  SEAL_BYTES,
  SUM_BYTES,
} from "./archive";
import { crcOf } from "./frames";

/** What is done with an archive besides looking at every byte of it. */
export interface Reading {
  file: string;
  /** Called before anything else is read; what it throws ends the reading. Gives files for members that are to be unpacked. */
  begin?: (manifest: Manifest) => Promise<Partial<Record<string, string>>>;
  /** Bytes of the archive that were read so far. */
  progress?: (bytes: number) => void;
  signal?: AbortSignal;
}

/** Texts of ours are short; a longer one is none of ours, and would fill the memory. */
const TEXT_BYTES = 2 ** 20;
const BLOCK = Buffer.alloc(64 * 1024);

/**
 * Reads an archive from its first byte to its last and compares all of it with what it says of itself. Members are written to files on
 * the way: they may be used only when this has come to its end.
 *
 * @throws BadArchive when one bit is not as it was written.
 */
export async function readArchive(reading: Reading): Promise<Manifest> {
  const archive = openSync(reading.file, "r");
  let unpacker: Unpacker | undefined;
  try {
    const { bytes, headBytes, crc32: wanted } = sealOf(archive);
    const head = await headOf(archive, headBytes);
    const manifest = manifestOf(head);
    const targets = (await reading.begin?.(manifest)) ?? {};
    const summed = crcOf(archive, 0, bytes, 0, reading.signal);
    summed.catch(() => undefined);
    // Goes on behind the head, up to which the file was read.
    unpacker = new Unpacker(archive, manifest, targets[MEMBER.data], reading, bytes);
    const extract = tar.extract();
    const fed = feed(extract, head, unpacker);
    await members(extract, manifest, { ...targets, [MEMBER.data]: undefined }, reading.signal);
    await fed;
    await unpacker.end();
    if ((await summed) !== wanted) throw new BadArchive("is damaged: its bytes are not those that were written");
    return manifest;
  } catch (error) {
    goOn(reading.signal);
    throw bad(error, unpacker?.said ?? "");
  } finally {
    await unpacker?.stop();
    closeSync(archive);
  }
}

/** What an archive says of itself, without looking at the rest of it. @throws BadArchive */
export async function readManifest(file: string): Promise<Manifest> {
  let found: Manifest | undefined;
  const enough = new Error("enough");
  try {
    return await readArchive({
      file,
      begin: (manifest) => {
        found = manifest;
        return Promise.reject(enough);
      },
    });
  } catch (error) {
    if (found && error === enough) return found;
    throw error;
  }
}

/** What tar makes of bytes that are not as they were, in our words. */
function bad(error: unknown, said: string): unknown {
  const ofTar =
    error instanceof Error && /Invalid tar header|Unexpected end|prematurely|destroyed/i.test(error.message);
  return ofTar ? new BadArchive(`does not unpack: ${said.trim() || error.message}`) : error;
}

/** Bytes of the file that the sum is of, and what the seal has. */
function sealOf(archive: number): { bytes: number; headBytes: number; crc32: number } {
  const { size } = fstatSync(archive);
  const end = Buffer.alloc(SEAL_BYTES);
  const read = readSync(archive, end, 0, SEAL_BYTES, Math.max(0, size - SEAL_BYTES));
  const found = readSeal(end.subarray(0, read));
  if (found === undefined || found.headBytes > size) throw new BadArchive("is not whole, or no archive of nixvm");
  return { bytes: size - SUM_BYTES, ...found };
}

/** What is in the first frame: the manifest, and the header of the disk. The file's position is behind it then. */
async function headOf(archive: number, headBytes: number): Promise<Buffer> {
  if (headBytes > TEXT_BYTES) throw new BadArchive(`has a head of ${headBytes} bytes`);
  const packed = Buffer.alloc(headBytes);
  readSync(archive, packed, 0, headBytes, null);
  const child = apart("zstd", ["-q", "-d", "-c"], { stdio: ["pipe", "pipe", "ignore"] });
  child.stdin?.on("error", () => undefined);
  child.stdin?.end(packed);
  const ended = once(child, "close");
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of child.stdout as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    if ((bytes += chunk.length) > TEXT_BYTES) child.kill("SIGKILL");
  }
  const [code] = (await ended) as [number | null];
  if (code !== 0) throw new BadArchive("has a head that does not unpack");
  return Buffer.concat(chunks);
}

/** The manifest in a head; its header is looked at later, with all others. */
function manifestOf(head: Buffer): Manifest {
  const size = parseInt(head.toString("latin1", 124, 136), 8);
  return parseManifest(head.toString("utf8", 512, 512 + (Number.isNaN(size) ? 0 : size)));
}

/**
 * What follows the head, unpacked. The disk is unpacked to its file by zstd itself, together with what is behind it, and read from there:
 * each buffer that goes through our hands is a wait, which costs most on a busy machine.
 */
class Unpacker {
  said = "";
  private readonly child: ChildProcess;
  private readonly ended: Promise<number | null>;
  private readonly limit: number;

  constructor(
    archive: number,
    private readonly manifest: Manifest,
    private readonly target: string | undefined,
    private readonly reading: Reading,
    private readonly bytes: number,
  ) {
    // What was announced, with its headers and the checksums: an archive may say less than it holds, to fill a disk.
    this.limit = manifest.members.reduce((total, member) => total + member.bytes + 2048, TEXT_BYTES);
    const out = target === undefined ? undefined : openSync(target, "wx", 0o600);
    this.child = apart("zstd", ["-q", "-d", "-c"], { stdio: [archive, out ?? "pipe", "pipe"] });
    if (out !== undefined) closeSync(out);
    this.child.stderr?.setEncoding("utf8").on("data", (text: string) => (this.said += text));
    this.ended = new Promise((resolve, reject) => {
      this.child.on("error", reject);
      this.child.on("close", resolve);
    });
    this.ended.catch(() => undefined);
  }

  async *content(): AsyncGenerator<Buffer> {
    const { target, child } = this;
    const from = target === undefined ? (child.stdout as Readable) : this.growing(target);
    let at = 0;
    for await (const chunk of from) {
      goOn(this.reading.signal);
      if ((at += (chunk as Buffer).length) > this.limit) throw new BadArchive("holds more than it says");
      yield chunk as Buffer;
    }
  }

  async end(): Promise<void> {
    if ((await this.ended) !== 0) throw new BadArchive(`does not unpack: ${this.said.trim()}`);
    const data = this.manifest.members.find(({ name }) => name === MEMBER.data);
    if (this.target !== undefined) truncateSync(this.target, data?.bytes ?? 0);
  }

  async stop(): Promise<void> {
    this.child.kill("SIGKILL");
    await this.ended.catch(() => undefined);
  }

  /** What is in the target, while zstd still writes to it. */
  private async *growing(target: string): AsyncGenerator<Buffer> {
    let running = true;
    const over = this.ended.finally(() => (running = false));
    over.catch(() => undefined);
    const file = await open(target, "r");
    try {
      for (let at = 0; ;) {
        goOn(this.reading.signal);
        // Asked before the file is read: what was written until then is seen.
        const last = !running;
        const { size } = await file.stat();
        // An archive may hold less or more than it says, up to all of the disk.
        if (size > this.limit) this.child.kill("SIGKILL");
        this.reading.progress?.(Math.floor((Math.min(size, this.limit) / this.limit) * this.bytes));
        while (at < size) {
          goOn(this.reading.signal);
          const buffer = Buffer.allocUnsafe(Math.min(2 ** 20, size - at));
          const { bytesRead } = await file.read(buffer, 0, buffer.length, at);
          if (bytesRead === 0) break;
          at += bytesRead;
          yield buffer.subarray(0, bytesRead);
        }
        if (last) break;
        await Promise.race([over, sleep(10)]);
      }
    } finally {
      await file.close();
    }
  }
}

async function feed(extract: tar.Extract, head: Buffer, unpacker: Unpacker): Promise<void> {
  let wake = (): void => undefined;
  for (const event of ["drain", "close"]) extract.on(event, () => wake());
  const give = async (chunk: Buffer): Promise<void> => {
    if (!extract.write(chunk) && !extract.destroyed) await new Promise<void>((resolve) => (wake = resolve));
  };
  try {
    await give(head);
    for await (const chunk of unpacker.content()) {
      if (extract.destroyed) return;
      await give(chunk);
    }
    extract.end(Buffer.alloc(0));
  } catch (error) {
    // Whoever reads the members hears of it.
    extract.destroy(error as Error);
  }
}

async function members(
  extract: tar.Extract,
  manifest: Manifest,
  targets: Partial<Record<string, string | undefined>>,
  signal: AbortSignal | undefined,
): Promise<void> {
  let listed: Checksums | undefined;
  const seen: Checksums = {};
  const expected: { name: string; bytes?: number }[] = [
    { name: MEMBER.manifest },
    ...manifest.members,
    { name: MEMBER.checksums },
  ];
  for await (const entry of extract) {
    const { name, size = 0, type } = entry.header;
    const wanted = expected[Object.keys(seen).length];
    // Before a byte of it is written anywhere: names of ours only, in our order, as long as they were announced to be.
    if (type !== "file" || wanted?.name !== name || (wanted.bytes ?? size) !== size) {
      throw new BadArchive(
        `has the member ${JSON.stringify(name)} of ${size} bytes, where ${wanted?.name ?? "none"} belongs`,
      );
    }
    const content = entry as unknown as AsyncIterable<Buffer>;
    if (name === MEMBER.manifest || name === MEMBER.checksums) {
      const text = await readText(content, size, name, seen);
      if (name === MEMBER.checksums) listed = parseChecksums(text);
    } else {
      seen[name] = await unpack(content, targets[name], size, signal);
    }
  }
  if (listed === undefined) throw new BadArchive("ends before its checksums");
  const { [MEMBER.checksums]: _, ...summed } = seen;
  compare(summed, listed);
}

function compare(seen: Checksums, listed: Checksums): void {
  for (const name of new Set([...Object.keys(seen), ...Object.keys(listed)])) {
    const [is, was] = [seen[name], listed[name]];
    if (is?.sha256 !== was?.sha256 || is?.bytes !== was?.bytes) {
      throw new BadArchive(`is damaged: ${name} is not what was written`);
    }
  }
}

async function readText(content: AsyncIterable<Buffer>, size: number, name: string, seen: Checksums): Promise<string> {
  if (size > TEXT_BYTES) throw new BadArchive(`has a ${name} of ${size} bytes`);
  const chunks: Buffer[] = [];
  for await (const chunk of content) chunks.push(chunk);
  const all = Buffer.concat(chunks);
  seen[name] = { bytes: all.length, sha256: createHash("sha256").update(all).digest("hex") };
  return all.toString("utf8");
}

/** Zeros are left out of the file: they are where a disk was never written. */
async function unpack(
  content: AsyncIterable<Buffer>,
  target: string | undefined,
  size: number,
  signal: AbortSignal | undefined,
): Promise<Checksums[string]> {
  const hash = createHash("sha256");
  let bytes = 0;
  const file = target === undefined ? undefined : await open(target, "wx", 0o600);
  try {
    for await (const chunk of content) {
      goOn(signal);
      hash.update(chunk);
      if (file && !isZero(chunk)) await file.write(chunk, 0, chunk.length, bytes);
      bytes += chunk.length;
    }
    await file?.truncate(size);
    await file?.sync();
  } finally {
    await file?.close();
  }
  return { bytes, sha256: hash.digest("hex") };
}

function isZero(chunk: Buffer): boolean {
  for (let at = 0; at < chunk.length; at += BLOCK.length) {
    const part = chunk.subarray(at, at + BLOCK.length);
    if (!part.equals(BLOCK.subarray(0, part.length))) return false;
  }
  return true;
}
