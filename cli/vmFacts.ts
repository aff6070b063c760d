import { address } from "../provider/agent";
import { Cancelled, type Clock, orCancelled } from "../provider/clock";
import { type Machine, machineOf } from "../provider/domainXml";
import { forEach } from "../provider/parallel";
import { type DomainRef, type DomainState } from "../provider/parse";
import { isOwnWorld, isTestDriver } from "../provider/testDriver";
import { type Libvirt, LibvirtError } from "../provider/virsh";
import { type FleetVm, type StateResource } from "./fleet";
import { causeOf } from "./quick";
import { type Survey, survey } from "./survey";

/** A VM as the state, libvirt and its guest have it, at one moment. What nobody could say is left out. */
export interface VmFacts {
  vm: FleetVm;
  /** Group it is a member of in the stack file. */
  group?: string;
  /** When its overlay was made, that is since when it has its image: ISO 8601. */
  imageSince?: string;
  /** Epoch milliseconds of the look. */
  at: number;
  /** Why nothing could be asked of its host. */
  hostProblem?: string;
  /** Absent: its host does not have it, or could not be asked. */
  domain?: DomainFacts;
  /** UUID of a domain of its name that is somebody else's. */
  otherUuid?: string;
  guest?: Survey;
  /** Why a guest that runs has said nothing. */
  guestProblem?: string;
}

/** What libvirt has of a domain. */
export interface DomainFacts extends DomainState {
  /** What it runs as; only of one that is on. */
  now?: Machine;
  /** What its next start goes by; absent when its boot disk is none of ours. */
  next?: Machine;
}

/** What it takes to look. */
export interface LookDeps {
  libvirt: (uri: string) => Libvirt;
  clock: Clock;
  signal: AbortSignal;
}

/** Whether a domain is on, as a guest's agent could answer. */
export function isOn(state: string): boolean {
  return state === "running" || state === "idle" || state === "blocked";
}

/** Looks at all of them. */
export function lookAtAll(vms: readonly FleetVm[], deps: LookDeps): Promise<VmFacts[]> {
  return eachOnItsHost(
    vms,
    deps,
    (vm, domains) => lookAtOne(vm, domains, deps),
    (vm, hostProblem) => ({ vm, at: deps.clock.wall(), hostProblem }),
  );
}

/** The states of all of them in libvirt's words, in their order; guests are not asked. */
export function statesOf(vms: readonly FleetVm[], deps: LookDeps): Promise<string[]> {
  const unreachable = (cause: string): string => `host unreachable: ${cause}`;
  return eachOnItsHost(
    vms,
    deps,
    async ({ uri, uuid }, domains) => {
      if (!domains.some((domain) => domain.uuid === uuid)) return "gone";
      const found = await asked(deps, () => deps.libvirt(uri).state(uuid));
      return found instanceof LibvirtError ? unreachable(causeOf(found)) : found.state;
    },
    (_vm, cause) => unreachable(cause),
  );
}

/** Hosts beside each other, since one that does not answer must hold up no other, and some VMs of each at a time. */
async function eachOnItsHost<R>(
  vms: readonly FleetVm[],
  deps: LookDeps,
  look: (vm: FleetVm, domains: readonly DomainRef[]) => Promise<R>,
  failed: (vm: FleetVm, cause: string) => R,
): Promise<R[]> {
  const uris = [...new Set(vms.map(({ uri }) => uri))];
  const found = new Map<FleetVm, R>();
  const hosts = uris.map(async (uri) => {
    const domains = isOwnWorld(uri) ? NO_MEMORY : await asked(deps, () => deps.libvirt(uri).domains());
    const here = vms.filter((vm) => vm.uri === uri);
    await forEach(here, async (vm) => {
      found.set(vm, domains instanceof LibvirtError ? failed(vm, causeOf(domains)) : await look(vm, domains));
    });
  });
  await Promise.all(hosts);
  return vms.map((vm) => found.get(vm) as R);
}

/** libvirt's test driver without a daemon. */
const NO_MEMORY = new LibvirtError("unreachable", "its libvirt keeps nothing from one run to the next");

async function lookAtOne(vm: FleetVm, domains: readonly DomainRef[], deps: LookDeps): Promise<VmFacts> {
  const base = { vm, at: deps.clock.wall() };
  if (!domains.some(({ uuid }) => uuid === vm.uuid)) {
    const other = domains.find(({ name }) => name === vm.domain);
    return { ...base, ...(other === undefined ? {} : { otherUuid: other.uuid }) };
  }
  const libvirt = deps.libvirt(vm.uri);
  const domain = await asked(deps, () => domainFacts(libvirt, vm.uuid));
  if (domain instanceof LibvirtError) return { ...base, hostProblem: causeOf(domain) };
  if (!isOn(domain.state) || isTestDriver(vm.uri)) return { ...base, domain };
  const guest = await asked(deps, () => guestFacts(libvirt, vm.uuid, deps));
  if (!(guest instanceof LibvirtError)) return { ...base, domain, guest };
  // libvirt, and no guest, is what did not answer.
  if (guest.kind === "unreachable") return { ...base, hostProblem: causeOf(guest) };
  return { ...base, domain, guestProblem: causeOf(guest) };
}

async function domainFacts(libvirt: Libvirt, uuid: string): Promise<DomainFacts> {
  const state = await libvirt.state(uuid);
  const now = isOn(state.state) || state.state === "paused" ? machineOf(await libvirt.xml(uuid)) : undefined;
  const next = machineOf(await libvirt.definition(uuid));
  return { ...state, ...(now === undefined ? {} : { now }), ...(next === undefined ? {} : { next }) };
}

async function guestFacts(libvirt: Libvirt, uuid: string, { clock, signal }: LookDeps): Promise<Survey> {
  const said = await survey(libvirt, uuid, clock, signal);
  if (said.ip !== undefined) return said;
  // An image without the program ip; its agent knows as well.
  const ip = await address(libvirt, uuid, signal);
  return ip === undefined ? said : { ...said, ip };
}

/** What was asked for, or why libvirt did not say it. */
async function asked<T>({ signal }: LookDeps, ask: () => Promise<T>): Promise<T | LibvirtError> {
  try {
    return await orCancelled(ask(), signal);
  } catch (error) {
    if (error instanceof LibvirtError && !signal.aborted) return error;
    throw signal.aborted ? new Cancelled() : error;
  }
}

/** When the overlays of a state were made, by their paths on the host. Also of those that wait for their deletion. */
export function overlayTimes(resources: readonly StateResource[]): Map<string, string> {
  const volumes = resources.filter(({ urn, type }) => type === "libvirt:index/volume:Volume" && /-overlay-/.test(urn));
  return new Map(
    volumes.flatMap(({ id, created }) => (id !== undefined && typeof created === "string" ? [[id, created]] : [])),
  );
}

/** The file that a VM boots from: what it runs from, else what its next start goes by. */
export function bootPathOf({ domain }: VmFacts): string | undefined {
  return (domain?.now ?? domain?.next)?.bootPath;
}
