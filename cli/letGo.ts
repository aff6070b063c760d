import { copyFile } from "node:fs/promises";
import * as path from "node:path";
import { withFolder } from "../provider/folder";
import type { Context } from "./context";
import { generationOf, volumeOf } from "./declare";
import { applyEdits, generationEdits, unprotectEdits } from "./edits";
import { CliError, EXIT, wrongState } from "./errors";
import { type FleetVm, nameOf, type StateResource } from "./fleet";
import type { Place } from "./place";
import { PulumiFailed } from "./pulumi";
import { StackFile } from "./stackFile";

/** Everything of a VM in the state, by what it is a part of. */
export function partsOf(resources: readonly StateResource[], vm: string): StateResource[] {
  const parents = new Map(resources.map(({ urn, parent }) => [urn, parent]));
  const isVm = (urn: string | undefined): boolean => {
    for (let at = urn; at !== undefined; at = parents.get(at)) {
      if (at.endsWith(`nixvm:index:VirtualMachine::${vm}`)) return true;
    }
    return false;
  };
  return resources.filter(({ urn }) => isVm(urn));
}

/** What of other VMs waits for this one: as long as the state says so, the engine keeps what is to be deleted. */
export function waitingFor(resources: readonly StateResource[], vm: string): StateResource[] {
  const parts = new Set(partsOf(resources, vm).map(({ urn }) => urn));
  return resources.filter((one) => {
    const dependencies = Array.isArray(one["dependencies"]) ? (one["dependencies"] as unknown[]) : [];
    return !parts.has(one.urn) && one.delete !== true && dependencies.some((urn) => parts.has(String(urn)));
  });
}

/** Leftovers of a run that was broken off: the next one deletes them. */
export function leftovers(resources: readonly StateResource[], vm: string): StateResource[] {
  return partsOf(resources, vm).filter((one) => one.delete === true);
}

/**
 * Makes Pulumi ready to delete a VM's data. Its stack file is left alone: protection is put down for one run, by a copy, and what a
 * broken-off verb leaves behind is a file that still says what is wanted, so the next `up` puts the protection back.
 */
export async function letGo(context: Context, file: StackFile, vm: string, place: Place): Promise<void> {
  const resources = await context.resources();
  const volume = volumeOf(resources, vm);
  if (volume === undefined || (volume["protect"] !== true && volume["retainOnDelete"] !== true)) return;
  await withCopy(file, async (copy) => {
    // As the volume is now, or this run would be the one that replaces it.
    const now = generationOf(resources, vm) ?? 0;
    applyEdits(copy, [{ where: [...place.where, "state"], value: "present" }, ...unprotectEdits(place)]);
    applyEdits(copy, generationEdits(place, now));
    copy.save();
    const targets = [`**::${vm}-persist`, `**::${vm}-persist-volume`].flatMap((urn) => ["--target", urn]);
    try {
      await context.up("all", "--config-file", copy.file, ...targets);
    } catch (error) {
      if (!(error instanceof PulumiFailed)) throw error;
      const message = `the protection of ${vm}'s data could not be put down (what Pulumi said is above); nothing was changed`;
      throw new CliError(message, context.signal.aborted ? EXIT.interrupted : EXIT.failed);
    }
  });
}

/**
 * Targets that take a VM's parts out of what other VMs wait for.
 *
 * @throws CliError when those have changes of their own waiting, which would come along.
 */
export async function detachTargets(context: Context, file: StackFile, vm: string): Promise<string[]> {
  const waiting = waitingFor(await context.resources(), vm);
  if (waiting.length === 0) return [];
  const targets = waiting.flatMap(({ urn }) => ["--target", urn]);
  const changes = await withCopy(file, async (copy) => {
    copy.save();
    const text = await context.pulumi(["preview", "--json", "--config-file", copy.file, ...targets]);
    return changesIn(text, new Set(waiting.map(({ urn }) => urn)));
  });
  if (changes.length === 0) return targets;
  const others = changes.map(nameOf).join(", ");
  throw wrongState(`other VMs have changes waiting that would come along (${others}): "pulumi up" them first`);
}

/** Resources that a preview would change, of some. */
export function changesIn(previewText: string, urns: ReadonlySet<string>): string[] {
  const { steps } = JSON.parse(previewText.slice(previewText.indexOf("{"))) as {
    steps?: { op: string; urn: string }[];
  };
  return (steps ?? []).filter(({ op, urn }) => op !== "same" && urns.has(urn)).map(({ urn }) => urn);
}

/** A copy of the stack file as it reads now; secrets in it are as encrypted as in the original. */
export function withCopy<Result>(file: StackFile, use: (copy: StackFile) => Promise<Result>): Promise<Result> {
  return withFolder(async (folder) => {
    const name = path.join(folder, path.basename(file.file));
    await copyFile(file.file, name);
    const copy = StackFile.open(name);
    copy.replace(file.text());
    return use(copy);
  });
}

/** What goes with a VM's disks, in words. */
export function lossOf(
  vm: Partial<Pick<FleetVm, "overlayPath" | "persistPath">> | undefined,
  hostKey: "guest" | "stack",
): string[] {
  if (vm === undefined) return [];
  const disk = vm.persistPath;
  return [
    ...(disk === undefined ? [] : [`all data on its persistent volume ${disk}`]),
    ...(disk === undefined ? [] : ["all snapshots in it"]),
    `its boot disk${vm.overlayPath === undefined ? "" : ` ${vm.overlayPath}`}, with what was changed there`,
    ...(disk === undefined || hostKey === "stack"
      ? []
      : ["its SSH host key, which was on that volume: the next one is another"]),
  ];
}

/** Makes sure that disks are gone from the host, whatever the engine believes. */
export async function checkGone(context: Context, vm: FleetVm, paths: readonly (string | undefined)[]): Promise<void> {
  const libvirt = context.libvirt(vm.uri);
  for (const disk of paths) {
    if (disk === undefined || disk === "" || !(await libvirt.hasVolume(disk))) continue;
    throw new CliError(
      `${disk} of ${vm.name} is still in the pool; "virsh -c ${vm.uri} vol-delete ${disk}" removes it`,
    );
  }
}
