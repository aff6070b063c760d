import { mkdirSync, readFileSync, rmSync } from "node:fs";
import * as path from "node:path";
import { z } from "zod";
import { freeBytes } from "./diskFile";
import { wrongState } from "./errors";
import { replaceFile } from "./wholeFile";

const journal = z.object({
  /** Process that is at it. */
  pid: z.int(),
  /** `declared`: the data is in its place, and the VM is about to be written into the stack file, or is in it. */
  phase: z.enum(["copying", "declared"]),
  volume: z.string(),
  /** Only when declared: names of resources that have to be made with the VM. */
  shared: z.array(z.string()).optional(),
});

type Journal = z.infer<typeof journal>;

/** Folder in which one VM is being imported, and what is known of an import that did not come to its end. */
export class ImportWork {
  private constructor(
    private readonly root: string,
    readonly folder: string,
  ) {}

  /** @throws CliError when somebody else is at it. */
  static open(root: string, stack: string, vm: string): ImportWork {
    const work = new ImportWork(root, path.join(root, ".nixvm", "import", `${stack}-${vm}`));
    const pid = work.former()?.pid;
    if (pid !== undefined && pid !== process.pid && isRunning(pid)) {
      throw wrongState(
        `${vm} is being imported already, by process ${pid}; if that is something else, remove ${work.folder}`,
      );
    }
    return work;
  }

  /** What an import that was broken off had come to. */
  former(): Journal | undefined {
    try {
      return journal.parse(JSON.parse(readFileSync(this.file("import.json"), "utf8")));
    } catch {
      return undefined;
    }
  }

  /** With nothing in it but the note of what is begun. */
  begin(volume: string): void {
    this.remove();
    mkdirSync(this.folder, { recursive: true, mode: 0o700 });
    this.write({ pid: process.pid, phase: "copying", volume });
  }

  declared(volume: string, shared: string[]): void {
    this.write({ pid: process.pid, phase: "declared", volume, shared });
  }

  /** Removes the copy; what was come to stays known. */
  dropCopy(): void {
    rmSync(this.volumeFile, { force: true });
  }

  file(name: string): string {
    return path.join(this.folder, name);
  }

  /** The volume as it is uploaded; whole as soon as it is there. */
  get volumeFile(): string {
    return this.file("persist.qcow2");
  }

  /** Free bytes where the copies are made. */
  free(): number {
    return freeBytes(this.root);
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }

  private write(now: Journal): void {
    replaceFile(this.file("import.json"), JSON.stringify(now), 0o600);
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
