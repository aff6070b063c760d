import * as fs from "node:fs";
import * as path from "node:path";
import { z } from "zod";
import { archiveName, parseArchiveName } from "./archive";
import { wrongInput } from "./errors";
import type { Frame } from "./frames";

/** Where archives are, and what lies beside an unfinished one. */

/** Default folder of archives. */
export const backupFolder = (root: string): string => path.join(root, "output", "backups");

/** Makes a folder that only its owner looks into. One of somebody else stays as it is. */
export function ownFolder(folder: string, ours: boolean): void {
  const made = fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
  if (made !== undefined || ours) fs.chmodSync(folder, 0o700);
}

/** An archive in a folder, by its name only. */
export interface Listed {
  file: string;
  vm: string;
  at: Date;
  bytes: number;
}

/** Archives of a folder, newest first. */
export function archivesIn(folder: string): Listed[] {
  if (!fs.existsSync(folder)) return [];
  const found = fs.readdirSync(folder).flatMap((name) => {
    const parsed = parseArchiveName(name);
    const file = path.join(folder, name);
    return parsed === undefined ? [] : [{ file, ...parsed, bytes: fs.statSync(file).size }];
  });
  return found.sort((a, b) => b.at.getTime() - a.at.getTime());
}

/** Where an archive goes: a name of its own in a folder, or the file that was asked for. */
export function archivePath(vm: string, at: Date, root: string, given?: string): string {
  if (given === undefined) return path.join(backupFolder(root), archiveName(vm, at));
  const isFolder = given.endsWith(path.sep) || fs.statSync(given, { throwIfNoEntry: false })?.isDirectory() === true;
  const file = isFolder ? path.join(given, archiveName(vm, at)) : given;
  if (!isFolder && fs.existsSync(file))
    throw wrongInput("--output", file, "exists", "a folder, or a file that is not there yet");
  return file;
}

/** What lies beside an archive while it is written. */
export class Part {
  constructor(readonly archive: string) {}

  /** What will be the archive. */
  get file(): string {
    return `${this.archive}.part`;
  }

  /** Folder of what it takes to go on. */
  get folder(): string {
    return `${this.file}.d`;
  }

  private get state(): string {
    return path.join(this.folder, "state.jsonl");
  }

  in(name: string): string {
    return path.join(this.folder, name);
  }

  /** @param head what the archive is made from. */
  begin(head: unknown): void {
    fs.writeFileSync(this.state, `${JSON.stringify(head)}\n`, { mode: 0o600 });
  }

  record(frame: Frame): void {
    fs.appendFileSync(this.state, `${JSON.stringify(frame)}\n`);
  }

  /** The head, and the frames that were recorded; undefined when nothing was begun, or what is there is none of ours. */
  read(): { head: unknown; frames: Frame[] } | undefined {
    if (!fs.existsSync(this.state) || !fs.existsSync(this.file)) return undefined;
    const [head, ...lines] = fs.readFileSync(this.state, "utf8").split("\n");
    const frames: Frame[] = [];
    for (const line of lines) {
      const read = frame.safeParse(jsonOf(line));
      // The last line of a run that was killed may be half a one.
      if (!read.success) break;
      frames.push(read.data);
    }
    const found = jsonOf(head ?? "");
    return found === undefined ? undefined : { head: found, frames };
  }

  /** It has become an archive. */
  finish(): void {
    // Not over an archive that somebody has put there meanwhile.
    fs.linkSync(this.file, this.archive);
    fs.rmSync(this.file);
    this.remove();
  }

  remove(): void {
    for (const one of [this.file, this.folder]) fs.rmSync(one, { recursive: true, force: true });
  }
}

const frame = z.object({ raw: z.number(), bytes: z.number(), crc32: z.number() });

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
