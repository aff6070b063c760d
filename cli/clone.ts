import { basename, dirname, join } from "node:path";
import * as plan from "../components/plan";
import { look, roomFor } from "../provider/dataSnapshot";
import { formatBytes } from "../provider/parse";
import { run as realRun, type Run } from "../provider/run";
import { VirshVolumes } from "../provider/volumes";
import type { Context } from "./context";
import { checkTemporary, withCopy, writeVolume } from "./cloneData";
import { cloneEntry, memberFields } from "./cloneEntry";
import { type Begun, CloneMark } from "./cloneStage";
import { CliError, Interrupted, wrongInput, wrongState } from "./errors";
import type { FleetVm } from "./fleet";
import { Subject, type SubjectContext } from "./snapshotSubject";
import type { StackFile } from "./stackFile";

/** What a clone came to. */
export interface Cloned {
  vm: string;
  source: string;
  running: boolean;
}

/** What is needed of a verb's context to make a VM. */
export type CloneContext = SubjectContext & Pick<Context, "vms" | "stackFile" | "plan" | "up">;

/** Where a VM is written in a stack file, the nearest first; undefined when it is not. */
export function writtenOf(file: StackFile, name: string): Array<Record<string, unknown>> | undefined {
  const at = (where: string[]): Record<string, unknown> => (file.get(where) ?? {}) as Record<string, unknown>;
  if (file.has(["nixvm:fleet", name])) return [at(["nixvm:fleet", name])];
  const [, group = "", n = ""] = /^(.+)-([1-9]\d*)$/.exec(name) ?? [];
  if (!file.has(["nixvm:groups", group]) || Number(at(["nixvm:groups", group])["count"]) < Number(n)) return undefined;
  // Members have numbers for keys, which a path of words would not find.
  const own = at(["nixvm:groups", group, "members"])[n] as Record<string, unknown> | null | undefined;
  return [own ?? {}, memberFields(at(["nixvm:groups", group]))];
}

/** Makes a VM of its own out of another one's data, in steps that a second run goes on with wherever the first was broken off. */
export class Clone {
  private constructor(
    private readonly context: CloneContext,
    private readonly source: Subject,
    private readonly name: string,
    private readonly file: StackFile,
    private readonly planned: plan.VmPlan,
    private readonly entry: Record<string, unknown>,
    private readonly mark: CloneMark,
    private readonly uri: string,
    private readonly run: Run,
  ) {}

  /** Looks at all that can be wrong before anything is touched. */
  static async of(context: CloneContext, from: string, name: string, run: Run = realRun): Promise<Clone> {
    if (!plan.NAME_PATTERN.test(name)) throw wrongInput("new", name, "cannot name a VM", plan.NAME_ALLOWED);
    const { uri } = await context.vm(from);
    const source = await Subject.of(context, from, run);
    const file = await context.stackFile();
    const written = writtenOf(file, from);
    const fleet = await context.plan();
    const planned = fleet.vms.find((vm) => vm.name === from);
    if (written === undefined || planned === undefined) {
      throw wrongState(`${from} is not in ${file.file} any more: there is nothing to copy its fields from`);
    }
    if (planned.persist?.fs === "zfs") {
      throw wrongState(
        `${from} keeps its data in a ZFS pool, which nixvm cannot give another identity; ext4 can be cloned`,
      );
    }
    const volumes = new VirshVolumes(uri, run);
    const pool = await volumes.poolOf(source.path);
    const volume = plan.persistVolumeName(fleet.prefix, name);
    const mark = new CloneMark(volumes, pool, volume);
    const clone = new Clone(context, source, name, file, planned, cloneEntry(written), mark, uri, run);
    const begun = await mark.read();
    if (begun !== undefined) {
      if (begun.source === from) return clone;
      throw wrongState(
        `${name} is being cloned from ${begun.source}; run "nixvm clone ${begun.source} ${name}" to finish that`,
      );
    }
    const names = new Set([...fleet.vms, ...(await context.vms())].map((vm) => vm.name));
    if (names.has(name)) throw wrongInput("new", name, "is a VM of this stack already", "another name");
    if ((await volumes.names(pool)).includes(volume)) {
      throw wrongState(
        `the volume ${join(dirname(source.path), volume)} is there from a former ${name}, with its data; delete it, or take another name`,
      );
    }
    await clone.checkRoom();
    return clone;
  }

  /** Whether the source is declared running; its clone is then too. */
  get running(): boolean {
    return this.planned.running;
  }

  async make(): Promise<Cloned> {
    const source = this.source.vm.name;
    const begun: Begun = (await this.mark.read()) ?? { stage: "new", source };
    if (begun.stage !== "start") {
      await this.source.power();
      await this.mark.write(begun);
      await this.declare();
      await this.fill(begun);
    }
    await this.turnOn();
    await this.mark.clear();
    return { vm: this.name, source, running: this.running };
  }

  private async checkRoom(): Promise<void> {
    const { pool, freeBytes, neededBytes } = await roomFor(this.source.path, this.source.deps);
    if (freeBytes < neededBytes) {
      throw wrongState(
        `the pool ${pool} has ${formatBytes(freeBytes)} free, and up to ${formatBytes(neededBytes)} are needed for the data of ${this.name}`,
      );
    }
    await checkTemporary(neededBytes);
  }

  /** The VM as an entry of the fleet, made and off. */
  private async declare(): Promise<void> {
    const where = ["nixvm:fleet", this.name];
    if (!this.file.has(where)) {
      this.file.set(where, this.entry);
      this.file.save();
      try {
        await this.context.plan();
      } catch (error) {
        this.file.restore();
        await this.mark.clear();
        throw error;
      }
      this.context.note(`${this.name}: declared in ${this.file.file}, off until its data is there`);
    }
    await this.up("has no data yet");
  }

  private async fill({ stage, source }: Begun): Promise<void> {
    const to = await this.target();
    const { deps } = this.source;
    if (stage === "new") {
      const { content, snapshots } = await look(to.persistPath, deps);
      const table = await deps.disks.read(to.persistPath, content);
      if (snapshots.length > 0 || table.some((byte) => byte !== 0)) {
        throw wrongState(
          `${to.persistPath} is not blank any more, and is not written over; take ${this.name} away and clone again`,
        );
      }
    }
    const snapshot = `nixvm-clone-${this.name}`;
    const release = (): Promise<void> => this.source.remove(snapshot);
    // Of a run that was killed.
    if (await this.source.has(snapshot)) await release();
    const { how, ms } = await this.source.take(snapshot, false, () =>
      this.stopIf("is declared and off, without its data"),
    );
    this.context.note(
      how === "off"
        ? `${source}: is off, its data is copied`
        : `${source}: ${how} for ${ms} ms, its data of that moment is copied`,
    );
    const mount = this.planned.persist && to.contract !== "none" ? this.planned.persist.mount : null;
    await withCopy(
      { uri: this.uri, from: this.source.path, snapshot, mount },
      async (file) => {
        this.stopIf("is declared and off, without its data");
        await this.target();
        await this.mark.write({ stage: "write", source });
        await writeVolume(this.uri, to.persistPath, file, this.run);
        if (!(await look(to.persistPath, deps)).content.bytes)
          throw new CliError(`${to.persistPath} has not taken the data`);
      },
      release,
      this.run,
    );
    await this.mark.write({ stage: "start", source });
  }

  /** The clone, which has to be off while its volume is written. */
  private async target(): Promise<FleetVm & { persistPath: string }> {
    const vm = await this.context.vm(this.name);
    const { persistPath } = vm;
    if (persistPath === undefined || basename(persistPath) === basename(this.source.path)) {
      throw wrongState(`${this.name} has no persistent volume of its own`);
    }
    const { state } = await this.source.deps.libvirt.state(vm.uuid);
    if (state !== "shut off") throw wrongState(`${this.name} is ${state}, and has to be off until its data is there`);
    return { ...vm, persistPath };
  }

  private async turnOn(): Promise<void> {
    const where = ["nixvm:fleet", this.name, "running"];
    // Read again: copying takes long, and others write to it too.
    const file = await this.context.stackFile();
    if (this.running && file.get(where) === false) {
      file.delete(where);
      file.save();
      // Where the defaults say no, the source has said yes itself.
      if ((await this.context.plan()).vms.find((vm) => vm.name === this.name)?.running === false) {
        file.set(where, true);
        file.save();
      }
    }
    await this.up("has its data");
    if (!this.running) return;
    const clone = await this.context.vm(this.name);
    const source = await this.context.vm(this.source.vm.name);
    const same = (["uuid", "machineId", "sshHostKey"] as const).filter(
      (key) => clone[key] && clone[key] === source[key],
    );
    if (same.length === 0) return;
    const again = await this.context.stackFile();
    again.set(where, false);
    again.save();
    await this.up("has its data");
    throw new CliError(
      `${this.name} came up with the ${same.join(" and ")} of ${source.name}, and is off again; its data is its own`,
    );
  }

  private async up(has: string): Promise<void> {
    this.stopIf(`is declared in ${this.file.file} and ${has}`);
    try {
      await this.context.up([this.name]);
    } catch (error) {
      this.context.note(`${this.name}: is declared in ${this.file.file} and ${has}; ${this.advice}`);
      throw error;
    }
  }

  private stopIf(state: string): void {
    if (!this.context.signal.aborted) return;
    throw new Interrupted(`broken off: ${this.name} ${state}; ${this.advice}`);
  }

  private get advice(): string {
    return `"nixvm clone ${this.source.vm.name} ${this.name}" goes on from there`;
  }
}
