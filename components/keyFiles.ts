import * as fs from "node:fs/promises";
import * as os from "node:os";
import * as path from "node:path";

/** Lists of SSH public keys in a VM, its accounts, a group or the defaults. */
const KEY_LISTS = new Set(["adminKeys", "userKeys", "authorizedKeys"]);
const PREFIX = "file:";

/** A key file that cannot be used. */
export interface KeyFileProblem {
  path: string;
  value: unknown;
  message: string;
  allowed: string;
}

/**
 * Replaces `file:<path>` in lists of SSH keys by the keys in that file, so that a stack file can name the key that is
 * already on this machine. Relative paths start at the project, `~/` at the home folder. The config itself stays as it is.
 */
export async function readKeyFiles(
  config: unknown,
  projectDir: string,
): Promise<{ config: unknown; problems: KeyFileProblem[] }> {
  const problems: KeyFileProblem[] = [];

  async function keysOf(entry: unknown, where: string): Promise<unknown[]> {
    if (typeof entry !== "string" || !entry.startsWith(PREFIX)) {
      return [entry];
    }
    const name = entry.slice(PREFIX.length);
    const file = name.startsWith("~/") ? path.join(os.homedir(), name.slice(2)) : path.resolve(projectDir, name);
    try {
      const lines = (await fs.readFile(file, "utf8")).split("\n").map((line) => line.trim());
      return lines.filter((line) => line !== "" && !line.startsWith("#"));
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code ?? "";
      const message = code === "ENOENT" ? "does not exist" : `cannot be read (${code})`;
      problems.push({ path: where, value: entry, message, allowed: "file:<path of a file with SSH public keys>" });
      return [];
    }
  }

  async function walk(value: unknown, where: string): Promise<unknown> {
    if (Array.isArray(value)) {
      return Promise.all(value.map((entry, i) => walk(entry, `${where}[${i}]`)));
    }
    if (typeof value !== "object" || value === null) {
      return value;
    }
    const entries = Object.entries(value).map(async ([key, inner]) => {
      const at = where === "" ? key : `${where}.${key}`;
      const list = KEY_LISTS.has(key) && Array.isArray(inner);
      const kept = list
        ? (await Promise.all(inner.map((e, i) => keysOf(e, `${at}[${i}]`)))).flat()
        : await walk(inner, at);
      return [key, kept] as const;
    });
    return Object.fromEntries(await Promise.all(entries));
  }

  return { config: await walk(config, ""), problems };
}
