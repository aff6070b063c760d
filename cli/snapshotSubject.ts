import { basename } from "node:path";
import { imageOfOverlay } from "../provider/data";
import { held, look, type Look, roomFor } from "../provider/dataSnapshot";
import { machineOf } from "../provider/domainXml";
import { formatBytes } from "../provider/parse";
import { run as realRun, type Run } from "../provider/run";
import { isTestDriver } from "../provider/testDriver";
import { type Virsh } from "../provider/virsh";
import { VirshVolumes } from "../provider/volumes";
import type { Context } from "./context";
import { CliError, wrongInput, wrongState } from "./errors";
import type { FleetVm } from "./fleet";
import { type CliDeps, depsFor } from "./lifecycle";
import { Nvram, nvramPath } from "./nvram";
import { copyName, listed, type Listed, readCopyName } from "./snapshotNames";
import { type Stillness, whileQuiet } from "./quiet";

/** How its VM is: `on` runs, `halted` has a QEMU and does not run. */
export type Power = "on" | "halted" | "off";

/** Files and tools of one VM that has snapshots, or could have. */
export interface SubjectParts {
  readonly vm: Pick<FleetVm, "name" | "uuid" | "imageDigest">;
  readonly persistPath: string;
  /** Never cancelled: each step comes to its end, and between steps the verb looks at Ctrl-C itself. */
  readonly deps: Pick<CliDeps, "disks" | "signal" | "warn"> & { readonly libvirt: Virsh };
  readonly volumes: Pick<VirshVolumes, "names" | "poolOf" | "content" | "write" | "remove">;
  readonly nvram: Pick<Nvram, "read" | "write">;
}

/** What is needed of a verb's context to find a VM. */
export type SubjectContext = Pick<Context, "vm" | "libvirt" | "note" | "signal">;

/** What a snapshot was taken in. */
export interface Taken {
  how: Stillness | "off";
  /** How long the guest kept still. */
  ms: number;
}

/** The persistent volume of a VM, and nothing else of it: not its root, not its scratch disk, not its base image (T-17, T-66, E-35). */
export class Subject {
  readonly vm: SubjectParts["vm"];
  readonly path: string;
  readonly deps: SubjectParts["deps"];

  constructor(private readonly parts: SubjectParts) {
    this.vm = parts.vm;
    this.path = parts.persistPath;
    this.deps = parts.deps;
  }

  static async of(context: SubjectContext, name: string, run: Run = realRun): Promise<Subject> {
    const vm = await context.vm(name);
    if (isTestDriver(vm.uri)) throw wrongState(`${name} is on libvirt's test driver, where disks hold nothing`);
    if (vm.persistPath === undefined) {
      throw wrongInput("vm", name, "has no persistent volume", "a VM whose persist is not false");
    }
    return new Subject({
      vm,
      persistPath: vm.persistPath,
      deps: depsFor(context, vm.uri, name, new AbortController().signal, run),
      volumes: new VirshVolumes(vm.uri, run),
      nvram: new Nvram(vm.uri, run),
    });
  }

  look(): Promise<Look> {
    return look(this.path, this.deps);
  }

  async list(): Promise<Listed[]> {
    return listed(basename(this.path), await this.look(), await this.files());
  }

  /** @throws CliError for a VM that has no domain, or is on its way off. */
  async power(): Promise<Power> {
    const { libvirt } = this.deps;
    if (!(await libvirt.domains()).some(({ uuid }) => uuid === this.vm.uuid)) {
      throw wrongState(`${this.vm.name} has no domain on its host; run "pulumi up" first`);
    }
    const { state } = await libvirt.state(this.vm.uuid);
    if (state === "in shutdown") throw wrongState(`${this.vm.name} is shutting down; try again when it is off`);
    if (state === "shut off" || state === "crashed") return "off";
    return state === "running" || state === "idle" || state === "blocked" ? "on" : "halted";
  }

  /** @throws CliError when what is overwritten after a snapshot may not have room in the pool. */
  async checkRoom(): Promise<void> {
    const { pool, freeBytes, neededBytes } = await roomFor(this.path, this.deps);
    if (freeBytes >= neededBytes) return;
    throw wrongState(
      `the pool ${pool} has ${formatBytes(freeBytes)} free, and up to ${formatBytes(neededBytes)} are needed to keep ` +
        `what is overwritten of ${this.path} after a snapshot; delete snapshots, or make room in the pool`,
    );
  }

  /**
   * Takes a snapshot of the data, and with `uefi` of the UEFI variables: both as they were at one moment, or none of them. A guest
   * that runs keeps still for that moment. `aborted`: asked before the end.
   */
  async take(name: string, uefi: boolean, aborted: () => void = () => undefined): Promise<Taken> {
    const power = await this.power();
    if (await this.has(name))
      throw wrongInput("name", name, `is a snapshot of ${this.vm.name} already`, "another name");
    const store = uefi ? await this.store(power) : undefined;
    try {
      for (let tries = 1; ; tries++) {
        const before = store && (await this.parts.nvram.read(store.path));
        if (store && before) await this.writeCopy(store.image, name, before);
        const taken = await this.takeDisk(name, power);
        const after = store && (await this.parts.nvram.read(store.path));
        aborted();
        if (before === after || (before && after && before.equals(after))) {
          await this.mustHave(name);
          return taken;
        }
        if (tries === 5) throw new CliError(`the UEFI variables of ${this.vm.name} change all the time`);
        await this.removeDisk(name, power);
      }
    } catch (error) {
      // One of that name which another run has taken meanwhile is not ours to remove.
      if (!/already exists/.test((error as Error).message)) await this.undo(name, power);
      throw error;
    }
  }

  /** Deletes a snapshot and its copy of the UEFI variables. */
  async remove(name: string): Promise<void> {
    await this.removeDisk(name, await this.power());
    // libvirt holds one that it could not delete for deleted.
    if (await this.has(name)) throw new CliError(`${name} of ${this.vm.name} could not be deleted`);
    await this.removeCopies(name);
  }

  /** Puts the data, and UEFI variables where there are some, back to a snapshot. The VM is off. A disk that has grown since stays so. */
  async revert(name: string): Promise<void> {
    const now = await this.look();
    const wanted = now.snapshots.find((saved) => saved.name === name);
    await held({ uuid: this.vm.uuid, persistPath: this.path }, this.deps, (holder) => holder.restore(name));
    if ((wanted?.diskBytes ?? now.diskBytes) < now.diskBytes) {
      await this.deps.libvirt.volumeResize(this.path, now.diskBytes);
    }
    const copy = (await this.files()).find((file) => readCopyName(basename(this.path), file)?.snapshot === name);
    const to = copy && (await nvramPath(await this.deps.libvirt.definition(this.vm.uuid), this.deps.libvirt));
    if (to) await this.parts.nvram.write(to, await this.readCopy(copy));
  }

  async has(name: string): Promise<boolean> {
    return (await this.look()).snapshots.some((saved) => saved.name === name);
  }

  /** Where the UEFI variables are, and under which image they were written last. */
  private async store(power: Power): Promise<{ path: string; image: string } | undefined> {
    const { libvirt } = this.deps;
    const xml = power === "off" ? await libvirt.definition(this.vm.uuid) : await libvirt.xml(this.vm.uuid);
    const path = await nvramPath(xml, libvirt);
    return path === undefined
      ? undefined
      : { path, image: imageOfOverlay(machineOf(xml)?.bootPath) ?? this.vm.imageDigest };
  }

  private async takeDisk(name: string, power: Power): Promise<Taken> {
    if (power === "off") {
      await held({ uuid: this.vm.uuid, persistPath: this.path }, this.deps, (holder) => holder.take(name));
      return { how: "off", ms: 0 };
    }
    const { libvirt, warn } = this.deps;
    const device = await this.node();
    const take = (): Promise<unknown> =>
      libvirt.monitor(this.vm.uuid, { execute: "blockdev-snapshot-internal-sync", arguments: { device, name } });
    if (power === "halted") {
      await take();
      return { how: "still", ms: 0 };
    }
    const { how, ms } = await whileQuiet(this.vm.uuid, libvirt, warn, take);
    return { how, ms };
  }

  private async removeDisk(name: string, power: Power): Promise<void> {
    if (power === "off") {
      await held({ uuid: this.vm.uuid, persistPath: this.path }, this.deps, (holder) => holder.remove(name));
      return;
    }
    await this.deps.libvirt.monitor(this.vm.uuid, {
      execute: "blockdev-snapshot-delete-internal-sync",
      arguments: { device: await this.node(), name },
    });
  }

  /** QEMU's name of the disk: libvirt has no call for a snapshot of one disk without memory where there is UEFI. */
  private async node(): Promise<string> {
    const nodes = (await this.deps.libvirt.monitor(this.vm.uuid, {
      execute: "query-named-block-nodes",
      arguments: { flat: true },
    })) as Array<{ "node-name"?: string; drv?: string; file?: string }>;
    const found = nodes.find(({ drv, file }) => drv === "qcow2" && file === this.path)?.["node-name"];
    if (found === undefined) throw wrongState(`${this.path} is no qcow2 disk of ${this.vm.name} as it runs now`);
    return found;
  }

  /** After a failure: nothing is left of a snapshot that is not whole. */
  private async undo(name: string, power: Power): Promise<void> {
    try {
      if (await this.has(name)) await this.removeDisk(name, power);
      await this.removeCopies(name);
    } catch (error) {
      this.deps.warn(`a part of the snapshot ${name} may be left: ${(error as Error).message}`);
    }
  }

  private async mustHave(name: string): Promise<void> {
    if (!(await this.has(name))) throw new CliError(`the snapshot ${name} was taken, but is not in ${this.path}`);
  }

  private async files(): Promise<string[]> {
    return this.parts.volumes.names(await this.pool());
  }

  private async writeCopy(image: string, name: string, content: Buffer): Promise<void> {
    await this.removeCopies(name);
    const { volumes } = this.parts;
    await volumes.write(await this.pool(), copyName(basename(this.path), image, name), content);
  }

  private async readCopy(file: string): Promise<Buffer> {
    return this.parts.volumes.content(await this.pool(), file);
  }

  private async removeCopies(name: string): Promise<void> {
    const all = await this.files();
    for (const file of all.filter((one) => readCopyName(basename(this.path), one)?.snapshot === name)) {
      await this.parts.volumes.remove(await this.pool(), file);
    }
  }

  private pool(): Promise<string> {
    return this.parts.volumes.poolOf(this.path);
  }
}
