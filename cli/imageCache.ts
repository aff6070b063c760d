import * as fs from "node:fs";
import * as path from "node:path";
import { parse } from "yaml";
import { parseFlake } from "../components/flakes";
import { filesOf, type ImageSource } from "../components/images";
import { cacheDirOf, imageSources } from "../components/prepare";
import { wrongState } from "./errors";

/** Something in the cache that can be fetched, unpacked or built again. */
export interface CacheEntry {
  kind: "download" | "unpacked" | "build" | "leftover";
  path: string;
  bytes: number;
}

const KINDS = { downloads: "download", unpacked: "unpacked", flakes: "build" } as const;

/** What of the cache no stack file of the project names. @throws CliError when one of them cannot be read */
export async function unusedCache(root: string): Promise<CacheEntry[]> {
  const cacheDir = cacheDirOf(root);
  const needed = await neededPaths(root);
  return Object.entries(KINDS).flatMap(([name, kind]) =>
    entriesOf(path.join(cacheDir, name)).flatMap((file): CacheEntry[] => {
      const owner = /\.part-(\d+)$/.exec(file)?.[1];
      if (owner !== undefined && alive(Number(owner))) return [];
      if (owner === undefined && needed.has(file)) return [];
      return [{ kind: owner === undefined ? kind : "leftover", path: file, bytes: sizeOf(file) }];
    }),
  );
}

/** Paths in the cache that images of any stack of this project are read from. */
async function neededPaths(root: string): Promise<Set<string>> {
  const options = { projectDir: root, cacheDir: cacheDirOf(root) };
  const needed = new Set<string>();
  for (const source of sourcesOf(root)) {
    if (source.flake) needed.add(path.join(options.cacheDir, "flakes", parseFlake(source.flake, root).key));
    const { given, unpacked } = await filesOf(source, options);
    for (const file of [given, unpacked]) if (file) needed.add(file);
  }
  return needed;
}

/** Images of all stacks: the cache is theirs together. */
function sourcesOf(root: string): ImageSource[] {
  const folder = path.join(root, "stacks");
  const files = entriesOf(folder).filter((file) => /\/Pulumi\.[^/]+\.yaml$/.test(file));
  return files.flatMap((file) => {
    let read: { config?: Record<string, unknown> } | null;
    try {
      read = parse(fs.readFileSync(file, "utf8")) as typeof read;
    } catch (error) {
      throw wrongState(
        `${file} cannot be read, so nobody knows what it needs of the cache: ${(error as Error).message}`,
      );
    }
    return Object.values(imageSources({ images: read?.config?.["nixvm:images"] }));
  });
}

function entriesOf(folder: string): string[] {
  return fs.existsSync(folder)
    ? fs
        .readdirSync(folder)
        .sort()
        .map((name) => path.join(folder, name))
    : [];
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** Bytes on the disk, without what links point to. */
function sizeOf(file: string): number {
  const stat = fs.lstatSync(file);
  if (!stat.isDirectory()) return stat.blocks * 512;
  return entriesOf(file).reduce((sum, inner) => sum + sizeOf(inner), 0);
}
