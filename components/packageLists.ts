import * as fs from "node:fs/promises";
import * as path from "node:path";
import { z } from "zod";

/**
 * What is installed in an image, as its build wrote it to `<image>.packages.json`: packages of Debian, or the store paths of a NixOS
 * closure.
 */
const list = z.union([
  z.looseObject({
    schema: z.literal(1),
    kind: z.literal("dpkg"),
    packages: z.array(z.tuple([z.string(), z.string()])),
  }),
  z.looseObject({ schema: z.literal(1), kind: z.literal("nix"), paths: z.array(z.string()) }),
]);

/** Versions by name; a closure may have several of one. */
export type Packages = ReadonlyMap<string, readonly string[]>;

/** What is kept of an image whose file may be gone. */
const known = z.looseObject({
  schema: z.literal(1),
  digest: z.string(),
  id: z.string().optional(),
  version: z.string().optional(),
  list,
});

export type KnownPackages = z.infer<typeof known>;

/** The file beside an image that lists its packages. */
export function packageListFile(image: string): string {
  return `${image.replace(/\.zst$/, "").replace(/\.(qcow2|raw|img)$/, "")}.packages.json`;
}

/** Reads a list; throws where it is none. */
export function parsePackageList(text: string): z.infer<typeof list> {
  return list.parse(JSON.parse(text));
}

/** A store path is `<hash>-<name>-<version>[-<output>]`; as Nix has it, the version begins at the first dash before a digit. */
function splitStorePath(storePath: string): [string, string] {
  const base = path.basename(storePath).replace(/^[0-9a-z]{32}-/, "");
  const at = base.search(/-[0-9]/);
  return at < 0 ? [base, ""] : [base.slice(0, at), base.slice(at + 1)];
}

/** Versions by name, sorted. */
export function packagesOf(text: string): Packages {
  const read = parsePackageList(text);
  const pairs = read.kind === "dpkg" ? read.packages : read.paths.map(splitStorePath);
  const found = new Map<string, Set<string>>();
  for (const [name, version] of pairs) found.set(name, (found.get(name) ?? new Set()).add(version));
  return new Map(
    [...found].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, versions]) => [name, [...versions].sort()]),
  );
}

/** What differs between two images. */
export interface PackageDiff {
  added: { name: string; versions: readonly string[] }[];
  removed: { name: string; versions: readonly string[] }[];
  changed: { name: string; from: readonly string[]; to: readonly string[] }[];
}

export function diffPackages(from: Packages, to: Packages): PackageDiff {
  const only = (some: Packages, others: Packages) =>
    [...some].filter(([name]) => !others.has(name)).map(([name, versions]) => ({ name, versions }));
  return {
    added: only(to, from),
    removed: only(from, to),
    changed: [...from].flatMap(([name, before]) => {
      const after = to.get(name);
      const same = after === undefined || before.join("\0") === after.join("\0");
      return same ? [] : [{ name, from: before, to: after }];
    }),
  };
}

const folder = (cacheDir: string): string => path.join(cacheDir, "packages");

/** Keeps the list of an image by its digest: when its file has been built anew, the former one can still be compared. */
export async function rememberPackages(
  image: string,
  facts: { digest: string; id?: string; version?: string },
  cacheDir: string,
): Promise<void> {
  const target = path.join(folder(cacheDir), `${facts.digest}.json`);
  const text = await fs.readFile(packageListFile(image), "utf8").catch(() => undefined);
  if (text === undefined) return;
  try {
    const { digest, id, version } = facts;
    const record = `${JSON.stringify({ schema: 1, digest, id, version, list: parsePackageList(text) })}\n`;
    if ((await fs.readFile(target, "utf8").catch(() => "")) === record) return;
    await fs.mkdir(folder(cacheDir), { recursive: true });
    await fs.writeFile(`${target}.part-${process.pid}`, record);
    await fs.rename(`${target}.part-${process.pid}`, target);
  } catch {
    // A list that cannot be read, or a cache that cannot be written, is no reason not to run the image.
  }
}

/** All lists that were kept. */
export async function rememberedPackages(cacheDir: string): Promise<KnownPackages[]> {
  const names = await fs.readdir(folder(cacheDir)).catch(() => []);
  const read = names
    .filter((name) => name.endsWith(".json"))
    .map(async (name) => {
      const text = await fs.readFile(path.join(folder(cacheDir), name), "utf8").catch(() => "null");
      const parsed = known.safeParse(JSON.parse(text));
      return parsed.success ? [parsed.data] : [];
    });
  return (await Promise.all(read)).flat();
}
