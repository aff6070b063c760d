import { dirname } from "node:path";
import { formatBytes } from "./parse";
import type { PreflightHost, Problem } from "./preflight";
import { Probes, realProbes } from "./probes";
import { isTestDriver } from "./testDriver";

/** Lets a scratch disk be in a pool in memory, when it is exactly "1" (E-38, E-39). */
const ALLOW = "CCVM_SCRATCH_ALLOW_TMPFS";

/** What stands in the way of the pool of a host that is this machine. */
export async function checkPool(host: PreflightHost, probes: Probes): Promise<Problem[]> {
  const { folder, kind } = await nearest(host.poolPath, probes);
  if (folder !== host.poolPath && !host.poolCreate)
    return [problem(host, "does not exist", "a folder that exists, or pool.create: true")];
  if (kind !== "folder") return [problem(host, `cannot be a folder, since ${folder} is none`, "another path")];
  // A system libvirt writes as root whoever asks it, so what this user may do says nothing.
  const asWe = probes.isRoot() || host.uri.includes("/session");
  if (asWe && !(await probes.writable(folder)))
    return [problem(host, `cannot be written: ${folder} is not writable`, "a writable folder")];
  const { freeBytes, inMemory } = await probes.space(folder);
  const found: Problem[] = [];
  if (host.needBytes !== undefined && freeBytes < host.needBytes) {
    const message = `has too little space: ${mib(freeBytes)} are free, ${mib(host.needBytes)} are needed`;
    found.push(problem(host, message, "a folder with more space"));
  }
  if (host.scratch && inMemory && probes.env[ALLOW] !== "1") {
    const message = `lies in memory (${inMemory}), where a scratch disk would use up the host's memory`;
    found.push(problem(host, message, `a folder on a disk; or ${ALLOW}=1, if that is meant`));
  }
  return found;
}

/** What a user should know of pools with scratch disks, though it stands in nobody's way. */
export async function poolWarnings(
  hosts: readonly PreflightHost[],
  probes: Pick<Probes, "kind" | "space" | "env"> = realProbes,
): Promise<Problem[]> {
  const found = hosts
    .filter((host) => host.scratch && !isTestDriver(host.uri))
    .map(async (host) => {
      // libvirt tells the size of a pool's file system, not its kind.
      const inMemory = isLocal(host.uri)
        ? (await probes.space((await nearest(host.poolPath, probes)).folder)).inMemory
        : undefined;
      if (inMemory === undefined) {
        const message = "holds scratch disks, and it cannot be seen from here whether it lies on a disk or in memory";
        return [problem(host, message, `a folder on a disk; there, "findmnt -T ${host.poolPath}" shows it`)];
      }
      if (inMemory === false || probes.env[ALLOW] !== "1") return [];
      const message = `lies in memory (${inMemory}), and ${ALLOW}=1 allows it: scratch disks use up the host's memory`;
      return [problem(host, message, "a folder on a disk, and the variable unset")];
    });
  return (await Promise.all(found)).flat();
}

/** True when the folders of a libvirt are those of this machine. */
export function isLocal(uri: string): boolean {
  return /^[a-z0-9]+(\+unix)?:\/\/\//.test(uri);
}

/** The folder itself, or the nearest one above it that is there. */
async function nearest(path: string, probes: Pick<Probes, "kind">) {
  let folder = path;
  let kind = await probes.kind(folder);
  while (kind === "missing" && dirname(folder) !== folder) {
    folder = dirname(folder);
    kind = await probes.kind(folder);
  }
  return { folder, kind };
}

function problem(host: PreflightHost, message: string, allowed: string): Problem {
  return { path: `hosts.${host.name}.pool.path`, value: host.poolPath, message, allowed };
}

function mib(bytes: number): string {
  return formatBytes(Math.floor(bytes / 2 ** 20) * 2 ** 20);
}
