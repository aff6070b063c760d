import { type Machine } from "../provider/domainXml";
import { digestOf } from "../provider/facts";
import { bootPathOf, isOn, type VmFacts } from "./vmFacts";

/** What of a VM is not as the state says. */
export type DriftKind = "gone" | "state" | "image" | "memory" | "vcpus";

export interface Drift {
  kind: DriftKind;
  /** A sentence without its subject, which is the VM. */
  text: string;
}

/** Where a VM differs from what the last run made of it; undefined when its host could not be asked. */
export function driftOf(facts: VmFacts): Drift[] | undefined {
  const { vm, domain, hostProblem, otherUuid } = facts;
  if (hostProblem !== undefined) return undefined;
  if (domain === undefined) {
    const other = otherUuid === undefined ? "" : `; domain ${vm.domain} there has UUID ${otherUuid} and is not ours`;
    return [{ kind: "gone", text: `its domain is not on host ${vm.host}${other}` }];
  }
  return [...stateDrift(facts), ...imageDrift(facts), ...shapeDrift(facts)];
}

function stateDrift({ vm, domain }: VmFacts): Drift[] {
  if (domain === undefined || isOn(domain.state) === vm.running) return [];
  const reason = domain.reason === "" || domain.reason === "unknown" ? "" : ` (${domain.reason})`;
  return [{ kind: "state", text: `is ${domain.state}${reason}, declared ${vm.running ? "running" : "shut off"}` }];
}

function imageDrift(facts: VmFacts): Drift[] {
  const { vm, domain, guest } = facts;
  const image = (text: string): Drift => ({ kind: "image", text });
  if (domain?.next === undefined) return [image("has a boot disk that is none of ours")];
  const found: Drift[] = [];
  const path = bootPathOf(facts);
  if (path !== vm.overlayPath) found.push(image(bootText("boots", path, vm)));
  const { now, next } = domain;
  // The boot disk of one that is off is told already.
  if (now !== undefined && next.bootPath !== now.bootPath && next.bootPath !== vm.overlayPath)
    found.push(image(bootText("at its next start boots", next.bootPath, vm)));
  const said = guest?.status?.imageId;
  if (said !== undefined && vm.imageId !== undefined && said !== vm.imageId)
    found.push(image(`says that it is image ${said}, the state says ${vm.imageId}`));
  return found;
}

function bootText(verb: string, path: string | undefined, vm: VmFacts["vm"]): string {
  if (path === undefined) return `${verb} from nothing: it was never given a boot disk`;
  const digest = digestOf(path, vm.domain);
  if (digest === undefined) return `${verb} from ${path}, which is no overlay of ours`;
  if (digest === vm.imageDigest) return `${verb} from another overlay of its image: ${path}`;
  return `${verb} image ${digest}, the state says ${vm.imageDigest}`;
}

function shapeDrift({ vm, domain }: VmFacts): Drift[] {
  const shape = (
    kind: "memory" | "vcpus",
    of: (machine: Machine) => number,
    declared: number,
    unit: string,
  ): Drift[] => {
    const [now, next] = [domain?.now, domain?.next].map((machine) => machine && Math.round(of(machine)));
    const texts: string[] = [];
    if (now !== undefined && now !== declared) texts.push(`has ${now}`);
    // What it has now is most often what it will have then.
    if (next !== undefined && next !== declared && next !== now) texts.push(`starts next with ${next}`);
    return texts.map((text) => ({ kind, text: `${text} ${unit}, declared ${declared}` }));
  };
  return [
    ...shape("memory", ({ memoryMiB }) => memoryMiB, vm.memoryMiB, "MiB of memory"),
    ...shape("vcpus", ({ vcpus }) => vcpus, vm.vcpus, "vCPUs"),
  ];
}
