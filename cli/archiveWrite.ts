import { createHash } from "node:crypto";
import { closeSync, openSync } from "node:fs";
import { open } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { type Checksums, type Manifest, MEMBER, padding, seal, TAR_END, tarHeader } from "./archive";
import { type Frame, FrameWriter, positionOf, SourceChanged } from "./frames";

/** Bytes. */
const AHEAD = 64 * 2 ** 20;

/** A file that becomes a member. */
export interface Source {
  name: Manifest["members"][number]["name"];
  path: string;
  bytes: number;
}

/** What to write, and where. */
export interface Writing {
  file: string;
  manifest: Manifest;
  /** In the order of the manifest's members. */
  sources: readonly Source[];
  /** Frames that the file has from before; none: it is made anew. */
  done?: readonly Frame[];
  record: (frame: Frame) => Promise<void>;
  /** Bytes of members that were read so far. */
  progress?: (bytes: number) => void;
  signal?: AbortSignal;
  /** Bytes of a disk in one frame; tests have less than {@link FRAME_BYTES}. */
  frameBytes?: number;
}

/** Writes an archive; memory does not depend on its size. Gives its size, and what it holds. */
export async function writeArchive(writing: Writing): Promise<{ bytes: number; checksums: Checksums }> {
  const { manifest, done = [], signal } = writing;
  const at = new Date(manifest.created);
  const file = await open(writing.file, done.length > 0 ? "r+" : "w+", 0o600);
  const frames = new FrameWriter(writing.file, file, done, writing.record, signal, writing.frameBytes);
  const checksums: Checksums = {};
  let before = 0;
  const text = (name: string, json: unknown): void => {
    const content = Buffer.from(`${JSON.stringify(json, null, 1)}\n`);
    for (const part of [tarHeader(name, content.length, at), content, padding(content.length)]) frames.text(part);
    checksums[name] = { bytes: content.length, sha256: createHash("sha256").update(content).digest("hex") };
  };
  const disk = async ({ name, path, bytes }: Source): Promise<void> => {
    // The content of a disk begins with a frame: what is before the first is read without it, and it is unpacked to where it belongs.
    frames.text(tarHeader(name, bytes, at));
    const source = openSync(path, "r");
    const failed = new AbortController();
    try {
      const progress = (position: number): void => writing.progress?.(before + position);
      const hash = hashBeside(path, bytes, () => positionOf(source), progress, failed.signal);
      const [sha256] = await Promise.all([hash, frames.copy(source, bytes)]);
      checksums[name] = { bytes, sha256 };
      before += bytes;
    } catch (error) {
      failed.abort();
      throw error instanceof SourceChanged ? new SourceChanged(`${name}: ${error.message}`) : error;
    } finally {
      closeSync(source);
    }
    frames.text(padding(bytes));
  };
  try {
    await frames.check();
    text(MEMBER.manifest, manifest);
    for (const source of writing.sources) await disk(source);
    text(MEMBER.checksums, { ...checksums });
    frames.text(TAR_END);
    await frames.cut();
    await frames.settle();
    const end = seal(frames.headBytes, frames.crc32);
    await file.write(end, 0, end.length, frames.bytes);
    await file.sync();
    return { bytes: frames.bytes + end.length, checksums };
  } finally {
    await frames.abandon();
    await file.close();
  }
}

/**
 * SHA-256 of a file that another process reads, a little way ahead of it: what is not in memory is then read from the disk once.
 *
 * @param reached how far the other one is.
 * @throws SourceChanged when it is not as long as it was.
 */
async function hashBeside(
  path: string,
  bytes: number,
  reached: () => number,
  progress: (position: number) => void,
  failed: AbortSignal,
): Promise<string> {
  const hash = createHash("sha256");
  let seen = 0;
  const until = async (position: number): Promise<void> => {
    failed.throwIfAborted();
    for (let at = reached(); at < position; at = reached()) {
      progress(at);
      await sleep(20, undefined, { signal: failed });
    }
  };
  const buffer = Buffer.alloc(2 ** 20);
  const file = await open(path, "r");
  try {
    for (;;) {
      const { bytesRead } = await file.read(buffer, 0, buffer.length);
      if (bytesRead === 0) break;
      hash.update(buffer.subarray(0, bytesRead));
      seen += bytesRead;
      await until(seen - AHEAD);
    }
  } finally {
    await file.close();
  }
  if (seen !== bytes) throw new SourceChanged("it has changed while it was read");
  await until(bytes);
  progress(bytes);
  return hash.digest("hex");
}
