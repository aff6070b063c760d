import { readFile, rename, rm, writeFile } from "node:fs/promises";
import * as path from "node:path";
import { CliError, wrongState } from "./errors";
import { type Entry, fitting, FOLDERS, type Folders, HOST_KEY, listing, ownedByRoot, type Wanted } from "./foreignVar";
import { lastLine, mustRun, tool } from "./hostTool";
import { type Ext4, findFileSystem, HEAD_BYTES, readExt4, SUPERBLOCK_BYTES, type Window } from "./partition";

/** Block size that our guests count in. */
const BLOCK_BYTES = 4096;

/** What is known of a data disk of somebody else's before anything is copied. */
export interface ForeignDisk {
  readonly file: string;
  /** Size as its guest saw it. */
  readonly diskBytes: number;
  /** Space that its content takes in a qcow2 file. */
  readonly neededBytes: number;
  readonly window: Window;
  readonly fs: Ext4;
}

/** What was made of the copy. */
export interface Fitted {
  /** In words, for the user. */
  notes: string[];
  /** Public part of the SSH host key; undefined when the guest will make a new one. */
  hostKey?: string;
  /** Where the SSH host key was, when it was carried over. */
  keyFrom?: string;
}

/**
 * Looks at a data disk; never writes to it. `work` is a folder for temporary files.
 *
 * @throws CliError when it is in use, or none that a guest of ours could have.
 */
export async function inspectDisk(file: string, work: string, signal: AbortSignal): Promise<ForeignDisk> {
  const info = await tool("qemu-img", ["info", "--output=json", "--backing-chain", "-f", "qcow2", file], { signal });
  if (info.code !== 0) {
    const why = info.stderr.trim();
    if (/\block\b/.test(why)) {
      throw wrongState(
        `${file} is in use: its VM is running. Shut it down cleanly first, for example with \`just stop\``,
      );
    }
    throw wrongState(
      `${file} is no qcow2 file that can be read: ${why.replace(/^qemu-img: /, "").replaceAll("\n", "; ")}`,
    );
  }
  const [top] = JSON.parse(info.stdout) as { "virtual-size": number }[];
  const diskBytes = top?.["virtual-size"] ?? 0;
  const begin = async (window: Window): Promise<Buffer> => {
    const head = path.join(work, "head.raw");
    await mustRun("qemu-img", ["convert", "-O", "raw", windowOf(file, window), head], { signal });
    const read = await readFile(head);
    await rm(head);
    return read;
  };
  const window = findFileSystem(await begin({ offset: 0, bytes: Math.min(HEAD_BYTES, whole(diskBytes)) }), diskBytes);
  if (typeof window === "string") throw wrongState(`${file}: ${window}`);
  const fs = readExt4(await begin({ ...window, bytes: Math.min(SUPERBLOCK_BYTES, window.bytes) }));
  if (typeof fs === "string") throw wrongState(`${file}: ${fs}`);
  if (fs.blockBytes !== BLOCK_BYTES) {
    throw wrongState(
      `${file}: its file system has blocks of ${fs.blockBytes} bytes; guests of ours need ${BLOCK_BYTES}`,
    );
  }
  if (fs.bytes > window.bytes) throw wrongState(`${file}: its file system is larger than its partition`);
  const measured = await mustRun("qemu-img", ["measure", "--output=json", "-O", "qcow2", windowOf(file, window)], {
    signal,
  });
  const { required } = JSON.parse(measured) as { required: number };
  return { file, diskBytes, neededBytes: required, window, fs };
}

/** A part of a qcow2 file as a disk of its own, in a form in which any path can be written. */
function windowOf(filename: string, { offset, bytes }: Window): string {
  const qcow2 = { driver: "qcow2", file: { driver: "file", filename } };
  return `json:${JSON.stringify({ driver: "raw", offset, size: bytes, file: qcow2 })}`;
}

const whole = (bytes: number): number => bytes - (bytes % 512);

/** Copies the file system out, and makes it good if its VM was not shut down. What cannot be made good is refused. */
export async function copyOut(disk: ForeignDisk, raw: string, signal: AbortSignal): Promise<string[]> {
  await mustRun("qemu-img", ["convert", "-O", "raw", windowOf(disk.file, disk.window), raw], { signal });
  const notes: string[] = [];
  if (disk.fs.dirty) {
    const { code, stdout } = await tool("e2fsck", ["-p", raw], { signal });
    if (code > 1) throw damaged(disk, stdout, code);
    notes.push("its VM was not shut down cleanly: the journal was replayed, in the copy only");
  }
  await mustBeGood(disk, raw, signal);
  return notes;
}

async function mustBeGood(disk: ForeignDisk, raw: string, signal: AbortSignal): Promise<void> {
  const { code, stdout } = await tool("e2fsck", ["-fn", raw], { signal });
  if (code !== 0) throw damaged(disk, stdout, code);
}

function damaged(disk: ForeignDisk, said: string, code: number): Error {
  return wrongState(
    `${disk.file}: its file system is damaged (e2fsck ended with ${code}: ${lastLine(said)}); repair the original first`,
  );
}

/**
 * Puts what a guest of ours looks for into its place: the SSH host key, the numbers of accounts, the label. `keyFolder` is the machine
 * config directory.
 */
export async function fit(
  disk: ForeignDisk,
  raw: string,
  label: string,
  want: Wanted & { keyFolder: string },
  signal: AbortSignal,
): Promise<Fitted> {
  const work = path.dirname(raw);
  const ask = async (command: string): Promise<string> =>
    (await tool("debugfs", ["-R", command, raw], { signal })).stdout;
  const found = {} as Record<keyof Folders, Entry[]>;
  for (const folder of FOLDERS) found[folder] = listing(await ask(`ls -p ${folder}`));

  const { commands, uids, keyFrom, notes } = fitting(found, want);
  await writeFile(path.join(work, "uids"), uids, { mode: 0o600 });
  await change(raw, commands, work, signal);
  if (keyFrom === "directory") {
    // Straight from where it is: no copy of a private key beside.
    const at = `/lib/identity/${HOST_KEY}`;
    await change(raw, ["cd /lib/identity", `write ${HOST_KEY} ${HOST_KEY}`, "cd /"], want.keyFolder, signal);
    await change(raw, ownedByRoot(at, "600"), work, signal);
  }
  await mustRun("e2label", [raw, label], { signal });
  await mustBeGood(disk, raw, signal);
  await checkPlaces(ask, { ...want, uids, keyFrom });
  const shown = await ask(`cat /lib/identity/${HOST_KEY}.pub`);
  const hostKey = /^ssh-ed25519 [A-Za-z0-9+/=]+/.exec(shown)?.[0];
  // Those who log in know the key that the guest had.
  if (keyFrom === "disk" && want.keyInDirectory) notes.push(`the SSH host key is the one on the disk, not the file`);
  const from = { disk: `/identity/${HOST_KEY} on the disk`, directory: HOST_KEY };
  return {
    notes,
    ...(hostKey === undefined ? {} : { hostKey }),
    ...(keyFrom === undefined ? {} : { keyFrom: from[keyFrom] }),
  };
}

/** debugfs ends with 0 whatever becomes of its commands. */
async function change(raw: string, commands: readonly string[], cwd: string, signal: AbortSignal): Promise<void> {
  if (commands.length === 0) return;
  const script = `${raw}.commands`;
  await writeFile(script, commands.map((command) => `${command}\n`).join(""), { mode: 0o600 });
  await mustRun("debugfs", ["-w", "-f", script, raw], { signal, cwd });
  await rm(script);
}

/** That all is where it was put; what was not done would only show when the guest is up with another key. */
async function checkPlaces(
  ask: (command: string) => Promise<string>,
  done: { newIdentity: boolean; uids: string; keyFrom: string | undefined },
): Promise<void> {
  const wrong: string[] = [];
  const key = await ask(`stat /lib/identity/${HOST_KEY}`);
  const rootsOwn = /Mode:\s+0600[\s\S]*User:\s+0\s+Group:\s+0\s/.test(key);
  if (done.keyFrom !== undefined ? !rootsOwn : done.newIdentity && key !== "") wrong.push("the SSH host key");
  if (done.uids !== "" && (await ask("cat /lib/nixvm/uids")) !== done.uids) wrong.push("the numbers of accounts");
  if (wrong.length > 0) throw new CliError(`debugfs could not put ${wrong.join(" and ")} into the copy`);
}

/** Makes the volume of the copy: a qcow2 file of `bytes`, which is at least as large as the copy. */
export async function pack(raw: string, qcow2: string, bytes: number, signal: AbortSignal): Promise<void> {
  const part = `${qcow2}.part`;
  await mustRun("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", "-o", "compat=1.1", raw, part], { signal });
  await rm(raw);
  await mustRun("qemu-img", ["resize", "-q", "-f", "qcow2", part, String(bytes)], { signal });
  await rename(part, qcow2);
}
