import { constants } from "node:fs";
import { access, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { withFolder } from "../provider/folder";
import { formatBytes } from "../provider/parse";
import { run as realRun, type Run } from "../provider/run";
import { callVirsh } from "../provider/virsh";
import { freeBytes } from "./diskFile";
import { CliError, wrongState } from "./errors";

/** Copies take as long as they take; this only ends one that will never end. */
const copyMs = 24 * 3_600_000;

/**
 * What a guest keeps of its identity on its persistent volume, by the mount point of that: SSH host key and machine id, the copy of its
 * seed (which it would go by if its own seed could not be read), and what systemd and D-Bus made of themselves.
 */
export const IDENTITY: Readonly<Record<"/var" | "/persist", readonly string[]>> = {
  "/var": below("/lib/identity", "/lib"),
  "/persist": below("/etc/ssh", "/var/lib", "/etc/machine-id"),
};

function below(keys: string, lib: string, machineId = `${keys}/machine-id`): string[] {
  const seed = ["seed", "seed.new", "seed.old"].flatMap((copy) =>
    ["user-data", "meta-data", "network-config", "digest"].map((file) => `${lib}/nixvm/${copy}/${file}`),
  );
  const systemd = ["systemd/random-seed", "systemd/credential.secret", "dbus/machine-id"].map(
    (file) => `${lib}/${file}`,
  );
  const key = `${keys}/ssh_host_ed25519_key`;
  return [machineId, key, `${key}.pub`, `${key}.new`, `${key}.pub.new`, ...seed, ...systemd];
}

/** How a volume gets from one VM to another. */
export interface Copy {
  readonly uri: string;
  /** Volume to copy from, and the snapshot in it that is copied. */
  readonly from: string;
  readonly snapshot: string;
  /** Where its guest mounts it; null: its image keeps no identity there. */
  readonly mount: "/var" | "/persist" | null;
}

/**
 * Fetches the content of a snapshot as a qcow2 file, without the source's identity, and gives the file to `use`. The snapshot does not
 * change, so the guest may run on. All of it goes through libvirt: the volume is root's, and may be on another host.
 */
export async function withCopy<T>(
  { uri, from, snapshot, mount }: Copy,
  use: (file: string) => Promise<T>,
  release: () => Promise<void>,
  run: Run = realRun,
): Promise<T> {
  return withFolder(async (folder) => {
    const [whole, raw, made] = ["source.qcow2", "data.raw", "clone.qcow2"].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ];
    try {
      await callVirsh(run, uri, ["vol-download", from, whole, "--sparse"], copyMs);
    } finally {
      await release();
    }
    await must(run, "qemu-img", ["convert", "-f", "qcow2", "-l", `snapshot.name=${snapshot}`, "-O", "raw", whole, raw]);
    await rm(whole);
    if (mount !== null) await dropIdentity(raw, mount, run);
    await must(run, "qemu-img", ["convert", "-f", "raw", "-O", "qcow2", "-o", "compat=1.1", raw, made]);
    await rm(raw);
    return use(made);
  });
}

/** Writes a file over a volume that nobody has open. */
export async function writeVolume(uri: string, path: string, file: string, run: Run = realRun): Promise<void> {
  await callVirsh(run, uri, ["vol-upload", path, file, "--sparse"], copyMs);
}

/** Takes the files of {@link IDENTITY} out of an ext4 file system. */
export async function dropIdentity(image: string, mount: "/var" | "/persist", run: Run = realRun): Promise<void> {
  // Replays the journal of a guest that was not asked to keep still; 1 means that there was something to do.
  const check = await run("e2fsck", ["-f", "-p", image], copyMs);
  if (check.code !== 0 && check.code !== 1) {
    throw new CliError(`the copy has no ext4 file system in order: ${(check.stdout + check.stderr).trim()}`);
  }
  const files = IDENTITY[mount];
  await debugfs(
    run,
    image,
    files.map((file) => `rm ${file}`),
    ["-w"],
  );
  // debugfs says nothing by its exit code.
  const seen = await debugfs(
    run,
    image,
    files.map((file) => `stat ${file}`),
  );
  if (/^Inode: /m.test(seen)) throw new CliError("the copy still has the source's identity");
}

async function debugfs(run: Run, image: string, commands: readonly string[], options: string[] = []): Promise<string> {
  let text = "";
  for (const command of commands) text += (await must(run, "debugfs", [...options, "-R", command, image])).stdout;
  return text;
}

async function must(run: Run, command: string, args: readonly string[]): Promise<{ stdout: string }> {
  const result = await run(command, args, copyMs);
  if (result.failure === "missing") throw wrongState(`${command} is not on PATH; "npm run setup" installs it`);
  if (result.code !== 0) throw new CliError(`${command}: ${result.stderr.trim() || `ended with ${result.code}`}`);
  return result;
}

/** @throws CliError when this machine has no room for a copy that is on its way. */
export async function checkTemporary(bytes: number, folder = tmpdir()): Promise<void> {
  await access(folder, constants.W_OK);
  const free = freeBytes(folder);
  // At any time there are two of the three files.
  if (free >= 2 * bytes) return;
  throw wrongState(
    `${folder} has ${formatBytes(free)} free, and up to ${formatBytes(2 * bytes)} are needed for the copy on its way; ` +
      "TMPDIR names another folder",
  );
}
