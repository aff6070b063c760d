import { type ChildProcess } from "node:child_process";
import { createHash } from "node:crypto";
import { closeSync, createReadStream, openSync, unlinkSync } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { availableParallelism } from "node:os";
import type { Writable } from "node:stream";
import { apart, goOn } from "./apart";

/** Bytes of the tar stream in one frame: what one compressor gets, and with all that are at work the most that is compressed twice. */
export const FRAME_BYTES = 32 * 2 ** 20;
/** zstd's own default. More makes a backup slower than the disks it is written to, for a few percent. */
export const LEVEL = 3;
/** Frames that are in memory at a time: one a processor, and one that is ready when the first of them is done. */
const AT_A_TIME = Math.min(availableParallelism(), 8) + 1;

/** A frame that is in the file as a whole. */
export interface Frame {
  /** Bytes of the tar stream in it. */
  raw: number;
  /** Bytes in the file. */
  bytes: number;
  /** Of the file up to its end. */
  sha256: string;
}

/** The frames of an unfinished archive are not those that its source gives now. */
export class SourceChanged extends Error {}

/**
 * Compresses a stream into frames, one process each, several at a time: a frame that ends does not make the others wait. Frames that are
 * in the file already are not made again: what belongs to them is passed over, and must be as long as it was.
 */
export class FrameWriter {
  private readonly whole = createHash("sha256");
  private readonly compressors = new Set<ChildProcess>();
  private frames = 0;
  private index = 0;
  private passed = 0;
  /** Of the frame that is being filled. */
  private chunks: Buffer[] = [];
  private raw = 0;
  private at = 0;
  private first = 0;
  /** Each settles when its frame is in the file, and all before it. */
  private readonly waiting: Promise<void>[] = [];
  private last: Promise<void> = Promise.resolve();

  constructor(
    private readonly path: string,
    /** Of that path. */
    private readonly file: FileHandle,
    /** Those that are in the file, in order. */
    private readonly done: readonly Frame[],
    /** Told of each new one. */
    private readonly record: (frame: Frame) => Promise<void>,
    private readonly signal?: AbortSignal,
  ) {}

  /** Bytes of the file so far. */
  get bytes(): number {
    return this.at;
  }

  /** Bytes of the first frame, once it is whole. */
  get headBytes(): number {
    return this.first;
  }

  /** Looks at what is in the file: every frame must be what was recorded. What is behind them is cut off. */
  async check(): Promise<void> {
    this.first = this.done[0]?.bytes ?? 0;
    for (const frame of this.done) {
      await this.sum(frame.bytes);
      if (this.sha256() !== frame.sha256) {
        throw new SourceChanged("what was written is not what was recorded");
      }
    }
    await this.file.truncate(this.at);
  }

  async write(chunk: Buffer): Promise<void> {
    for (let rest = chunk; rest.length > 0;) {
      goOn(this.signal);
      const isDone = this.index < this.done.length;
      const size = isDone ? this.passed : this.raw;
      const now = rest.subarray(0, FRAME_BYTES - size);
      rest = rest.subarray(now.length);
      if (isDone) this.passed += now.length;
      else {
        this.chunks.push(now);
        this.raw += now.length;
      }
      if (size + now.length === FRAME_BYTES) await this.cut();
    }
  }

  /** What follows is in another frame. */
  async cut(): Promise<void> {
    const done = this.done[this.index];
    if (done !== undefined) {
      if (this.passed === 0) return;
      if (this.passed !== done.raw) throw new SourceChanged("what is to be written has another length");
      this.passed = 0;
      this.index++;
      return;
    }
    const { chunks, raw, last } = this;
    if (raw === 0) return;
    [this.chunks, this.raw] = [[], 0];
    const packed = this.compress(chunks);
    this.last = packed.then(
      async (fd) => {
        await last.catch((error: unknown) => {
          closeSync(fd);
          throw error;
        });
        const bytes = await this.append(fd);
        this.first ||= bytes;
        await this.record({ raw, bytes, sha256: this.sha256() });
      },
      // What went wrong first is what is told.
      (error: unknown) => last.then(() => Promise.reject(error as Error)),
    );
    this.last.catch(() => undefined);
    this.waiting.push(this.last);
    if (this.waiting.length === AT_A_TIME) await this.waiting.shift();
  }

  /** Waits until all frames are in the file and recorded. */
  settle(): Promise<void> {
    return this.last;
  }

  private sha256(): string {
    return this.whole.copy().digest("hex");
  }

  /** SHA-256 of the file as it is now, and of what will be written behind it. */
  digest(more: Buffer): Buffer {
    return this.whole.copy().update(more).digest();
  }

  /** Ends what still runs; for when something went wrong. */
  async abandon(): Promise<void> {
    for (const child of this.compressors) child.kill("SIGKILL");
    await this.last.catch(() => undefined);
  }

  /** Gives a file that has no name any more. */
  private async compress(chunks: readonly Buffer[]): Promise<number> {
    const name = `${this.path}.${process.pid}-${this.frames++}`;
    const packed = openSync(name, "wx+", 0o600);
    try {
      unlinkSync(name);
      // Into a file: each buffer that goes through our hands is a wait, which costs most on a busy machine.
      const child = apart("zstd", ["-q", "-c", `-${LEVEL}`, "--single-thread"], { stdio: ["pipe", packed, "pipe"] });
      this.compressors.add(child);
      const stdin = child.stdin as Writable;
      // A compressor that dies closes its input, which is no news: its exit code has the reason.
      stdin.on("error", () => undefined);
      for (const chunk of chunks) stdin.write(chunk);
      stdin.end();
      let said = "";
      child.stderr?.setEncoding("utf8").on("data", (text: string) => (said += text));
      const code = await new Promise<number | null>((resolve, reject) => {
        child.on("error", reject);
        child.on("close", resolve);
      }).finally(() => this.compressors.delete(child));
      if (code !== 0) throw new Error(`zstd: ${said.trim() || `ended with ${code}`}`);
      return packed;
    } catch (error) {
      closeSync(packed);
      throw error;
    }
  }

  /** Puts a frame behind those that are there, and closes its file. */
  private async append(packed: number): Promise<number> {
    let bytes = 0;
    for await (const read of createReadStream("", { fd: packed, start: 0, highWaterMark: 2 ** 20 })) {
      goOn(this.signal);
      const chunk = read as Buffer;
      this.whole.update(chunk);
      for (let put = 0; put < chunk.length;) {
        put += (await this.file.write(chunk, put, chunk.length - put, this.at + put)).bytesWritten;
      }
      this.at += chunk.length;
      bytes += chunk.length;
    }
    return bytes;
  }

  /** Sums up the next bytes of the file. */
  private async sum(bytes: number): Promise<void> {
    const buffer = Buffer.alloc(2 ** 20);
    for (let left = bytes; left > 0;) {
      goOn(this.signal);
      const { bytesRead } = await this.file.read(buffer, 0, Math.min(left, buffer.length), this.at);
      if (bytesRead === 0) break;
      this.whole.update(buffer.subarray(0, bytesRead));
      this.at += bytesRead;
      left -= bytesRead;
    }
  }
}
