import * as fs from "node:fs";
import { z } from "zod";
import { apart, must } from "./apart";
import { wrongState } from "./errors";

/** Disk images as files of this machine, through qemu-img. */

const info = z.looseObject({
  format: z.string(),
  "virtual-size": z.number(),
  "backing-filename": z.string().optional(),
  snapshots: z.array(z.looseObject({ name: z.string() })).default([]),
  "format-specific": z
    .looseObject({ data: z.looseObject({ "data-file": z.string().optional() }).optional() })
    .optional(),
});

/** What an image says of itself. */
export interface DiskInfo {
  format: string;
  /** Size of the disk as a guest sees it. */
  virtualBytes: number;
  /** Another file that its content is in, wholly or partly. */
  refersTo?: string;
  /** Names of the snapshots inside it. */
  snapshots: string[];
}

/** Of an image that may be in use. */
export async function diskInfo(file: string): Promise<DiskInfo> {
  const read = info.parse(JSON.parse(await must("qemu-img", ["info", "-U", "--output=json", file])));
  const refersTo = read["backing-filename"] ?? read["format-specific"]?.data?.["data-file"];
  return {
    format: read.format,
    virtualBytes: read["virtual-size"],
    ...(refersTo === undefined ? {} : { refersTo }),
    snapshots: read.snapshots.map(({ name }) => name),
  };
}

/** Whether the tables of a qcow2 file are right. Space that it holds for nothing does no harm. */
export async function isSound(file: string): Promise<boolean> {
  const child = apart("qemu-img", ["check", "-q", "-f", "qcow2", file], { stdio: "ignore" });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", resolve);
  });
  return code === 0 || code === 3;
}

/** What a file takes up on its disk: holes take nothing. */
export const allocatedBytes = (file: string): number => fs.statSync(file).blocks * 512;

/** Bytes that may be written on the file system of a path. */
export function freeBytes(at: string): number {
  const { bavail, bsize } = fs.statfsSync(at);
  return bavail * bsize;
}

/** Files of a file system that will be written to. */
export interface Need {
  /** A folder on it that is there. */
  folder: string;
  bytes: number;
  /** What for, for people. */
  what: string;
}

/** @throws CliError (exit 3) when there is not room for all of it. Needs on one file system are added up. */
export function requireSpace(needs: readonly Need[], size: (bytes: number) => string, free = freeBytes): void {
  const devices = new Map<number, Need[]>();
  for (const need of needs) {
    const { dev } = fs.statSync(need.folder);
    devices.set(dev, [...(devices.get(dev) ?? []), need]);
  }
  for (const here of devices.values()) {
    const [first] = here;
    const needed = here.reduce((sum, { bytes }) => sum + bytes, 0);
    if (first === undefined || free(first.folder) >= needed) continue;
    const what = here.map((need) => `${need.what} in ${need.folder}`).join(" and ");
    throw wrongState(`${what}: ${size(needed)} are needed, and ${size(free(first.folder))} are free`, {
      field: first.folder,
    });
  }
}
