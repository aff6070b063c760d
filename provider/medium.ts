import { stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { SeedFiles } from "../components/plan/seed";
import { withFolder } from "./folder";
import { Run } from "./run";

/** The label by which cloud-init and our guests know a seed. */
const label = "cidata";
/** What ISO images are made of, in bytes. Readers do not look at what comes after the last one that is described. */
export const block = 2048;
/** From here an ISO image describes itself: what comes before is for boot loaders, and empty. */
const descriptor = 16 * block;
/** Bytes at the start of an ISO image that hold its label. */
export const headBytes = descriptor + block;

/** An ISO image in a folder that nobody else can read. */
export interface Medium {
  file: string;
  bytes: number;
  /** For what else is to be gone afterwards. */
  folder: string;
}

/** Makes the ISO image of a seed for as long as `use` takes; nothing of it is left then, whatever happened. */
export async function withMedium<T>(files: SeedFiles, run: Run, use: (medium: Medium) => Promise<T>): Promise<T> {
  return withFolder(async (folder) => {
    // Secrets go into files, since everybody on this machine can read the arguments of a process.
    const sources = await Promise.all(
      [
        ["user-data", files.userData] as const,
        ["meta-data", files.metaData] as const,
        ["network-config", files.networkConfig] as const,
      ].map(async ([name, text]) => {
        const source = join(folder, name);
        await writeFile(source, text, { mode: 0o600 });
        return source;
      }),
    );
    const file = join(folder, "seed.iso");
    // mkisofs would make it by the umask; it keeps the mode of one that is there.
    await writeFile(file, "", { mode: 0o600 });
    const args = ["-quiet", "-output", file, "-volid", label, "-joliet", "-rock", ...sources];
    const { code, failure, stderr } = await run("mkisofs", args, 60_000);
    if (failure === "missing") throw new Error("mkisofs is not on PATH; install the package genisoimage");
    if (code !== 0) throw new Error(`mkisofs could not make the medium: ${failure ?? ""} ${stderr.trim()}`);
    return use({ file, bytes: (await stat(file)).size, folder });
  });
}

/** Whether a volume holds a seed, or the start of one whose upload was broken off. `head` is its first {@link headBytes}. */
export function isSeed(head: Buffer, bytes: number): boolean {
  const text = (from: number, to: number): string => head.toString("latin1", descriptor + from, descriptor + to);
  if (text(1, 6) === "CD001" && text(40, 72).trimEnd() === label) return true;
  return bytes < headBytes && head.every((byte) => byte === 0);
}
