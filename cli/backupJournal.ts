import * as fs from "node:fs";
import * as path from "node:path";
import { z } from "zod";
import { wrongState } from "./errors";
import { replaceFile } from "./wholeFile";

const journal = z.object({
  pid: z.number(),
  /** When that process began: another one may have its number by now. */
  began: z.string(),
  /** How the guest is being kept still at the moment. */
  still: z.enum(["agent", "paused"]).optional(),
  /** Archive that was begun. */
  archive: z.string().optional(),
  /** Volume in the pool that was made for it. */
  copy: z.string().optional(),
});

type Entry = z.infer<typeof journal>;

/**
 * What one run has begun on a VM, written down before it is begun: the next one puts right what a run that was killed has left. It
 * also keeps two from working on one VM.
 */
export class Journal {
  private constructor(
    private readonly file: string,
    /** What a run before this one has left. */
    readonly before: Omit<Entry, "pid" | "began">,
    private entry: Entry,
  ) {}

  /** @throws CliError (exit 3) while another run is at it. */
  static open(root: string, uuid: string, what: string): Journal {
    const folder = path.join(root, ".nixvm", "backup");
    fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
    const file = path.join(folder, `${uuid}.json`);
    const found = read(file);
    if (found && beganAt(found.pid) === found.began && found.began !== "") {
      throw wrongState(`${what}: another backup or restore of it is running (process ${found.pid})`);
    }
    const { pid: _, began: __, ...before } = found ?? { pid: 0, began: "" };
    const made = new Journal(file, before, { ...before, pid: process.pid, began: beganAt(process.pid) });
    made.write();
    return made;
  }

  /** What this run has begun so far, and what it found. */
  get current(): Omit<Entry, "pid" | "began"> {
    return this.entry;
  }

  set(news: { [K in "still" | "archive" | "copy"]?: Entry[K] | undefined }): void {
    this.entry = { ...this.entry, ...news };
    this.write();
  }

  /** What is left for the next run is kept, and the VM is free for it. */
  close(): void {
    const { still, archive, copy } = this.entry;
    if (still === undefined && archive === undefined && copy === undefined) fs.rmSync(this.file, { force: true });
    else {
      this.entry = { ...this.entry, pid: 0, began: "" };
      this.write();
    }
  }

  private write(): void {
    replaceFile(this.file, JSON.stringify(this.entry), 0o600);
  }
}

function read(file: string): Entry | undefined {
  try {
    return journal.parse(JSON.parse(fs.readFileSync(file, "utf8")));
  } catch {
    // None, or half a one: there is nothing to learn from it.
    return undefined;
  }
}

/** Start of a process in ticks since boot; empty when there is none of that number. */
function beganAt(pid: number): string {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")")).split(" ")[20] ?? "";
  } catch {
    return "";
  }
}
