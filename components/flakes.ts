import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import * as fs from "node:fs/promises";
import * as os from "node:os";
import * as path from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

/** A machine with Nix that images are built on, as the stack file names it. */
export interface BuildHost {
  host: string;
  user?: string;
  /** Default 22, or what `~/.ssh/config` says. */
  port?: number;
  /** Text of a private key. A secret. Default: the keys that ssh finds by itself. */
  privateKey?: string;
}

/** A flake and what is built of it: `<ref>#<attr>`. */
export interface Flake {
  /** As the stack file has it. */
  text: string;
  attr: string;
  /** Reference of Nix, for a flake that is not a folder of this machine. */
  ref?: string;
  /** Folder of this machine. */
  folder?: string;
  /** Name of its place in the cache. */
  key: string;
}

/** What was built last, beside the image. */
export interface FlakeRecord {
  schema: 1;
  flake: string;
  /** Digest of all that it was built from. */
  inputs: string;
  /** The disk image. */
  file: string;
  /** Store path, for audits: the same sources always give the same one. */
  storePath: string;
  builtAt: string;
  /** `this machine`, or where else. */
  builtOn: string;
}

/** Takes `./nix#core` or `github:owner/repo#image` apart. Relative folders start at the project. */
export function parseFlake(text: string, projectDir: string): Flake {
  const at = text.lastIndexOf("#");
  const [ref, attr] = [text.slice(0, at), text.slice(at + 1)];
  const plain = ref.startsWith("path:") ? ref.slice("path:".length) : ref;
  const local = ref.startsWith("path:") || /^(\.|\/|~\/)/.test(ref);
  const folder = plain.startsWith("~/") ? path.join(os.homedir(), plain.slice(2)) : path.resolve(projectDir, plain);
  const where = local ? { folder } : { ref };
  const hash = createHash("sha256")
    .update(`${local ? folder : ref}#${attr}`)
    .digest("hex");
  return { text, attr, ...where, key: `${attr}-${hash.slice(0, 12)}` };
}

/** Place of a flake's builds in the cache. */
export function flakeDir(flake: Flake, cacheDir: string): string {
  return path.join(cacheDir, "flakes", flake.key);
}

/**
 * Files that a flake in a folder consists of: what git tracks, as it lies there, as Nix has it too; where there is no git, all but
 * links named `result`. The folder is all there is: a flake that reaches out of it is refused by Nix.
 */
export async function flakeFiles(folder: string): Promise<string[]> {
  const listed = await run("git", ["-C", folder, "ls-files", "-z", "--cached", "."], { maxBuffer: 64 * 2 ** 20 }).then(
    ({ stdout }) => stdout.split("\0").filter((name) => name !== ""),
    () => undefined,
  );
  // A folder that is ignored by the repository around it has nothing that is tracked.
  const names = listed && listed.length > 0 ? [...listed, "flake.lock"] : await walk(folder, "");
  const there = await Promise.all([...new Set(names)].map(async (name) => ((await kindOf(folder, name)) ? name : "")));
  // Plain comparison: the digest must be the same on every machine.
  return there.filter((name) => name !== "").sort((a, b) => (a < b ? -1 : 1));
}

async function walk(folder: string, below: string): Promise<string[]> {
  const entries = await fs.readdir(path.join(folder, below), { withFileTypes: true });
  const found: string[] = [];
  for (const entry of entries) {
    if (entry.name === ".git" || /^result(-.*)?$/.test(entry.name)) continue;
    const name = path.join(below, entry.name);
    found.push(...(entry.isDirectory() ? await walk(folder, name) : [name]));
  }
  return found;
}

async function kindOf(folder: string, name: string): Promise<"link" | "run" | "file" | undefined> {
  const stat = await fs.lstat(path.join(folder, name)).catch(() => undefined);
  if (stat?.isSymbolicLink()) return "link";
  if (!stat?.isFile()) return undefined;
  return stat.mode & 0o100 ? "run" : "file";
}

/** Digest of what a flake is built from: all its files, the lock among them; of one elsewhere, the reference. */
export async function inputsDigest(flake: Flake): Promise<string> {
  const hash = createHash("sha256");
  if (flake.folder === undefined) return hash.update(`${flake.ref}#${flake.attr}`).digest("hex");
  const { folder } = flake;
  for (const name of await flakeFiles(folder)) {
    const kind = await kindOf(folder, name);
    const file = path.join(folder, name);
    const content = kind === "link" ? await fs.readlink(file) : await fs.readFile(file);
    hash.update(`${kind} ${createHash("sha256").update(content).digest("hex")} ${name}\0`);
  }
  return hash.digest("hex");
}

/** What was built last of a flake on this machine; undefined when nothing was, or it is gone. */
export async function lastBuilt(flake: Flake, cacheDir: string): Promise<FlakeRecord | undefined> {
  try {
    const text = await fs.readFile(path.join(flakeDir(flake, cacheDir), "record.json"), "utf8");
    const record = JSON.parse(text) as FlakeRecord;
    if (record.schema !== 1 || typeof record.file !== "string") return undefined;
    await fs.access(record.file);
    return record;
  } catch {
    // Never written, half a cache, or taken away by Nix's garbage collection: it is built again.
    return undefined;
  }
}
