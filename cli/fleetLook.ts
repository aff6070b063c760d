import { systemClock } from "../provider/clock";
import { readHistory } from "../components/plan";
import { type Context } from "./context";
import { type FleetVm, type StateResource } from "./fleet";
import { groupsIn } from "./groups";
import { quickLibvirt } from "./quick";
import { rowOf, type StatusRow } from "./statusRow";
import { bootPathOf, lookAtAll, overlayTimes, type VmFacts } from "./vmFacts";

/** What is there of a fleet, at one moment. */
export interface FleetLook {
  facts: VmFacts[];
  rows: StatusRow[];
}

/** Versions of the images that the stack knows, by the first 12 digits of their digests. */
export function versionsOf(resources: readonly StateResource[]): Map<string, string> {
  return new Map(
    historyOf(resources).flatMap(({ digest, version }) => (version ? [[digest.slice(0, 12), version]] : [])),
  );
}

/** The stack's own output of the images that it has and keeps. */
export function historyOf(resources: readonly StateResource[]): ReturnType<typeof readHistory> {
  return readHistory(resources.find(({ type }) => type === "pulumi:pulumi:Stack")?.outputs?.["images"]);
}

/** Looks at VMs of the stack: state, libvirt and guests. */
export async function lookAtFleet(context: Context, vms: readonly FleetVm[]): Promise<FleetLook> {
  const [resources, groups] = [await context.resources(), await groupsIn(context)];
  const deps = { libvirt: quickLibvirt, clock: systemClock, signal: context.signal };
  const [times, versions] = [overlayTimes(resources), versionsOf(resources)];
  const facts = (await lookAtAll(vms, deps)).map((found): VmFacts => {
    const group = groups.get(found.vm.name);
    const imageSince = times.get(bootPathOf(found) ?? "");
    return { ...found, ...(group === undefined ? {} : { group }), ...(imageSince === undefined ? {} : { imageSince }) };
  });
  return { facts, rows: facts.map((one) => rowOf(one, versions)) };
}
