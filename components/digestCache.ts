import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import * as fs from "node:fs/promises";
import * as path from "node:path";
import { pipeline } from "node:stream/promises";

/** Answers for a file whose size and modification time are as before come from here: hashing gigabytes at each preview would hurt. */
interface CacheEntry {
  size: number;
  mtimeMs: number;
  digest: string;
}

export async function sha256Of(file: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(file, { highWaterMark: 1 << 20 }), hash);
  return hash.digest("hex");
}

/** Digests of files, remembered in the cache. */
export class DigestCache {
  private changed = false;

  private constructor(
    private readonly file: string,
    private readonly entries: Record<string, CacheEntry>,
  ) {}

  static async open(cacheDir: string): Promise<DigestCache> {
    const file = path.join(cacheDir, "digests.json");
    const text = await fs.readFile(file, "utf8").catch(() => "{}");
    try {
      return new DigestCache(file, JSON.parse(text) as Record<string, CacheEntry>);
    } catch {
      // A half-written cache costs one more hash, nothing else.
      return new DigestCache(file, {});
    }
  }

  async digest(file: string): Promise<string> {
    const { size, mtimeMs } = await fs.stat(file);
    const known = this.entries[file];
    if (known?.size === size && known.mtimeMs === mtimeMs) {
      return known.digest;
    }
    const digest = await sha256Of(file);
    this.entries[file] = { size, mtimeMs, digest };
    this.changed = true;
    return digest;
  }

  async save(): Promise<void> {
    if (!this.changed) {
      return;
    }
    await fs.mkdir(path.dirname(this.file), { recursive: true });
    const part = `${this.file}.part-${process.pid}`;
    await fs.writeFile(part, JSON.stringify(this.entries, null, 1));
    await fs.rename(part, this.file);
  }
}
