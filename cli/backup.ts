import * as fs from "node:fs";
import * as path from "node:path";
import { z } from "zod";
import { Cancelled } from "../provider/clock";
import { isLocal } from "../provider/pool";
import { Virsh } from "../provider/virsh";
import { must, runApart } from "./apart";
import { FORMAT, type Manifest, MEMBER, parseManifest } from "./archive";
import { type Source, writeArchive } from "./archiveWrite";
import { archivePath, backupFolder, ownFolder, Part } from "./backupFiles";
import { Journal } from "./backupJournal";
import { bar } from "./bar";
import type { Context } from "./context";
import { allocatedBytes, diskInfo, isSound, requireSpace } from "./diskFile";
import { CliError, Interrupted, wrongState } from "./errors";
import type { FleetVm } from "./fleet";
import { type Frame, SourceChanged } from "./frames";
import { roughSize } from "./output";
import { copyPath, copyRunning, firmwareOf, recover, type Subject } from "./stillCopy";

/** How a backup was asked for. */
export interface BackupOptions {
  json: boolean;
  /** File or folder. */
  output?: string;
  resume?: boolean;
}

/** What a backup has made. */
export interface BackupResult {
  vm: string;
  archive: string;
  bytes: number;
  created: string;
  quiesced: Manifest["quiesced"];
  members: Manifest["members"];
}

const headShape = z.object({
  manifest: z.unknown(),
  sources: z.array(z.object({ name: z.string(), path: z.string(), bytes: z.number(), stamp: z.string() })),
});

/** What an archive is made from, and how those files looked: written down for a run that goes on with it. */
interface Head {
  manifest: Manifest;
  sources: (Source & { stamp: string })[];
}

/** Changes whenever a file does. */
function stampOf(file: string): string {
  const { ino, size, mtimeNs } = fs.statSync(file, { bigint: true });
  return `${ino} ${size} ${mtimeNs}`;
}

/** The volume of a VM as a file of this machine. @throws CliError (exit 3) where there is none. */
export function volumeOf(vm: FleetVm, write: boolean): string {
  const { persistPath, name, uri } = vm;
  if (persistPath === undefined) throw wrongState(`${name} has no persistent volume: there is nothing to back up`);
  if (!isLocal(uri)) {
    throw wrongState(`${name}: its host (${uri}) is another machine, whose files cannot be read here; run nixvm there`);
  }
  if (!fs.existsSync(persistPath)) throw wrongState(`${name}: its persistent volume ${persistPath} is gone`);
  try {
    fs.accessSync(persistPath, write ? fs.constants.R_OK | fs.constants.W_OK : fs.constants.R_OK);
    fs.accessSync(path.dirname(persistPath), fs.constants.W_OK);
  } catch {
    throw wrongState(`${name}: this user can not read and write ${persistPath}; run it as one who can, such as root`);
  }
  return persistPath;
}

/** Backs up one VM. */
export async function backup(context: Context, name: string, options: BackupOptions): Promise<BackupResult> {
  const vm = await context.vm(name);
  const volume = volumeOf(vm, false);
  const now = new Date(Math.floor(Date.now() / 1000) * 1000);
  const part = new Part(archivePath(name, now, context.root, options.output && folderOr(context, options.output)));
  const journal = Journal.open(context.root, vm.uuid, name);
  const note = (line: string): void => context.note(line);
  const subject: Subject = { name, uuid: vm.uuid, volume, virsh: new Virsh(vm.uri, runApart), journal, note };
  try {
    const going = options.resume ? await resumed(subject) : undefined;
    if (going) {
      try {
        return await write(context, subject, going.part, going.head, going.frames, options);
      } catch (error) {
        if (!(error instanceof SourceChanged)) throw error;
        anew(subject, error.message);
      }
    }
    await discard(subject);
    ownFolder(path.dirname(part.archive), path.dirname(part.archive) === backupFolder(context.root));
    const head = await begin(context, subject, vm, part, now, options);
    return await write(context, subject, part, head, [], options);
  } catch (error) {
    if (!(error instanceof SourceChanged)) throw error;
    throw new CliError(`${name}: ${error.message}, so nothing of it is kept; make the backup again`);
  } finally {
    journal.close();
  }
}

/** A folder keeps the slash that says that it is one. */
const folderOr = (context: Context, given: string): string =>
  given.endsWith("/") ? `${context.path(given)}/` : context.path(given);

/** The unfinished archive of a VM, if it can be gone on with. What cannot is said, and the backup starts anew. */
async function resumed(subject: Subject): Promise<{ part: Part; head: Head; frames: Frame[] } | undefined> {
  const { archive, copy } = subject.journal.before;
  if (archive === undefined) throw wrongState(`${subject.name} has no unfinished backup; start one without --resume`);
  const part = new Part(archive);
  const read = part.read();
  const head = headShape.safeParse(read?.head);
  if (read === undefined || !head.success) return anew(subject, "what was written of it is gone");
  const sources = head.data.sources as Head["sources"];
  const changed = sources.find(({ path: file, stamp }) => !fs.existsSync(file) || stampOf(file) !== stamp);
  if (changed) return anew(subject, `${changed.path} is not what it was`);
  if (sources.some((source) => source.path === subject.volume) && (await isOn(subject))) {
    return anew(subject, "the VM was started since");
  }
  await recover(subject, copy);
  return { part, head: { manifest: parseManifest(JSON.stringify(head.data.manifest)), sources }, frames: read.frames };
}

function anew(subject: Subject, why: string): undefined {
  subject.note(`${subject.name}: the unfinished backup cannot be gone on with, as ${why}; a new one is made`);
  return undefined;
}

const isOn = async ({ virsh, uuid }: Subject): Promise<boolean> =>
  (await virsh.domains()).some((domain) => domain.uuid === uuid) && (await virsh.state(uuid)).state !== "shut off";

/** Removes what an unfinished backup has left, wherever that is. */
async function discard(subject: Subject): Promise<void> {
  const { archive } = subject.journal.before;
  await recover(subject);
  if (archive !== undefined) {
    subject.note(`${subject.name}: the unfinished backup ${archive}.part is removed`);
    new Part(archive).remove();
  }
  subject.journal.set({ archive: undefined, copy: undefined });
}

/** Brings all that belongs into the archive to a stand. */
async function begin(
  context: Context,
  subject: Subject,
  vm: FleetVm,
  part: Part,
  now: Date,
  options: BackupOptions,
): Promise<Head> {
  const { volume, virsh, name, journal } = subject;
  const info = await diskInfo(volume);
  const on = await isOn(subject);
  // A file with snapshots in it has more than the data of this moment.
  const copied = on || info.format !== "qcow2" || info.snapshots.length > 0;
  const folder = path.dirname(part.archive);
  const allocated = allocatedBytes(volume);
  const overlay = fs.existsSync(vm.overlayPath) ? vm.overlayPath : undefined;
  requireSpace(
    [
      { folder, bytes: allocated + 2 * (overlay ? allocatedBytes(overlay) : 0) + 2 ** 22, what: "the archive" },
      ...(copied ? [{ folder: path.dirname(volume), bytes: allocated, what: "the copy" }] : []),
    ],
    roughSize,
  );
  const firmware = (await virsh.domains()).some(({ uuid }) => uuid === vm.uuid)
    ? firmwareOf(await virsh.xml(vm.uuid), vm.uri)
    : undefined;
  journal.set({ archive: part.archive });
  try {
    fs.mkdirSync(part.folder, { mode: 0o700 });
    const copy = copyPath(volume, now);
    const keepOverlay = (): void => {
      if (overlay) fs.copyFileSync(overlay, part.in(MEMBER.overlay), fs.constants.COPYFILE_FICLONE);
    };
    const shown = bar(`${name}: copy   `, info.virtualBytes, options.json);
    let quiesced: Manifest["quiesced"] = "off";
    let created = now;
    try {
      if (on) {
        const progress = (processed: number): void => shown.at(processed);
        const moment = (): void => {
          created = new Date();
          keepOverlay();
        };
        quiesced = await copyRunning(subject, copy, moment, { signal: context.signal, progress });
      } else {
        keepOverlay();
        if (copied) await convert(subject, volume, info.format, copy, context.signal);
      }
    } finally {
      shown.stop();
    }
    const data = copied ? copy : volume;
    if (!(await isSound(data))) throw wrongState(`${name}: ${volume} is damaged ("qemu-img check" says how)`);
    if (firmware !== undefined) await keepFirmware(firmware, part, context.signal);
    const members = [
      { name: MEMBER.data, path: data },
      { name: MEMBER.overlay, path: part.in(MEMBER.overlay) },
      { name: MEMBER.firmware, path: part.in(MEMBER.firmware) },
    ];
    const sources = members
      .filter((one) => fs.existsSync(one.path))
      .map((one) => ({ ...one, bytes: fs.statSync(one.path).size, stamp: stampOf(one.path) }));
    const head: Head = {
      manifest: {
        format: FORMAT,
        nixvm: versionOf(context.root),
        stack: await context.stack(),
        vm: name,
        uuid: vm.uuid,
        created: created.toISOString(),
        quiesced,
        image: {
          digest: vm.imageDigest,
          ...(vm.imageId === undefined ? {} : { id: vm.imageId }),
          ...(vm.imageVersion === undefined ? {} : { version: vm.imageVersion }),
        },
        persist: { virtualBytes: info.virtualBytes, ...(await declared(context, name)) },
        members: sources.map((one) => ({ name: one.name, bytes: one.bytes })),
      },
      sources,
    };
    part.begin(head);
    return head;
  } catch (error) {
    drop(subject, part);
    throw error;
  }
}

async function convert(
  subject: Subject,
  volume: string,
  format: string,
  copy: string,
  signal: AbortSignal,
): Promise<void> {
  subject.journal.set({ copy });
  await must("qemu-img", ["convert", "-f", format, "-O", "qcow2", "-o", "compat=1.1", volume, copy], signal);
}

/** libvirt keeps UEFI variables as QEMU reads them: raw, or, from 10.10 on, qcow2. */
async function keepFirmware(firmware: string, part: Part, signal: AbortSignal): Promise<void> {
  const { format } = await diskInfo(firmware);
  const from = format === "qcow2" ? "qcow2" : "raw";
  await must("qemu-img", ["convert", "-U", "-f", from, "-O", "qcow2", firmware, part.in(MEMBER.firmware)], signal);
}

/** What the stack file says of the volume. One that is broken, or no longer has the VM, is no reason not to back it up. */
export async function declared(context: Context, name: string): Promise<Partial<Manifest["persist"]>> {
  try {
    const found = (await context.plan()).vms.find((one) => one.name === name);
    if (!found?.persist) return {};
    const { mount, fs: kind, label } = found.persist;
    return { rootMode: found.rootMode, mount, fs: kind, label };
  } catch (error) {
    if (error instanceof CliError) return {};
    throw error;
  }
}

export function versionOf(root: string): string {
  const { version } = JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8")) as { version: string };
  return version;
}

/** Nothing of it is left. */
function drop({ journal, volume }: Subject, part: Part): void {
  part.remove();
  const copy = journal.current.copy;
  if (copy !== undefined && copy !== volume) fs.rmSync(copy, { force: true });
  journal.set({ archive: undefined, copy: undefined });
}

async function write(
  context: Context,
  subject: Subject,
  part: Part,
  head: Head,
  done: Frame[],
  options: BackupOptions,
): Promise<BackupResult> {
  const { manifest, sources } = head;
  const total = sources.reduce((sum, { bytes }) => sum + bytes, 0);
  const shown = bar(`${subject.name}: archive`, total, options.json);
  try {
    const record = (frame: Frame): Promise<void> => Promise.resolve(part.record(frame));
    const { signal } = context;
    const progress = (bytes: number): void => shown.at(bytes);
    const { bytes } = await writeArchive({ file: part.file, manifest, sources, done, record, progress, signal });
    if (sources.some(({ path: file, stamp }) => stampOf(file) !== stamp))
      throw new SourceChanged("the volume was written to");
    part.finish();
    drop(subject, part);
    const { vm, created, quiesced, members } = manifest;
    return { vm, archive: part.archive, bytes, created, quiesced, members };
  } catch (error) {
    shown.stop();
    if (error instanceof SourceChanged) {
      drop(subject, part);
      throw error;
    }
    const { copy } = subject.journal.current;
    const cost =
      copy && fs.existsSync(copy)
        ? `; until then ${roughSize(allocatedBytes(copy))} of its pool are taken by ${copy}`
        : "";
    const resume = `"nixvm backup ${subject.name} --resume" goes on with ${part.file}${cost}`;
    if (error instanceof Cancelled) throw new Interrupted(`broken off; ${resume}`);
    throw new CliError(`${subject.name}: ${(error as Error).message}; ${resume}`);
  } finally {
    shown.stop();
  }
}
