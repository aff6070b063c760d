import * as path from "node:path";
import { BadArchive } from "./archive";
import { readArchive, readManifest } from "./archiveRead";
import { archivesIn, backupFolder } from "./backupFiles";
import { bar } from "./bar";
import type { Context } from "./context";

/** One archive, as it is listed. */
export interface BackupEntry {
  name: string;
  archive: string;
  vm: string;
  /** Time in its name; the exact one where it can be read. */
  created: string;
  bytes: number;
  /** What it says of itself; missing when it cannot be read. */
  stack?: string;
  imageVersion?: string;
  /** Only with `--check`. */
  good?: boolean;
  /** What is wrong with it. */
  problem?: string;
}

/** The archives of the default folder. */
export async function listBackups(
  context: Context,
  vm: string | undefined,
  { check, json }: { check?: boolean; json: boolean },
): Promise<BackupEntry[]> {
  const found = archivesIn(backupFolder(context.root)).filter((one) => vm === undefined || one.vm === vm);
  const entries: BackupEntry[] = [];
  for (const { file, vm: of, at, bytes } of found) {
    const entry: BackupEntry = { name: path.basename(file), archive: file, vm: of, created: at.toISOString(), bytes };
    const shown = check ? bar(entry.name, bytes, json) : undefined;
    try {
      const { signal } = context;
      const reading = { file, signal, ...(shown ? { progress: (done: number) => shown.at(done) } : {}) };
      const { stack, image, created } = check ? await readArchive(reading) : await readManifest(file);
      Object.assign(entry, { stack, created }, image.version === undefined ? {} : { imageVersion: image.version });
      if (check) entry.good = true;
    } catch (error) {
      if (!(error instanceof BadArchive)) throw error;
      entry.problem = error.message;
      if (check) entry.good = false;
      context.note(`${file} ${error.message}`);
    } finally {
      shown?.stop();
    }
    entries.push(entry);
  }
  return entries;
}
