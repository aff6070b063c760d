import { type ChildProcess } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import type { Writable } from "node:stream";
import { apart, goOn } from "./apart";

/** Bytes of the tar stream in one frame: the most that is compressed twice when a run is broken off. */
export const FRAME_BYTES = 128 * 2 ** 20;
/** zstd's own default. More makes a backup slower than the disks it is written to, for a few percent. */
export const LEVEL = 3;

/** A frame that is in the file as a whole. */
export interface Frame {
  /** Bytes of the tar stream in it. */
  raw: number;
  /** Bytes in the file. */
  bytes: number;
  /** Of the file up to its end. */
  sha256: string;
}

interface Open {
  raw: number;
  child: ChildProcess;
  /** Settles when the compressor has ended, and all that it gave is in the file. */
  written: Promise<void>;
}

/** The frames of an unfinished archive are not those that its source gives now. */
export class SourceChanged extends Error {}

/**
 * Compresses a stream into frames, one process each, whose own threads use all processors. Frames that are in the file already are not
 * made again: what belongs to them is passed over, and must be as long as it was.
 */
export class FrameWriter {
  private readonly whole = createHash("sha256");
  private index = 0;
  private passed = 0;
  private open: Open | undefined;
  private at = 0;
  private first = 0;
  /** Where the last frame ends; what is before it and behind `at` is still to be summed up. */
  private ended = 0;
  private summed: Promise<void> = Promise.resolve();

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
    this.ended = this.at;
  }

  async write(chunk: Buffer): Promise<void> {
    for (let rest = chunk; rest.length > 0;) {
      goOn(this.signal);
      const size = this.index < this.done.length ? this.passed : (this.open?.raw ?? 0);
      const now = rest.subarray(0, FRAME_BYTES - size);
      rest = rest.subarray(now.length);
      if (this.index < this.done.length) this.passed += now.length;
      else await this.compress(now);
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
    const { open } = this;
    if (open === undefined) return;
    open.child.stdin?.end();
    await open.written;
    this.open = undefined;
    const { size } = await this.file.stat();
    const bytes = size - this.ended;
    this.ended = size;
    this.first ||= bytes;
    // While the next frame is compressed.
    this.summed = this.summed.then(async () => {
      await this.sum(bytes);
      await this.record({ raw: open.raw, bytes, sha256: this.sha256() });
    });
    this.summed.catch(() => undefined);
  }

  /** Waits until all frames are summed up and recorded. */
  settle(): Promise<void> {
    return this.summed;
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
    this.open?.child.kill("SIGKILL");
    await this.open?.written.catch(() => undefined);
    await this.summed.catch(() => undefined);
  }

  private async compress(chunk: Buffer): Promise<void> {
    this.open ??= this.begin();
    const { child, written } = this.open;
    this.open.raw += chunk.length;
    const stdin = child.stdin as Writable;
    // A compressor that dies closes its input, which is no news; `written` has the reason.
    if (!stdin.write(chunk)) await Promise.race([once(stdin, "drain").catch(() => written), written]);
  }

  private begin(): Open {
    // The compressor writes to the file itself: each buffer that goes through our hands is a wait, which costs most on a busy machine.
    const out = openSync(this.path, "a");
    const child = apart("zstd", ["-q", "-c", `-${LEVEL}`, "-T0"], { stdio: ["pipe", out, "pipe"] });
    closeSync(out);
    child.stdin?.on("error", () => undefined);
    let said = "";
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (said += text));
    const written = new Promise<void>((resolve, reject) => {
      child.on("error", reject);
      child.on("close", (code) =>
        code === 0 ? resolve() : reject(new Error(`zstd: ${said.trim() || `ended with ${code}`}`)),
      );
    });
    written.catch(() => undefined);
    return { raw: 0, child, written };
  }

  /** Sums up the next bytes of the file, which are in memory still. */
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
