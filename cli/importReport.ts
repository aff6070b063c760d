import type { Left } from "./machineDir";
import type { Carried } from "./machineEntry";
import { roughSize } from "./output";

/** What a user is told of an import, before and after. */
export interface ImportReport {
  name: string;
  /** The machine config directory, and the disk of which the data is. */
  directory: string;
  disk: string;
  image: string;
  host: string;
  persistBytes: number;
  carried: Carried[];
  left: Left[];
  notes: string[];
  /** Public part of the SSH host key, as it was and will be. */
  sshHostKey?: string;
}

/** For people. No secret is in it. */
export function describeImport(report: ImportReport): string {
  const { name, directory, disk, image, host, persistBytes, carried, left, notes, sshHostKey } = report;
  return [
    `${name} on host ${host}, with image ${image} and ${roughSize(persistBytes)} of data`,
    `from ${directory}`,
    `and  ${disk}`,
    "Carried over:",
    ...carried.map(({ file, to }) => `  ${file} → ${to}`),
    ...(left.length === 0 ? [] : ["Not carried over:", ...left.map(({ file, reason }) => `  ${file}: ${reason}`)]),
    ...(notes.length === 0 ? [] : ["Good to know:", ...notes.map((note) => `  ${note}`)]),
    ...(sshHostKey === undefined ? [] : [`SSH host key: ${sshHostKey}`]),
  ].join("\n");
}
