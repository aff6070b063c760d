import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { wrongInput } from "./errors";
import { MACHINE_FILES, type MachineFiles } from "./machineDir";

/** No file of theirs is near this; what is longer is not what its name says. */
const MAX_BYTES = 2 ** 20;

/** The files of a machine config directory; the content only of those that somebody looks into. */
export function readFolder(folder: string): MachineFiles {
  const files = new Map<string, string | null>();
  for (const name of names(folder)) {
    const file = path.join(folder, name);
    const there = statSync(file, { throwIfNoEntry: false });
    if (there === undefined) throw wrongInput(name, file, "is a link to nothing", "a file");
    if (there.isDirectory()) {
      files.set(name, null);
    } else if (!MACHINE_FILES.includes(name)) {
      files.set(name, "");
    } else {
      if (!there.isFile() || there.size > MAX_BYTES)
        throw wrongInput(name, file, "is no text file", "a short text file");
      files.set(name, content(file));
    }
  }
  return files;
}

function names(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    const why = code === "ENOENT" ? "does not exist" : code === "ENOTDIR" ? "is no folder" : `cannot be read (${code})`;
    throw wrongInput("directory", folder, why, "a machine config directory of nixos-vm-template");
  }
}

function content(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "";
    throw wrongInput(path.basename(file), file, `cannot be read (${code})`, "a file that this user may read");
  }
}

/** Places where the data disk of a machine may be; the first one that is there counts. */
export function diskPlaces(folder: string, env: NodeJS.ProcessEnv = process.env, home = os.homedir()): string[] {
  const out = env.OUTPUT_DIR ?? path.join(home, ".local", "share", "nixos-vm-template");
  const [name, host, backend] = folder.split(path.sep).reverse();
  return [
    path.join(folder, "var.qcow2"),
    ...(backend && host && name ? [path.join(out, "vms", backend, host, name, "var.qcow2")] : []),
    // Before it had places in the home folder.
    path.join(folder, "..", "..", "output", "vms", name ?? "", "var.qcow2"),
  ];
}

/** @throws CliError where there is none. */
export function findDisk(folder: string, files: MachineFiles): string {
  const places = diskPlaces(folder);
  const found = places.find((place) => existsSync(place));
  if (found !== undefined) return found;
  const node = files.has("vmid") ? "; it is on a Proxmox node: copy it from there, as qcow2" : "";
  throw wrongInput(
    "--disk",
    undefined,
    `is needed: var.qcow2 is not in ${places.map((p) => path.dirname(p)).join(", nor in ")}${node}`,
    "the path of the machine's var.qcow2",
  );
}
