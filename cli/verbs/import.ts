import { existsSync, writeFileSync } from "node:fs";
import * as path from "node:path";
import type { Command } from "commander";
import { NAME_ALLOWED, NAME_PATTERN } from "../../components/plan/text";
import { withFolder } from "../../provider/folder";
import { mustBeFree, mustHaveRoom, PoolOf } from "../adopt";
import type { Context } from "../context";
import { CliError, Interrupted, wrongInput, wrongState } from "../errors";
import { nameOf } from "../fleet";
import { copyOut, fit, type Fitted, type ForeignDisk, inspectDisk, pack } from "../foreignDisk";
import { HOST_KEY } from "../foreignVar";
import { type ImportPlan, planImport } from "../importPlan";
import { describeImport, type ImportReport } from "../importReport";
import { ImportWork } from "../importWork";
import { readMachine } from "../machineDir";
import { findDisk, readFolder } from "../machineFolder";
import { PulumiFailed } from "../pulumi";
import { encrypted } from "../secret";
import type { StackFile } from "../stackFile";
import { type Answer, does, verb } from "../verb";

interface Options {
  disk?: string;
  name?: string;
  image?: string;
  host?: string;
  network?: string;
  newIdentity: boolean;
  yes: boolean;
}

/** `nixvm import`: takes over a VM of nixos-vm-template, with its data and identity, and leaves the original as it was (T-88). */
export function addImport(program: Command): void {
  const command = verb(
    program,
    "import <directory>",
    "take over a VM of nixos-vm-template: its machine config directory becomes a VM of the stack, its data a copy",
  )
    .option("--disk <file>", "its data disk; default: var.qcow2 where nixos-vm-template keeps it")
    .option("--name <vm>", "name of the new VM; default: that of the directory")
    .option("--image <name>", "image that it boots; default: the stack's")
    .option("--host <name>", "host of the stack file that it runs on; default: the stack's")
    .option("--network <how>", "as in the stack file, such as nat:lan or bridge:br0; default: what the machine has")
    .option("--new-identity", "as a VM of its own: another UUID, MAC address, machine-id and SSH host key", false)
    .option("--yes", "do not ask", false);
  does<Options, [string]>(command, (context, options, directory) => importVm(context, directory, options));
}

async function importVm(context: Context, directory: string, options: Options): Promise<Answer> {
  const folder = context.path(directory);
  const files = readFolder(folder);
  const { machine, left } = readMachine(files);
  const name = options.name ?? path.basename(folder);
  if (!NAME_PATTERN.test(name)) throw wrongInput("--name", name, "is not a name for a VM", NAME_ALLOWED);

  const stackFile = await context.stackFile();
  const work = ImportWork.open(context.root, await context.stack(), name);
  if (stackFile.has(["nixvm:fleet", name])) return finish(context, work, name);

  const disk = options.disk === undefined ? findDisk(folder, files) : context.path(options.disk);
  if (!existsSync(disk)) throw wrongInput("--disk", disk, "does not exist", "the path of the machine's var.qcow2");
  const there = await withFolder((folder) => inspectDisk(disk, folder, context.signal));
  const { network, image, host, newIdentity } = options;
  const planned = await planImport(context, machine, files, {
    ...{ name, newIdentity, diskBytes: there.diskBytes },
    ...(image === undefined ? {} : { image }),
    ...(host === undefined ? {} : { host }),
    ...(network === undefined ? {} : { network }),
  });
  const target = await lookAtHost(context, work, planned, there.neededBytes);

  const { vm, persistBytes } = planned;
  const report: ImportReport = {
    ...{ name, directory: folder, disk, image: vm.image, host: vm.host, persistBytes },
    carried: planned.carried,
    left: [...left, ...planned.left].sort((a, b) => (a.file < b.file ? -1 : 1)),
    notes: planned.warnings,
  };
  context.note(describeImport(report));
  if (!(await context.confirm(`Import ${name}? The original stays as it is.`, options.yes))) {
    return { json: { name, imported: false }, text: "Nothing was done." };
  }
  if (target.leftover) {
    context.note(`removing what an import that was broken off has left of ${target.volume}`);
    await target.pool.remove(target.volume);
  }
  const copy = (): Promise<Fitted> =>
    copyOf(context, there, work, planned, { newIdentity, keyInDirectory: machine.hostKey === true, keyFolder: folder });
  await takeOver(context, stackFile, work, planned, target, report, copy);
  await bringUp(context, name, planned.shared, work);
  return { json: { ...report, imported: true }, text: `${describeImport(report)}\n${ended(name, vm.running)}` };
}

const ended = (name: string, running: boolean): string =>
  `${name} is imported${running ? ", and runs" : "; the stack's defaults say that it is off"}.`;

/** Where the volume goes. */
interface Target {
  pool: PoolOf;
  volume: string;
  /** There is none yet. */
  poolMissing: boolean;
  /** There is the volume of an import that was broken off, and of nothing else. */
  leftover: boolean;
}

/** All that can be in the way on the host, before anything is done. */
async function lookAtHost(context: Context, work: ImportWork, planned: ImportPlan, needed: number): Promise<Target> {
  const { vm, host } = planned;
  const volume = vm.persist?.volumeName ?? "";
  await mustBeFree(context.libvirt(host.uri), vm, host.uri);
  const pool = new PoolOf(host, context.signal);
  const free = await pool.free();
  if (free === undefined && !host.pool.create) {
    throw wrongState(`the pool ${host.pool.name} of ${host.uri} does not exist, and the stack does not make it`);
  }
  const there = free !== undefined && (await pool.has(volume));
  const leftover = there && work.former()?.volume === volume && (await pool.isBeginningOf(volume, work.volumeFile));
  if (there && !leftover) {
    throw wrongState(
      `the pool ${host.pool.name} of ${host.uri} has a volume ${volume} already, with data of a former ${vm.name}: ` +
        `give another --name, or, if nobody needs that data, remove it with "virsh -c ${host.uri} vol-delete --pool ${host.pool.name} ${volume}"`,
    );
  }
  const spaces = { name: host.pool.name, ...(free === undefined ? {} : { free }) };
  mustHaveRoom(needed, { folder: context.root, free: work.free() }, spaces);
  return { pool, volume, poolMissing: free === undefined, leftover };
}

/** The volume, as a file in `work`. */
async function copyOf(
  context: Context,
  disk: ForeignDisk,
  work: ImportWork,
  { vm, persistBytes }: ImportPlan,
  want: { newIdentity: boolean; keyInDirectory: boolean; keyFolder: string },
): Promise<Fitted> {
  const raw = work.file("persist.raw");
  context.note(`copying ${disk.file}`);
  const notes = await copyOut(disk, raw, context.signal);
  const accounts = vm.accounts.map((account) => account.name);
  const fitted = await fit(disk, raw, vm.persist?.label ?? "", { ...want, accounts }, context.signal);
  await pack(raw, work.volumeFile, persistBytes, context.signal);
  return { ...fitted, notes: [...notes, ...fitted.notes] };
}

/** Data first, then the stack file: what declares the VM finds its volume there. Broken off before that, nothing of it stays. */
async function takeOver(
  context: Context,
  stackFile: StackFile,
  work: ImportWork,
  planned: ImportPlan,
  { pool, volume, poolMissing }: Target,
  report: ImportReport,
  copy: () => Promise<Fitted>,
): Promise<void> {
  const { host, entry, rootPasswordHash } = planned;
  let placed = false;
  let done = false;
  work.begin(volume);
  try {
    const { notes, hostKey, keyFrom } = await copy();
    report.notes.push(...notes);
    if (hostKey !== undefined) report.sshHostKey = hostKey;
    if (keyFrom !== undefined) report.carried.push({ file: keyFrom, to: `/var/lib/identity/${HOST_KEY}` });
    const secret =
      rootPasswordHash === undefined ? {} : { rootPasswordHash: await encrypted(context, stackFile, rootPasswordHash) };
    stackFile.set(["nixvm:fleet", report.name], { ...entry, ...secret });
    if (poolMissing) await makePool(context, stackFile, work, planned.forPool);
    context.note(`bringing the data into the pool ${host.pool.name}`);
    await pool.place(volume, work.volumeFile, planned.persistBytes);
    placed = true;
    if (context.signal.aborted) throw new Interrupted();
    work.declared(volume, planned.shared);
    stackFile.save();
    done = true;
    work.dropCopy();
  } finally {
    if (!done) {
      if (placed) await pool.remove(volume);
      work.remove();
    }
  }
}

/** Goes on with an import of which only the last step is missing. */
async function finish(context: Context, work: ImportWork, name: string): Promise<Answer> {
  const former = work.former();
  if (former?.phase !== "declared") {
    throw wrongInput("--name", name, "is a VM of this stack already", "another name");
  }
  context.note(`${name} is declared and its data in its place: the import that was broken off goes on`);
  await bringUp(context, name, former.shared ?? [], work);
  return { json: { name, imported: true }, text: `${name} is imported.` };
}

async function bringUp(context: Context, name: string, shared: readonly string[], work: ImportWork): Promise<void> {
  try {
    await context.up([name], ...(await targetsOf(context, shared)));
  } catch (error) {
    if (!(error instanceof PulumiFailed)) throw error;
    throw new CliError(
      `${name} is declared and its data in its place, but it did not come up: ${error.message}; ` +
        "once that is put right, the same import or `pulumi up` goes on with it",
    );
  }
  work.remove();
}

/** With what the stack file will be: as it is now it may be no fleet yet. */
async function makePool(
  context: Context,
  stackFile: StackFile,
  work: ImportWork,
  names: readonly string[],
): Promise<void> {
  const copy = work.file("Pulumi.import.yaml");
  writeFileSync(copy, stackFile.text(), { mode: 0o600 });
  await context.up([], "--config-file", copy, ...(await targetsOf(context, names)));
}

/** Of resources that are not there yet: those that are, are none of our business, whatever else is to be changed in them. */
async function targetsOf(context: Context, names: readonly string[]): Promise<string[]> {
  const there = new Set((await context.resources()).map(({ urn }) => nameOf(urn)));
  return names.filter((name) => !there.has(name)).flatMap((name) => ["--target", `**::${name}`]);
}
