// Files that are either there as a whole or not at all, and how a changed one is noticed.
import { createHash, randomBytes } from "node:crypto";
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";

/** Hex sha256 of a file's bytes. */
export function sha256File(file) {
  const hash = createHash("sha256");
  const fd = openSync(file, "r");
  try {
    const buffer = Buffer.allocUnsafe(1 << 20);
    for (let n; (n = readSync(fd, buffer)) > 0;) hash.update(buffer.subarray(0, n));
  } finally {
    closeSync(fd);
  }
  return hash.digest("hex");
}

/** Hex sha256 over several strings or buffers; where one ends and the next begins is part of it. */
export function sha256Of(...parts) {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(`${Buffer.byteLength(part)}:`).update(part);
  return hash.digest("hex");
}

/** Writes a file so that a reader, or a run that was broken off, sees the old content or the new, nothing between. */
export function writeAtomically(file, content, mode = 0o644) {
  mkdirSync(dirname(file), { recursive: true });
  const partial = `${file}.partial-${process.pid}-${randomBytes(3).toString("hex")}`;
  try {
    writeFileSync(partial, content, { mode, flag: "wx" });
    renameSync(partial, file);
  } finally {
    rmSync(partial, { force: true });
  }
}

/** The parsed content, or undefined where the file is missing or is no JSON (a broken record counts as none). */
export function readJson(file) {
  try {
    return JSON.parse(readFileSync(file, "utf8"));
  } catch {
    return undefined;
  }
}

/** @param path relative to `root`, so that a moved checkout keeps its records. */
export function fingerprint(root, path) {
  const { size, mtimeMs } = statSync(join(root, path));
  return { path, size, mtimeMs, sha256: sha256File(join(root, path)) };
}

/**
 * Compares a file with its record.
 *
 * @param thorough compare the checksum even where size and time are as recorded.
 * @returns "same"; "touched" if only the time differs (record it anew); "changed" or "missing" otherwise.
 */
export function compare(root, record, thorough = false) {
  const file = join(root, record.path);
  const stat = statSync(file, { throwIfNoEntry: false });
  if (!stat?.isFile()) return "missing";
  if (stat.size !== record.size) return "changed";
  if (stat.mtimeMs === record.mtimeMs && !thorough) return "same";
  if (sha256File(file) !== record.sha256) return "changed";
  return stat.mtimeMs === record.mtimeMs ? "same" : "touched";
}

/** All files below `dir`, as paths relative to it, sorted; empty if there is no such folder. */
export function filesBelow(dir) {
  if (!existsSync(dir)) return [];
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(dir.length + 1))
    .sort();
}
