import { orCancelled } from "./clock";
import { Holder } from "./disks";
import { Deps } from "./gate";
import { formatBytes } from "./parse";
import { ENTRY_BYTES, Extent, HEADER_BYTES, Qcow2, readHeader, readSnapshots, sameContent, Saved } from "./qcow2";

/** What a snapshot of ours is called: the image that the data was written under, and when. All others are left as they are. */
const OURS = /^nixvm-(?<digest>[0-9a-f]{12})-(?<taken>\d{8}T\d{6}Z)$/;

/** Something with the data stands in the way, and neither the guest nor its image is at fault. */
export class DataError extends Error {}

/** A persistent volume whose VM is off. */
export interface DataVolume {
  readonly uuid: string;
  readonly persistPath: string;
  /** Digest of the image that the data was written under last. */
  readonly fromDigest: string;
}

/** Names of our snapshots in a volume, oldest first. */
export async function dataSnapshots(persistPath: string, deps: Deps): Promise<string[]> {
  return ours((await look(persistPath, deps)).snapshots);
}

/** The newest of our snapshots that were taken under an image. */
export async function newestUnder(digest: string, persistPath: string, deps: Deps): Promise<string | undefined> {
  return (await dataSnapshots(persistPath, deps)).filter((name) => isUnder(name, digest)).at(-1);
}

/** The image that a snapshot of ours was taken under, by its name: the first digits of its digest. Undefined for the snapshots of others. */
export const imageOfSnapshot = (name: string): string | undefined => OURS.exec(name)?.groups?.["digest"];

const isUnder = (name: string, digest: string): boolean => OURS.exec(name)?.groups?.["digest"] === digest.slice(0, 12);

/** What upgrades may write, by the volume that it is kept in. */
export type Promised = Map<string, { pool: string; bytes: number }>;

/**
 * Before a VM is stopped for an upgrade: whether a snapshot of its data is possible, and has room. With `promised` all volumes that were
 * asked for must have room together.
 */
export async function checkSnapshot(persistPath: string, deps: Deps, promised: Promised = new Map()): Promise<void> {
  const { pool, freeBytes, neededBytes } = await roomFor(persistPath, deps);
  promised.set(persistPath, { pool, bytes: neededBytes });
  const here = [...promised.values()].filter((one) => one.pool === pool);
  const needed = here.reduce((sum, { bytes }) => sum + bytes, 0);
  if (freeBytes >= needed) return;
  const volumes = here.length === 1 ? persistPath : `${here.length} volumes`;
  throw new DataError(
    `persist.snapshots: the pool ${pool} has ${formatBytes(freeBytes)} free, and up to ${formatBytes(needed)} are needed ` +
      `to keep what an upgrade overwrites of ${volumes}; allowed: a pool with more space, or persist.snapshots: 0`,
  );
}

/** What a snapshot may take up in its pool, and what is free there. */
export async function roomFor(
  persistPath: string,
  deps: Pick<Deps, "disks" | "signal">,
): Promise<{ pool: string; freeBytes: number; neededBytes: number }> {
  const { diskBytes } = await look(persistPath, deps);
  const { pool, usedBytes, freeBytes } = await orCancelled(deps.disks.space(persistPath), deps.signal);
  // A snapshot takes nothing by itself, but whatever is overwritten later is kept: at the most all that is there.
  return { pool, freeBytes, neededBytes: Math.min(usedBytes, diskBytes) };
}

/**
 * Keeps the data as it is now, and no more than the `keep` newest of our snapshots. Data that a snapshot of ours holds already is not
 * kept a second time, so a run that was broken off can be repeated. Gives the name.
 */
export async function takeSnapshot({ keep, ...volume }: DataVolume & { keep: number }, deps: Deps): Promise<string> {
  return held(volume, deps, async (holder) => {
    const before = await look(volume.persistPath, deps);
    const name = (await unchangedSince(before, volume, deps)) ?? (await take(before, volume, holder, deps));
    const all = await dataSnapshots(volume.persistPath, deps);
    // The one of this upgrade is the newest, unless the data was brought back to one that was taken before others.
    const old = all.filter((other) => other !== name).slice(0, Math.max(0, all.length - keep));
    for (const other of old) await holder.remove(other);
    const left = (await dataSnapshots(volume.persistPath, deps)).filter((other) => old.includes(other));
    // libvirt holds a snapshot that it could not delete for deleted.
    if (left.length > 0) deps.warn(`former snapshots of its data could not be deleted: ${left.join(", ")}`);
    return name;
  });
}

/**
 * Puts the data back to what it was in a snapshot of ours. What is there now becomes a snapshot first. A disk that has grown since
 * stays as large as it is: its file system follows when the guest starts. Gives the name of the snapshot of what was there.
 */
export async function restoreSnapshot({ name, ...volume }: DataVolume & { name: string }, deps: Deps): Promise<string> {
  const { persistPath: path } = volume;
  return held(volume, deps, async (holder) => {
    const before = await look(path, deps);
    const wanted = before.snapshots.find((saved) => saved.name === name);
    if (wanted === undefined || !OURS.test(name)) {
      const known = ours(before.snapshots).join(", ") || "none";
      throw new DataError(`${path} has no snapshot ${name} of ours; it has: ${known}`);
    }
    const kept = (await unchangedSince(before, volume, deps)) ?? (await take(before, volume, holder, deps));
    await holder.restore(name);
    if ((wanted.diskBytes ?? before.diskBytes) < before.diskBytes) {
      await deps.libvirt.volumeResize(path, before.diskBytes);
    }
    return kept;
  });
}

const ours = (snapshots: readonly Saved[]): string[] =>
  snapshots.map(({ name }) => name).filter((name) => OURS.test(name));

/** A cancelled run goes no further than to the next look at the volume: each step before it comes to its end. */
export async function held<T>(
  volume: Pick<DataVolume, "uuid" | "persistPath">,
  deps: Pick<Deps, "libvirt" | "disks" | "signal">,
  use: (holder: Holder) => Promise<T>,
): Promise<T> {
  const { libvirt, disks, signal } = deps;
  const definition = await orCancelled(libvirt.definition(volume.uuid), signal);
  return orCancelled(disks.hold(definition, volume.persistPath, use), signal);
}

/** Of the form 20260102T030405Z; one that is no time is none of ours to come after. */
const timeOf = (stamp: string): number =>
  Date.parse(stamp.replace(/^(....)(..)(..T..)(..)(..Z)$/, "$1-$2-$3:$4:$5")) || 0;
const stampOf = (at: number): string => new Date(at).toISOString().replace(/[-:]|\.\d+/g, "");

async function take(now: Look, { persistPath, fromDigest }: DataVolume, holder: Holder, deps: Deps): Promise<string> {
  // Later than all others, also on a clock that was put back: no name is used twice, and names are in the order of the snapshots.
  const taken = ours(now.snapshots).map((one) => timeOf(OURS.exec(one)?.groups?.["taken"] ?? ""));
  const at = Math.max(Date.now(), ...taken.map((time) => time + 1000));
  const name = `nixvm-${fromDigest.slice(0, 12)}-${stampOf(at)}`;
  await holder.take(name);
  if (!(await dataSnapshots(persistPath, deps)).includes(name)) {
    throw new DataError(`libvirt says that it took the snapshot ${name} of ${persistPath}, but it is not there`);
  }
  return name;
}

/** The newest snapshot of ours that was taken under this image and has what the volume has now. */
async function unchangedSince(
  now: Look,
  { persistPath, fromDigest }: DataVolume,
  deps: Deps,
): Promise<string | undefined> {
  const under = now.snapshots.filter(({ name }) => isUnder(name, fromDigest));
  const content = (of: { content: Extent }) => deps.disks.read(persistPath, of.content);
  for (const saved of under.reverse()) {
    if ((saved.diskBytes ?? now.diskBytes) !== now.diskBytes) continue;
    if (sameContent(await content(now), await content(saved))) return saved.name;
  }
  return undefined;
}

/** What a volume says of itself, with all snapshots in it, ours and others. */
export type Look = Omit<Qcow2, "snapshots"> & { snapshots: Saved[] };

/** @throws DataError for a volume that can have none. */
export async function look(path: string, { disks, signal }: Pick<Deps, "disks" | "signal">): Promise<Look> {
  const read = (offset: number, bytes: number) => orCancelled(disks.read(path, { offset, bytes }), signal);
  const header = readHeader(await read(0, HEADER_BYTES));
  if (header === undefined) {
    throw new DataError(
      `persist.snapshots: ${path} is not a qcow2 file, so no snapshot can be kept in it; allowed: a qcow2 volume, or persist.snapshots: 0`,
    );
  }
  const { count, offset } = header.snapshots;
  const snapshots = count === 0 ? [] : readSnapshots(await read(offset, count * ENTRY_BYTES), count);
  if (snapshots === undefined) throw new DataError(`${path}: the list of its snapshots breaks off`);
  return { ...header, snapshots };
}
