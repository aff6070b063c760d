import * as fs from "node:fs";
import * as path from "node:path";
import { select } from "@inquirer/prompts";
import { Virsh } from "../provider/virsh";
import { formatBytes } from "../provider/parse";
import { must, runApart } from "./apart";
import { BadArchive, type Manifest, MEMBER } from "./archive";
import { readArchive, readManifest } from "./archiveRead";
import { declared, volumeOf } from "./backup";
import { archivesIn, backupFolder } from "./backupFiles";
import { Journal } from "./backupJournal";
import { bar } from "./bar";
import type { Context } from "./context";
import { allocatedBytes, diskInfo, type DiskInfo, isSound, requireSpace } from "./diskFile";
import { CliError, EXIT, Interrupted, wrongInput, wrongState } from "./errors";
import type { FleetVm } from "./fleet";
import { roughSize } from "./output";
import { OffAndOn } from "./offAndOn";
import { firmwareOf, recover, type Subject } from "./stillCopy";
import { Swap, swapLeft, swapNames } from "./swap";

/** How a restore was asked for. */
export interface RestoreOptions {
  json: boolean;
  yes: boolean;
}

/** What a restore has done. */
export interface RestoreResult {
  vm: string;
  archive: string;
  /** The moment that the data is of. */
  created: string;
  running: boolean;
  /** Whether the UEFI variables are those of the archive too. */
  firmware: boolean;
}

/** Puts the data of an archive into a VM. Before anything of the VM is touched, all of the archive has been read and found good. */
export async function restore(
  context: Context,
  name: string,
  given: string | undefined,
  options: RestoreOptions,
): Promise<RestoreResult> {
  const vm = await context.vm(name);
  const volume = volumeOf(vm, true);
  const file = await chosen(context, name, given, options);
  const journal = Journal.open(context.root, vm.uuid, name);
  const note = (line: string): void => context.note(line);
  const subject: Subject = { name, uuid: vm.uuid, volume, virsh: new Virsh(vm.uri, runApart), journal, note };
  try {
    return await withArchive(context, subject, vm, file, options);
  } catch (error) {
    if (!(error instanceof BadArchive)) throw error;
    throw wrongInput("archive", file, error.message, 'one that "nixvm backups --check" calls good');
  } finally {
    journal.close();
  }
}

/** The archive that is meant: a path, or a name as `nixvm backups` lists it; the user chooses where none is given. */
async function chosen(
  context: Context,
  name: string,
  given: string | undefined,
  { json }: RestoreOptions,
): Promise<string> {
  const folder = backupFolder(context.root);
  const own = archivesIn(folder).filter(({ vm }) => vm === name);
  const names =
    own.map(({ file }) => path.basename(file)).join(", ") || `none, as ${folder} has none of ${name}; give a path`;
  if (given !== undefined) {
    const places = [...(given.includes("/") ? [] : [path.join(folder, given)]), context.path(given)];
    const found = places.find((place) => fs.statSync(place, { throwIfNoEntry: false })?.isFile());
    if (found === undefined) throw wrongInput("archive", given, "is not there", names);
    return found;
  }
  if (own.length === 0 || json || !process.stdin.isTTY) {
    throw wrongInput("archive", undefined, "has to be named where nobody can be asked", names);
  }
  const choices = own.map(({ file, at, bytes }) => ({
    value: file,
    name: `${path.basename(file)} (${at.toISOString()}, ${roughSize(bytes)})`,
  }));
  return select({ message: `Which backup of ${name}?`, choices }, context.prompting());
}

async function withArchive(
  context: Context,
  subject: Subject,
  vm: FleetVm,
  file: string,
  options: RestoreOptions,
): Promise<RestoreResult> {
  const { name, volume, virsh } = subject;
  if (!(await virsh.domains()).some(({ uuid }) => uuid === vm.uuid)) {
    throw wrongState(`${name}: its domain ${vm.domain} is not there; "pulumi up" makes it`);
  }
  await recover(subject, subject.journal.before.copy);
  const now = await diskInfo(volume);
  const manifest = await readManifest(file);
  refuseMisfit(manifest, name, now, await declared(context, name));
  if (manifest.vm !== name)
    context.note(`${name} gets data of another VM: ${manifest.vm} of the stack ${manifest.stack}`);
  await lossAccepted(context, subject, manifest, options);
  const left = swapLeft(volume);
  for (const one of left.comes) fs.rmSync(one, { force: true });
  for (const one of left.kept) {
    context.note(
      `${name}: a restore that was killed has left the data from before it in ${one}; delete it when it is not needed`,
    );
  }
  const bytes = manifest.members.find((member) => member.name === MEMBER.data)?.bytes ?? 0;
  const kept = now.snapshots.length > 0 ? allocatedBytes(volume) : 0;
  requireSpace([{ folder: path.dirname(volume), bytes: bytes + kept, what: "the restored volume" }], roughSize);
  const names = swapNames(volume, new Date());
  const firmware = `${names.comes}.firmware`;
  try {
    await unpack(context, subject, file, names.comes, firmware, options);
    await refuseForeign(names.comes, manifest);
    // Of the running domain, where it is on: of firmware that libvirt has chosen the definition does not always say it.
    const firmwareAt = firmwareOf(await virsh.xml(vm.uuid), vm.uri);
    return await putIn(context, subject, vm, { file, manifest, names, firmware, firmwareAt, now });
  } finally {
    for (const one of [names.comes, firmware]) fs.rmSync(one, { force: true });
    // libvirt may have seen them meanwhile.
    await virsh.refreshPoolOf(volume).catch(() => undefined);
  }
}

/** @throws CliError (exit 3) when the data is not what this VM's image would find and use. */
export function refuseMisfit(
  manifest: Manifest,
  name: string,
  now: Pick<DiskInfo, "virtualBytes">,
  wanted: Partial<Manifest["persist"]>,
): void {
  const { persist } = manifest;
  if (persist.virtualBytes > now.virtualBytes) {
    throw wrongState(
      `${name}: its volume of ${formatBytes(now.virtualBytes)} is too small for the ${formatBytes(persist.virtualBytes)} of the archive; ` +
        `set persist.size to that, run "pulumi up", then restore`,
    );
  }
  for (const field of ["fs", "mount", "label"] as const) {
    const [was, is] = [persist[field], wanted[field]];
    if (was !== undefined && is !== undefined && was !== is) {
      throw wrongState(`${name}: persist.${field} is ${is}, and the archive's data was made for ${was}`);
    }
  }
}

/** What was written since the backup is lost: only who knows that goes on. */
async function lossAccepted(
  context: Context,
  { name, volume, virsh, uuid }: Subject,
  { created }: Manifest,
  options: RestoreOptions,
): Promise<void> {
  const on = (await virsh.state(uuid)).state !== "shut off";
  const written = on ? new Date() : fs.statSync(volume).mtime;
  if (written <= new Date(created)) return;
  const lost = `data of ${name} written after ${created}: it was last written to ${on ? "just now, as it is on" : `at ${written.toISOString()}`}`;
  if (!options.yes && (options.json || !process.stdin.isTTY)) {
    throw new CliError(`${lost}; allowed: --yes, to lose that`, EXIT.input, { field: "--yes" });
  }
  await context.confirmLoss(name, [lost], options.yes);
}

/** Reads the archive to its end, and unpacks on the way what is needed of it: its overlay is not. */
async function unpack(
  context: Context,
  { name }: Subject,
  file: string,
  data: string,
  firmware: string,
  { json }: RestoreOptions,
): Promise<void> {
  const shown = bar(`${name}: unpack `, fs.statSync(file).size, json);
  try {
    const begin = (): Promise<Record<string, string>> =>
      Promise.resolve({ [MEMBER.data]: data, [MEMBER.firmware]: firmware });
    await readArchive({ file, begin, progress: (bytes) => shown.at(bytes), signal: context.signal });
  } finally {
    shown.stop();
  }
}

/** An archive may come from anywhere: an image that refers to other files would show a guest what is in them. */
async function refuseForeign(data: string, { persist }: Manifest): Promise<void> {
  const { format, refersTo, virtualBytes } = await diskInfo(data).catch(() => ({
    format: "none that can be read",
    refersTo: undefined,
    virtualBytes: 0,
  }));
  if (format !== "qcow2") throw new BadArchive(`has a ${MEMBER.data} whose format is ${format}`);
  if (refersTo !== undefined) throw new BadArchive(`has a ${MEMBER.data} that refers to another file (${refersTo})`);
  if (virtualBytes !== persist.virtualBytes || !(await isSound(data))) {
    throw new BadArchive(`has a ${MEMBER.data} that is not the disk it says`);
  }
}

interface Ready {
  file: string;
  manifest: Manifest;
  names: { comes: string; kept: string };
  firmware: string;
  /** File of the VM's own ones. */
  firmwareAt: string | undefined;
  /** The volume as it is. */
  now: DiskInfo;
}

async function putIn(context: Context, subject: Subject, vm: FleetVm, ready: Ready): Promise<RestoreResult> {
  const { name, volume, virsh } = subject;
  const { names, manifest } = ready;
  const power = await OffAndOn.of(context, vm, virsh);
  const swaps = [new Swap(volume, names.comes, names.kept)];
  try {
    await power.stop();
    await fit(ready, volume, context.signal);
    const firmware = await firmwareSwap(context, subject, ready);
    if (firmware) swaps.push(firmware);
    for (const swap of swaps) swap.go();
    await virsh.refreshPoolOf(volume).catch(() => undefined);
    if (vm.running) await power.startHealthy();
    for (const swap of swaps) swap.done();
    const { created } = manifest;
    return { vm: name, archive: ready.file, created, running: vm.running, firmware: firmware !== undefined };
  } catch (error) {
    await power.off().catch((failure: unknown) => {
      // Its disks cannot be changed while it may be on.
      const where = fs.existsSync(names.kept) ? `; its data from before is in ${names.kept}` : "";
      throw new CliError(`${(error as Error).message}; it could not be stopped either: ${String(failure)}${where}`);
    });
    for (const swap of swaps) swap.back();
    await virsh.refreshPoolOf(volume).catch(() => undefined);
    const then = await power.asBefore();
    const back = `${name} has its data from before, and ${then}`;
    if (context.signal.aborted) throw new Interrupted(`broken off; ${back}`);
    throw new CliError(`${(error as Error).message}; ${back}`);
  } finally {
    await virsh.refreshPoolOf(volume).catch(() => undefined);
  }
}

/** The volume's size is what the stack says, and its snapshots stay: their file gets the content then. */
async function fit({ names, now }: Ready, volume: string, signal: AbortSignal): Promise<void> {
  await must("qemu-img", ["resize", "-q", "-f", "qcow2", names.comes, String(now.virtualBytes)], signal);
  // The volume may have got another one since it was looked at.
  if ((await diskInfo(volume)).snapshots.length === 0) return;
  const content = `${names.comes}.content`;
  fs.renameSync(names.comes, content);
  try {
    await must("cp", ["--reflink=auto", "--sparse=always", volume, names.comes], signal);
    await must("qemu-img", ["convert", "-n", "-f", "qcow2", "-O", "qcow2", content, names.comes], signal);
  } finally {
    fs.rmSync(content, { force: true });
  }
}

/** UEFI variables are those of one firmware: others than that have another size. */
async function firmwareSwap(context: Context, { name }: Subject, ready: Ready): Promise<Swap | undefined> {
  const { firmwareAt: at } = ready;
  if (at === undefined || !fs.existsSync(ready.firmware)) return undefined;
  const [is, was] = [await diskInfo(at), await diskInfo(ready.firmware)];
  if (was.format !== "qcow2" || was.refersTo !== undefined || is.virtualBytes !== was.virtualBytes) {
    context.note(`${name}: keeps its UEFI variables, as those of the archive are of another firmware`);
    return undefined;
  }
  const names = swapNames(at, new Date());
  for (const left of swapLeft(at).comes) fs.rmSync(left, { force: true });
  const into = is.format === "qcow2" ? "qcow2" : "raw";
  await must("qemu-img", ["convert", "-f", "qcow2", "-O", into, ready.firmware, names.comes], context.signal);
  return new Swap(at, names.comes, names.kept);
}
