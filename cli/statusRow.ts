import { digestOf } from "../provider/facts";
import { type Drift, driftOf } from "./drift";
import { type Fill, fillOf, partsOf } from "./survey";
import { bootPathOf, isOn, type VmFacts } from "./vmFacts";

/** How a VM is, in a word, and why. */
export interface Health {
  state: string;
  /** Undefined: nobody can say, or nothing is asked of it since it is declared off. */
  healthy?: boolean;
  reasons: string[];
}

/** What is shown of a VM; what is not known is left out. `--json` prints it as it is. */
export interface StatusRow {
  name: string;
  group?: string;
  host: string;
  domain: string;
  /** libvirt's word, or `gone`. */
  state?: string;
  health: Health;
  image?: { digest: string; version?: string; since?: string; ageSeconds?: number };
  drift?: Drift[];
  disk?: Fill;
  memory?: { bytes: number; usedBytes?: number };
  uptimeSeconds?: number;
  /** Where its SSH server is found from here. */
  address?: string;
  /** Its own IPv4 address. */
  ip?: string;
  rebootRequired?: boolean;
  /** What an update that waits for a restart brings. */
  staged?: string;
  /** Digests of images that failed on it. */
  quarantined: string[];
  scratch?: { state: string; reason: string; sizeBytes: number };
}

/** `versions`: of images by the first 12 digits of their digests. */
export function rowOf(facts: VmFacts, versions: ReadonlyMap<string, string> = new Map()): StatusRow {
  const { vm, group, domain, guest, hostProblem } = facts;
  const drift = driftOf(facts);
  const disk = guest && fillOf(guest);
  const scratch = partsOf(guest?.status).scratch;
  const staged = partsOf(guest?.status).update?.staged;
  const state = hostProblem === undefined ? (domain?.state ?? "gone") : undefined;
  return withoutUnknown({
    name: vm.name,
    group,
    host: vm.host,
    domain: vm.domain,
    state,
    health: healthOf(facts),
    image: imageOf(facts, versions),
    drift,
    disk,
    memory: memoryOf(facts),
    uptimeSeconds: guest?.uptimeSeconds,
    ...addressesOf(facts),
    rebootRequired: guest?.status?.rebootPending,
    staged: staged === "" ? undefined : staged,
    quarantined: vm.quarantined,
    scratch: scratch && { state: scratch.state, reason: scratch.reason, sizeBytes: scratch.sizeBytes },
  });
}

/** Keys without a value are no keys, so that JSON and tests show what is known. */
function withoutUnknown(row: { [Key in keyof StatusRow]: StatusRow[Key] | undefined }): StatusRow {
  return Object.fromEntries(Object.entries(row).filter(([, value]) => value !== undefined)) as unknown as StatusRow;
}

export function healthOf({ vm, domain, guest, guestProblem, hostProblem }: VmFacts): Health {
  if (hostProblem !== undefined) return { state: "host unreachable", reasons: [hostProblem] };
  if (domain === undefined) return { state: "gone", healthy: false, reasons: [] };
  if (!isOn(domain.state)) {
    const reasons = domain.reason === "" || domain.reason === "unknown" ? [] : [domain.reason];
    // Off is how it is meant to be, which is neither well nor unwell.
    return vm.running ? { state: domain.state, healthy: false, reasons } : { state: domain.state, reasons };
  }
  if (guestProblem !== undefined) return { state: "agent silent", healthy: false, reasons: [] };
  if (guest === undefined) return { state: domain.state, reasons: [] };
  const { system, status, statusProblem } = guest;
  if (system === "initializing" || system === "starting" || system === "stopping") {
    return { state: system === "stopping" ? system : "starting", healthy: false, reasons: [] };
  }
  if (system === "maintenance") return { state: "not healthy", healthy: false, reasons: ["emergency mode"] };
  if (status !== undefined) {
    return { state: status.healthy ? "healthy" : "not healthy", healthy: status.healthy, reasons: status.reasons };
  }
  if (vm.contract !== "none")
    return { state: "no status record", healthy: false, reasons: statusProblem ? [statusProblem] : [] };
  // As the gate takes it: failed units say nothing about what its owner wants of an image that is not ours.
  const up = system === "running" || system === "degraded";
  return { state: up ? "up" : `system ${system}`, healthy: up, reasons: system === "degraded" ? ["units failed"] : [] };
}

function imageOf(facts: VmFacts, versions: ReadonlyMap<string, string>): StatusRow["image"] {
  const { vm, guest, imageSince, at } = facts;
  const path = bootPathOf(facts);
  const digest = path === undefined ? undefined : digestOf(path, vm.domain);
  if (digest === undefined) return undefined;
  const known = digest === vm.imageDigest ? vm.imageVersion : undefined;
  const version = guest?.status?.imageVersion || known || versions.get(digest);
  const begun = imageSince === undefined ? Number.NaN : Date.parse(imageSince);
  return {
    digest,
    ...(version ? { version } : {}),
    ...(imageSince === undefined || Number.isNaN(begun)
      ? {}
      : { since: imageSince, ageSeconds: Math.max(0, Math.floor((at - begun) / 1000)) }),
  };
}

function memoryOf({ domain, guest }: VmFacts): StatusRow["memory"] {
  const machine = domain?.now ?? domain?.next;
  if (machine === undefined) return undefined;
  const used = guest?.memoryUsedBytes;
  return { bytes: Math.round(machine.memoryMiB) * 2 ** 20, ...(used === undefined ? {} : { usedBytes: used }) };
}

/** What the guest said in the last run is no address of now; a fixed one, and a forwarded port, are. */
function addressesOf({ vm, guest }: VmFacts): { address: string | undefined; ip: string | undefined } {
  const fixed = /^network [^,]+, (\S+)$/.exec(vm.network)?.[1];
  const ip = guest?.ip ?? fixed;
  return { address: vm.sshPort === undefined ? ip : `127.0.0.1:${vm.sshPort}`, ip };
}
