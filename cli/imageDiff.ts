import * as fs from "node:fs";
import {
  diffPackages,
  type PackageDiff,
  packageListFile,
  packagesOf,
  rememberedPackages,
} from "../components/packageLists";
import { filesOf } from "../components/images";
import { cacheDirOf, imageSources } from "../components/prepare";
import type { Context } from "./context";
import { CliError, EXIT, wrongInput, wrongState } from "./errors";

/** An image with the list of what is in it. */
export interface ListedImage {
  /** As it was asked for. */
  name: string;
  /** JSON text of the list. */
  list: string;
}

/** A path, a name of the stack file, an image id, or the beginning of a digest; in this order. */
export async function listedImage(context: Context, asked: string): Promise<ListedImage> {
  const file = context.path(asked);
  if (fs.existsSync(file)) return { name: asked, list: beside(file, asked) };
  const options = { projectDir: context.root, cacheDir: cacheDirOf(context.root) };
  const sources = await declared(context);
  const source = sources[asked];
  if (source && !source.digest) {
    const { given } = await filesOf(source, options);
    if (!given || !fs.existsSync(given)) throw wrongState(`image ${asked} is not on this machine yet`);
    return { name: asked, list: beside(given, asked) };
  }
  const wanted = source?.digest ?? asked;
  const known = await rememberedPackages(options.cacheDir);
  const found = known.filter(
    ({ digest, id }) => id === wanted || (/^[0-9a-f]{6,64}$/.test(wanted) && digest.startsWith(wanted)),
  );
  // Two files of one id have the same packages: the id is made of them.
  if (new Set(found.map(({ list }) => JSON.stringify(list))).size > 1) {
    throw wrongInput(
      "image",
      asked,
      "stands for several images",
      found.map(({ digest }) => digest.slice(0, 12)).join(", "),
    );
  }
  const [one] = found;
  if (one) return { name: asked, list: JSON.stringify(one.list) };
  if (/^[0-9a-f]{12,64}$/.test(wanted) || /-[0-9a-f]{12}$/.test(wanted)) {
    throw wrongState(
      `nothing is known of the packages of image ${asked}: it was never read on this machine, or its build wrote no list`,
    );
  }
  const names = [...Object.keys(sources), ...known.flatMap(({ id }) => id ?? [])];
  throw wrongInput(
    "image",
    asked,
    "is no file and no image that is known here",
    names.join(", ") || "the path of an image",
  );
}

function beside(image: string, name: string): string {
  const file = packageListFile(image);
  if (!fs.existsSync(file)) {
    throw wrongState(
      `image ${name} has no list of its packages: ${file} is not there. Images of others have none, nor have those built before there were lists`,
    );
  }
  return fs.readFileSync(file, "utf8");
}

/** Without a stack there are still paths, ids and digests. */
async function declared(context: Context): Promise<ReturnType<typeof imageSources>> {
  try {
    const file = await context.stackFile();
    return imageSources({ images: file.get(["nixvm:images"]) });
  } catch (error) {
    if (error instanceof CliError && error.code === EXIT.input && error.details.field === "--stack") return {};
    throw error;
  }
}

/** What differs, from the first to the second. */
export function packageDiff(from: ListedImage, to: ListedImage): PackageDiff {
  const read = ({ name, list }: ListedImage) => {
    try {
      return packagesOf(list);
    } catch {
      throw wrongState(`the list of packages of image ${name} cannot be used: it is not of schema 1`);
    }
  };
  return diffPackages(read(from), read(to));
}

/** One line a package; the number of each at the end. */
export function packageDiffText({ added, removed, changed }: PackageDiff): string {
  if (added.length + removed.length + changed.length === 0) return "the same packages in the same versions";
  const versions = (some: readonly string[]): string => some.filter((one) => one !== "").join(", ") || "(no version)";
  return [
    ...changed.map(({ name, from, to }) => `~ ${name} ${versions(from)} -> ${versions(to)}`),
    ...added.map((one) => `+ ${one.name} ${versions(one.versions)}`),
    ...removed.map((one) => `- ${one.name} ${versions(one.versions)}`),
    `${changed.length} changed, ${added.length} added, ${removed.length} removed`,
  ].join("\n");
}
