import { isHere, resolveImages } from "../components/images";
import { hostFacts, machineDefaults } from "../components/machine";
import * as plan from "../components/plan";
import { cacheDirOf, imageSources, wantedVms } from "../components/prepare";
import { systemClock } from "../provider/clock";
import { fleetFacts } from "../provider/facts";
import { LibvirtError } from "../provider/virsh";
import { type Context } from "./context";
import { CliError } from "./errors";
import { historyOf } from "./fleetLook";
import { causeOf, quickLibvirt } from "./quick";

/** A wave of what the next `pulumi up` would do. */
export interface PendingWave {
  kind: plan.WaveKind;
  group?: string;
  vms: readonly string[];
  lanes: number;
}

/** What the stack file asks for and is not there yet; or why that cannot be told. */
export type Pending = { waves: PendingWave[] } | { unknown: string };

/**
 * VMs that are not there yet, and those that are on another image than the stack file's: what a rollout is about. `settled`: those that are
 * there as they are to be, also when they are off, for which nobody has to wait in any run.
 */
export function pendingWaves(waves: readonly plan.Wave[], settled: ReadonlySet<string>): PendingWave[] {
  return waves
    .filter(({ kind, changes }) => kind === "new" || changes)
    .map(({ kind, group, vms, lanes }) => {
      const left = kind === "new" ? vms.filter((vm) => !settled.has(vm)) : vms;
      return { kind, ...(group === null ? {} : { group }), vms: left, lanes: Math.min(lanes, left.length) };
    })
    .filter(({ vms }) => vms.length > 0);
}

/** Plans the next run as the program does, with what is there now. Downloads nothing. */
export async function pendingRollout(context: Context): Promise<Pending> {
  try {
    return await planned(context);
  } catch (error) {
    if (context.signal.aborted) throw error;
    if (error instanceof LibvirtError) return { unknown: `a host does not answer: ${causeOf(error)}` };
    if (error instanceof CliError) return { unknown: error.message };
    throw error;
  }
}

async function planned(context: Context): Promise<Pending> {
  const config = await context.config();
  const projectDir = context.root;
  const cacheDir = cacheDirOf(projectDir);
  const given = {
    project: "nixvm",
    stack: await context.stack(),
    defaults: machineDefaults(),
    hosts: hostFacts(config),
  };
  const first = must(plan.planFleet(config, given));
  const used = new Set(first.images.map(({ name }) => name));
  const sources = Object.fromEntries(Object.entries(imageSources(config)).filter(([name]) => used.has(name)));
  for (const [name, source] of Object.entries(sources)) {
    if (!(await isHere(source, cacheDir))) return { unknown: `image ${name} is not downloaded yet` };
  }
  const history = historyOf(await context.resources());
  const { images, problems } = await resolveImages(sources, { projectDir, cacheDir, history });
  if (problems.length > 0) return { unknown: plan.formatProblems(problems) };
  const second = must(plan.planFleet(config, { ...given, images }));
  const wanted = wantedVms(second, images);
  const current = await fleetFacts(wanted, { libvirt: quickLibvirt, clock: systemClock });
  const settled = wanted.filter(({ name, digest }) => digest.startsWith(current[name]?.imageDigest ?? "none"));
  const { waves } = must(plan.planFleet(config, { ...given, images, current }));
  return { waves: pendingWaves(waves, new Set(settled.map(({ name }) => name))) };
}

function must(result: plan.PlanResult): plan.Plan {
  if (!result.ok) throw new CliError(plan.formatProblems(result.problems));
  return result.plan;
}
