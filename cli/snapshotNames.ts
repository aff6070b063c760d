import { imageOfSnapshot } from "../provider/dataSnapshot";
import type { Look } from "../provider/dataSnapshot";
import { NAME_ALLOWED, NAME_PATTERN } from "../components/plan";
import { wrongInput } from "./errors";

/** Begins the names of snapshots that upgrades and `nixvm clone` take. */
const RESERVED = "nixvm-";
/** Ends the name of a volume that holds a copy of UEFI variables. */
const COPY = ".nvram";

/** A snapshot as `nixvm snapshots` shows it. */
export interface Listed {
  name: string;
  /** ISO 8601, in UTC. */
  takenAt: string;
  /** `hand`: by `nixvm snapshot`. `upgrade`: before an upgrade. `clone`: what is left of a clone that was broken off. `other`: not by nixvm. */
  by: "hand" | "upgrade" | "clone" | "other";
  /** First 12 digits of the digest of the image that the data was written under; null when nobody wrote it down. */
  image: string | null;
  /** Whether the UEFI variables of that time are kept with it. */
  uefi: boolean;
  /** Size of the disk then; null in files of an old QEMU. */
  diskBytes: number | null;
}

/**
 * Whether somebody may call a snapshot so. The rule of all names keeps it a part of a file name, and off the numbers by which QEMU
 * knows snapshots: it would take `2` for the second one, whatever its name is.
 */
export function checkName(name: string): string {
  if (name.startsWith(RESERVED)) {
    throw wrongInput("name", name, "is reserved for snapshots that nixvm takes by itself", "another beginning");
  }
  if (!NAME_PATTERN.test(name)) throw wrongInput("name", name, "cannot name a snapshot", NAME_ALLOWED);
  return name;
}

/** `<beginning>-20260102-030405`, in UTC, later than the names that are taken. */
export function nameFromTime(beginning: string, at: number, taken: readonly string[]): string {
  for (let time = at; ; time += 1000) {
    const stamp = new Date(time)
      .toISOString()
      .replace(/[-:]|\.\d+Z/g, "")
      .replace("T", "-");
    const name = `${beginning}-${stamp}`;
    if (!taken.includes(name)) return name;
  }
}

/** Name of the volume that holds the UEFI variables of a snapshot. It says which image ran, as the snapshot itself has no room for that. */
export function copyName(volume: string, image: string, snapshot: string): string {
  return `${volume}-${image}-${snapshot}${COPY}`;
}

/** The reverse of {@link copyName}; undefined for all other files of a pool, those of other VMs too. */
export function readCopyName(volume: string, file: string): { image: string; snapshot: string } | undefined {
  if (!file.startsWith(`${volume}-`) || !file.endsWith(COPY)) return undefined;
  const found = /^([0-9a-f]{12})-(.+)$/.exec(file.slice(volume.length + 1, -COPY.length));
  return found ? { image: found[1]!, snapshot: found[2]! } : undefined;
}

/** All snapshots in a volume, in the order of the file; `files` are the names of the volumes beside it. */
export function listed(volume: string, { snapshots, diskBytes }: Look, files: readonly string[]): Listed[] {
  const copies = new Map(
    files.flatMap((file) => {
      const read = readCopyName(volume, file);
      return read ? [[read.snapshot, read.image] as const] : [];
    }),
  );
  return snapshots.map(({ name, takenAt, diskBytes: then }) => ({
    name,
    takenAt: new Date(takenAt * 1000).toISOString().replace(".000", ""),
    by: whoTook(name),
    image: imageOfSnapshot(name) ?? copies.get(name) ?? null,
    uefi: copies.has(name),
    diskBytes: then ?? diskBytes ?? null,
  }));
}

function whoTook(name: string): Listed["by"] {
  if (imageOfSnapshot(name) !== undefined) return "upgrade";
  if (name.startsWith(`${RESERVED}clone-`)) return "clone";
  return NAME_PATTERN.test(name) && !name.startsWith(RESERVED) ? "hand" : "other";
}
