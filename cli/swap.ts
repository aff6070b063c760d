import * as fs from "node:fs";
import * as path from "node:path";

/**
 * Puts a file in the place of another one. At every moment there is a whole file under the name, the one from before or the one
 * that comes; a name of its own keeps the one from before until {@link done}.
 */
export class Swap {
  private swapped = false;

  constructor(
    private readonly at: string,
    private readonly comes: string,
    /** Where the one from before is meanwhile. */
    readonly kept: string,
  ) {}

  /** Owner and mode stay as they were. */
  go(): void {
    const { uid, gid, mode } = fs.statSync(this.at);
    fs.chmodSync(this.comes, mode & 0o7777);
    // Only root has others' files here, and only root can give them back.
    if (process.getuid?.() === 0) fs.chownSync(this.comes, uid, gid);
    fs.linkSync(this.at, this.kept);
    fs.renameSync(this.comes, this.at);
    this.swapped = true;
  }

  /** What was there before is there again. */
  back(): void {
    if (this.swapped) fs.renameSync(this.kept, this.at);
    this.swapped = false;
    fs.rmSync(this.comes, { force: true });
  }

  /** What was there before is gone for good. */
  done(): void {
    fs.rmSync(this.kept, { force: true });
    this.swapped = false;
  }
}

const STAMP = /^\d{8}T\d{6}Z/;
const COMES = ".nixvm-restore-";
const KEPT = ".nixvm-before-restore-";

/** Names beside a file for what comes in its place, and for what was there before. */
export function swapNames(file: string, at: Date): { comes: string; kept: string } {
  const stamp = at.toISOString().replace(/[-:]|\.\d+/g, "");
  return { comes: `${file}${COMES}${stamp}`, kept: `${file}${KEPT}${stamp}` };
}

/** What a restore that was killed has left beside a file. */
export function swapLeft(file: string): { comes: string[]; kept: string[] } {
  const folder = path.dirname(file);
  const names = fs.existsSync(folder) ? fs.readdirSync(folder) : [];
  const of = (mark: string): string[] => {
    const begin = path.basename(file) + mark;
    return names
      .filter((name) => name.startsWith(begin) && STAMP.test(name.slice(begin.length)))
      .map((name) => path.join(folder, name));
  };
  return { comes: of(COMES), kept: of(KEPT) };
}
