import { look } from "./agent";
import { Clock, systemClock } from "./clock";
import { machineOf } from "./domainXml";
import { forEach } from "./parallel";
import { isTestDriver } from "./testDriver";
import { Libvirt, LibvirtError, Virsh } from "./virsh";

/** A VM of the plan, as far as it takes to find it. */
export interface WantedVm {
  name: string;
  /** Name of its domain. */
  domain: string;
  /** URI of its host. */
  uri: string;
  /** SHA-256 of the content of its image. */
  digest: string;
}

/** What is there of a VM; the planner's `CurrentVm`. */
export interface FoundVm {
  running: boolean;
  /** First 12 hex digits of the digest of what it boots from; absent when that is no overlay of ours. */
  imageDigest?: string;
  /** Asked only when it runs on another image than the wanted one. */
  healthy?: boolean;
}

/** What it takes to look. */
export interface FactsDeps {
  libvirt: (uri: string) => Libvirt;
  clock: Clock;
}

const real: FactsDeps = { libvirt: (uri) => new Virsh(uri), clock: systemClock };

/**
 * Finds out which VMs of the plan are there, on which images, and of those that would be changed whether they are healthy. VMs that
 * are not in the answer are not there. Nothing is known of VMs on libvirt's test driver, which runs no guests.
 */
export async function fleetFacts(
  wanted: readonly WantedVm[],
  { libvirt, clock }: FactsDeps = real,
): Promise<Record<string, FoundVm>> {
  const vms = wanted.filter(({ uri }) => !isTestDriver(uri));
  const uris = [...new Set(vms.map(({ uri }) => uri))];
  const lists = await forEach(uris, (uri) => libvirt(uri).domains());
  const there = vms.flatMap((vm) => {
    const domain = lists[uris.indexOf(vm.uri)]?.find(({ name }) => name === vm.domain);
    return domain === undefined ? [] : [{ ...vm, uuid: domain.uuid }];
  });
  const found = await forEach(there, async (vm) => [vm.name, await lookAt(vm, libvirt(vm.uri), clock)] as const);
  return Object.fromEntries(found);
}

async function lookAt(vm: WantedVm & { uuid: string }, libvirt: Libvirt, clock: Clock): Promise<FoundVm> {
  const xml = await libvirt.xml(vm.uuid);
  const machine = machineOf(xml);
  // Only what runs has an id. A chassis without a boot disk has never been a guest.
  const running = /^\s*<domain\b[^>]*\sid=/.test(xml) && machine?.bootPath !== undefined;
  const imageDigest = digestOf(machine?.bootPath ?? "", vm.domain);
  const found: FoundVm = { running, ...(imageDigest === undefined ? {} : { imageDigest }) };
  if (!running || vm.digest.startsWith(imageDigest ?? "none")) return found;
  return { ...found, healthy: await isHealthy(vm.uuid, libvirt, clock) };
}

/** Of the file name that the planner gives overlays: what the domain is called, the image's digest, and what tells two of them apart. */
export function digestOf(path: string, domain: string): string | undefined {
  const file = path.slice(path.lastIndexOf("/") + 1);
  if (!file.startsWith(`${domain}-`)) return undefined;
  return /^([0-9a-f]{12})-[0-9A-Za-z]{1,32}\.qcow2$/.exec(file.slice(domain.length + 1))?.[1];
}

async function isHealthy(uuid: string, libvirt: Libvirt, clock: Clock): Promise<boolean> {
  try {
    const seen = await look(libvirt, uuid, clock, new AbortController().signal);
    // An image without our contract has no record.
    return seen.status?.healthy ?? (seen.system === "running" || seen.system === "degraded");
  } catch (error) {
    // An agent that is silent, or a guest that has just gone; that libvirt does not answer is another matter.
    if (error instanceof LibvirtError && (error.kind === "agent" || error.kind === "failed")) return false;
    throw error;
  }
}
