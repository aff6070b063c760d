import { rmSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

const folders = new Set<string>();
const remove = (folder: string): void => {
  rmSync(folder, { recursive: true, force: true });
  folders.delete(folder);
};
// Without its engine the provider exits in the midst of what it does (main.ts).
process.once("exit", () => folders.forEach(remove));

/** Makes a folder that nobody else can read, for as long as `use` takes; nothing of it is left then, whatever happened. */
export async function withFolder<T>(use: (folder: string) => Promise<T>): Promise<T> {
  // mkdtemp makes folders of mode 0700.
  const folder = await mkdtemp(join(tmpdir(), "nixvm-"));
  folders.add(folder);
  try {
    return await use(folder);
  } finally {
    remove(folder);
  }
}
