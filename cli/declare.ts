import * as path from "node:path";
import type { ImageSource } from "../components/images";
import { resolveImages } from "../components/images";
import * as plan from "../components/plan";
import type { Context } from "./context";
import { type Edited, newWarnings } from "./editedPlan";
import { CliError, EXIT, wrongState } from "./errors";
import { type FleetVm, nameOf, type StateResource } from "./fleet";
import { PulumiFailed } from "./pulumi";

/** The VM in a plan. One that is absent has none. */
export function planned(of: plan.Plan, vm: string): plan.VmPlan {
  const found = of.vms.find(({ name }) => name === vm);
  if (found) return found;
  throw wrongState(`${vm} is absent: "nixvm create ${vm}" brings it back as the same VM`, { field: "vm", value: vm });
}

/** A declared VM that the last run has made. */
export async function made(context: Context, vm: string): Promise<FleetVm> {
  const found = (await context.vms()).find(({ name }) => name === vm);
  if (found) return found;
  const message = `${vm} is in the stack file and was not made yet: "nixvm create ${vm}" or "pulumi up" makes it`;
  throw wrongState(message, { field: "vm", value: vm });
}

/** What libvirt has of the VMs' disks, so that a smaller one is refused before anything is written (T-62). */
export async function currentDisks(context: Context): Promise<Record<string, plan.CurrentVm>> {
  const resources = await context.resources();
  const vms = await context.vms();
  return Object.fromEntries(
    vms.map(({ name, persistBytes }) => [
      name,
      { ...(persistBytes === undefined ? {} : { persistBytes }), generation: generationOf(resources, name) ?? 0 },
    ]),
  );
}

/** Generation of the disks that the state has. */
export function generationOf(resources: readonly StateResource[], vm: string): number | undefined {
  const volume = volumeOf(resources, vm);
  if (volume === undefined) {
    const overlay = resources.find(
      ({ type, urn, delete: going }) =>
        type === "nixvm:index:OverlayDisk" && !going && urn.includes(`::${vm}-overlay-`),
    );
    const generation = overlay?.inputs?.["generation"];
    return typeof generation === "number" ? generation : undefined;
  }
  const name = volume.inputs?.["name"];
  return Number(/-persist-g([0-9]+)$/.exec(typeof name === "string" ? name : "")?.[1] ?? 0);
}

/** The persistent volume of a VM in the state. */
export function volumeOf(resources: readonly StateResource[], vm: string): StateResource | undefined {
  return resources.find((one) => one.delete !== true && one.urn.endsWith(`::${vm}-persist-volume`));
}

/** Says what an edit brings that is allowed, but likely not meant. */
export function noteWarnings(context: Context, before: plan.Plan, after: plan.Plan): void {
  for (const line of newWarnings(before, after)) context.note(`warning: ${line}`);
}

/** Writes the stack file and makes it so for some VMs. What fails says in what state the file is. */
export async function saveAndUp(context: Context, edited: Edited, vms: string[], ...more: string[]): Promise<void> {
  edited.file.save();
  try {
    await context.up(vms, ...more);
  } catch (error) {
    if (!(error instanceof PulumiFailed)) throw error;
    const file = path.basename(edited.file.file);
    throw new CliError(
      `pulumi up did not get through (exit code ${error.code}; what it said is above). ${file} has the change, and the same command or "pulumi up" goes on from here`,
      context.signal.aborted ? EXIT.interrupted : EXIT.failed,
    );
  }
}

/** `--target` for what a VM shares with others, needs before it can be, and the state does not have yet. */
export async function sharedTargets(context: Context, edited: Edited, vm: plan.VmPlan): Promise<string[]> {
  const { host } = vm;
  const bases = (await imageDigest(context, edited, vm)).map((digest) => `base-${host}-${digest}`);
  const own = await missing(context, ["fleet", "fleet-key", `host-${host}`, `pool-${host}`, ...bases]);
  return [...own, ...(await networkTargets(context, vm))];
}

/** The same for its network alone. */
export function networkTargets(context: Context, { network }: plan.VmPlan): Promise<string[]> {
  return missing(context, network.mode === "nat" && network.entry !== null ? [`network-${network.entry}`] : []);
}

async function missing(context: Context, shared: readonly string[]): Promise<string[]> {
  const there = new Set((await context.resources()).map(({ urn }) => nameOf(urn)));
  return shared
    .filter((name) => !there.has(name))
    .flatMap((name) => [`**::${name}`, ...(/^(base|network)-/.test(name) ? [`**::${name}-*`] : [])])
    .flatMap((urn) => ["--target", urn]);
}

/** The image a VM is to boot, found, and the plan found good with what is known of it. One that is on the hosts by its digest is there. */
async function imageDigest(context: Context, edited: Edited, vm: plan.VmPlan): Promise<string[]> {
  const source = (edited.config().images as Record<string, ImageSource>)[vm.image];
  if (source === undefined || source.digest !== undefined) return [];
  const { images, problems } = await resolveImages(
    { [vm.image]: source },
    { projectDir: context.root, cacheDir: path.join(context.root, ".nixvm", "cache"), history: [] },
  );
  if (problems.length > 0) throw new CliError(plan.formatProblems(problems), EXIT.input);
  await edited.plan({ images });
  return Object.values(images).map(({ digest }) => plan.digest12(digest));
}
