import { type ChildProcess } from "node:child_process";
import { closeSync, fstatSync, openSync, read, readFileSync } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { promisify } from "node:util";
import { crc32 } from "node:zlib";
import { apart, goOn } from "./apart";

/** Bytes of a file in one frame: the most that is compressed twice when a run is broken off. Some seconds of work. */
export const FRAME_BYTES = 2 ** 30;
/** zstd's own default. More makes a backup slower than the disks it is written to, for a few percent. */
export const LEVEL = 3;
/** How often what was written is summed up and sent to the disk: all at once at the end would leave processors idle for as long as it takes. */
const FOLLOW_MS = 200;

const ZSTD = ["-q", "-c", `-${LEVEL}`, "-T0"];
/** A part of a file into a frame. Its position is behind it then. */
const PART = 'set -o pipefail; dd bs=256k iflag=fullblock,count_bytes count="$1" status=none | zstd "${@:2}"';
const SKIP = ["iflag=skip_bytes", "count=0", "status=none"];

/** A frame that is in the file as a whole. */
export interface Frame {
  /** Bytes of the tar stream in it. */
  raw: number;
  /** Bytes in the file. */
  bytes: number;
  /** Of the file up to its end. */
  crc32: number;
}

/** The frames of an unfinished archive are not those that its source gives now. */
export class SourceChanged extends Error {}

/**
 * Compresses a stream into frames, one after the other, each by a process whose threads use all processors and which reads a file and
 * writes the archive itself: each buffer that goes through our hands is a wait, which costs most on a busy machine. Frames that are in
 * the archive already are not made again, and must be as long as they were.
 */
export class FrameWriter {
  private index = 0;
  /** Of the frame that is made of texts. */
  private texts: Buffer[] = [];
  private child: ChildProcess | undefined;
  private running: Promise<void> = Promise.resolve();
  private sum = 0;
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
    private readonly frameBytes = FRAME_BYTES,
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
      await this.sumUp(this.at + frame.bytes);
      if (this.sum !== frame.crc32) {
        throw new SourceChanged("what was written is not what was recorded");
      }
    }
    await this.file.truncate(this.at);
    this.ended = this.at;
  }

  /** What follows, up to the next file. */
  text(chunk: Buffer): void {
    this.texts.push(chunk);
  }

  /** What follows is in another frame. */
  async cut(): Promise<void> {
    const text = Buffer.concat(this.texts);
    this.texts = [];
    if (text.length > 0) await this.frame(text.length, "zstd", ZSTD, text);
  }

  /** All of a file of so many bytes, which begins with a frame of its own. `source` is open and at its start. */
  async copy(source: number, bytes: number): Promise<void> {
    await this.cut();
    for (let at = 0; at < bytes;) {
      const raw = Math.min(this.frameBytes, bytes - at);
      at += raw;
      // The last one ends where the file does: if that is not where it was, its position tells.
      if (at === bytes) await this.frame(raw, "zstd", ZSTD, source);
      else await this.frame(raw, "bash", ["-c", PART, "bash", String(raw), ...ZSTD], source);
    }
    if (positionOf(source) !== bytes) throw new SourceChanged("it has changed while it was read");
  }

  /** Waits until all frames are summed up and recorded. */
  settle(): Promise<void> {
    return this.summed;
  }

  /** Of the file so far. */
  get crc32(): number {
    return this.sum;
  }

  /** Ends what still runs; for when something went wrong. */
  async abandon(): Promise<void> {
    this.kill();
    await this.running.catch(() => undefined);
    await this.summed.catch(() => undefined);
  }

  private async frame(raw: number, command: string, args: readonly string[], input: Buffer | number): Promise<void> {
    goOn(this.signal);
    const done = this.done[this.index++];
    if (done !== undefined) {
      if (done.raw !== raw) throw new SourceChanged("what is to be written has another length");
      if (typeof input === "number") await this.run("dd", [...SKIP, `skip=${raw}`], input);
      return;
    }
    this.running = this.run(command, args, input);
    await this.running;
    const { size } = await this.file.stat();
    const bytes = size - this.ended;
    this.ended = size;
    this.first ||= bytes;
    // While the next frame is compressed.
    this.summed = this.summed.then(async () => {
      await this.sumUp(size);
      await this.record({ raw, bytes, crc32: this.sum });
    });
    this.summed.catch(() => undefined);
  }

  /** Runs a command that writes behind what is in the file. */
  private async run(command: string, args: readonly string[], input: Buffer | number): Promise<void> {
    const out = openSync(this.path, "a");
    const stdin = typeof input === "number" ? input : "pipe";
    const child = apart(command, args, { stdio: [stdin, out, "pipe"] });
    closeSync(out);
    this.child = child;
    const stop = (): void => this.kill();
    this.signal?.addEventListener("abort", stop, { once: true });
    let said = "";
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (said += text));
    // A compressor that dies closes its input, which is no news: its exit code has the reason.
    child.stdin?.on("error", () => undefined).end(input);
    let synced: Promise<void> = Promise.resolve();
    const timer = setInterval(() => {
      // No further than this frame goes.
      const { size } = fstatSync(this.file.fd);
      this.summed = this.summed.then(() => this.sumUp(size));
      this.summed.catch(() => undefined);
      synced = synced.then(() => this.file.datasync());
      synced.catch(() => undefined);
    }, FOLLOW_MS);
    try {
      const code = await new Promise<number | null>((resolve, reject) => {
        child.on("error", reject);
        child.on("close", resolve);
      });
      goOn(this.signal);
      if (code !== 0) throw new Error(`zstd: ${said.trim() || `ended with ${code}`}`);
      await synced;
    } finally {
      clearInterval(timer);
      this.signal?.removeEventListener("abort", stop);
      this.child = undefined;
      await synced.catch(() => undefined);
    }
  }

  private kill(): void {
    const { pid, exitCode, signalCode } = this.child ?? {};
    if (pid === undefined || exitCode !== null || signalCode !== null) return;
    try {
      // It and what it has started.
      process.kill(-pid, "SIGKILL");
    } catch {
      // It has just ended.
    }
  }

  /** Sums up the file as far as that, which is in memory still. */
  private async sumUp(end: number): Promise<void> {
    this.sum = await crcOf(this.file.fd, this.at, end, this.sum, this.signal);
    this.at = Math.max(this.at, end);
  }
}

const readFd = promisify(read);

/** CRC-32 of a part of a file, behind one of what is before it; of less where the file ends before. */
export async function crcOf(fd: number, from: number, end: number, crc: number, signal?: AbortSignal): Promise<number> {
  const buffer = Buffer.alloc(2 ** 20);
  for (let at = from; at < end;) {
    goOn(signal);
    const { bytesRead } = await readFd(fd, buffer, 0, Math.min(end - at, buffer.length), at);
    if (bytesRead === 0) break;
    crc = crc32(buffer.subarray(0, bytesRead), crc);
    at += bytesRead;
  }
  return crc;
}

/** How far a file was read by those who were given it. */
export function positionOf(fd: number): number {
  return Number(/^pos:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1]);
}
