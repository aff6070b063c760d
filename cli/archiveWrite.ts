import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import { type Checksums, type Manifest, MEMBER, padding, sealHead, TAR_END, tarHeader } from "./archive";
import { type Frame, FrameWriter, SourceChanged } from "./frames";

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
}

/** Writes an archive; memory does not depend on its size. Gives its size, and what it holds. */
export async function writeArchive(writing: Writing): Promise<{ bytes: number; checksums: Checksums }> {
  const { manifest, done = [], signal } = writing;
  const at = new Date(manifest.created);
  const file = await open(writing.file, done.length > 0 ? "r+" : "w+", 0o600);
  const frames = new FrameWriter(writing.file, file, done, writing.record, signal);
  const checksums: Checksums = {};
  let read = 0;
  // The content of the first disk begins with a frame: what is before it is read without it, and it is unpacked to where it belongs.
  const member = async (name: string, bytes: number, content: AsyncIterable<Buffer>): Promise<void> => {
    const hash = createHash("sha256");
    let seen = 0;
    await frames.write(tarHeader(name, bytes, at));
    if (name === writing.sources[0]?.name) await frames.cut();
    for await (const chunk of content) {
      hash.update(chunk);
      seen += chunk.length;
      if (seen > bytes) break;
      await frames.write(chunk);
      writing.progress?.((read += chunk.length));
    }
    if (seen !== bytes) throw new SourceChanged(`${name} has changed while it was read`);
    await frames.write(padding(bytes));
    checksums[name] = { bytes, sha256: hash.digest("hex") };
  };
  const text = (name: string, json: unknown): Promise<void> => {
    const content = Buffer.from(`${JSON.stringify(json, null, 1)}\n`);
    return member(name, content.length, once(content));
  };
  try {
    await frames.check();
    await text(MEMBER.manifest, manifest);
    for (const { name, path, bytes } of writing.sources) {
      await member(name, bytes, createReadStream(path, { highWaterMark: 2 ** 20 }));
    }
    await text(MEMBER.checksums, { ...checksums });
    await frames.write(TAR_END);
    await frames.cut();
    await frames.settle();
    const head = sealHead(frames.headBytes);
    const end = Buffer.concat([head, frames.digest(head)]);
    await file.write(end, 0, end.length, frames.bytes);
    await file.sync();
    return { bytes: frames.bytes + end.length, checksums };
  } finally {
    await frames.abandon();
    await file.close();
  }
}

async function* once(content: Buffer): AsyncIterable<Buffer> {
  yield await Promise.resolve(content);
}
