import { domainXslt } from "../components/domainXslt";
import { cardOf, leaseOf } from "../components/attachment";
import { domainSpecOf, guestShape, seedPathOf, vmIdentity, vmSeed } from "../components/guestShape";
import type { ResolvedImage } from "../components/images";
import * as plan from "../components/plan";
import { diffGuest, restarts } from "../provider/diff";
import { type Props, UNKNOWN } from "../provider/inputs";
import { nameOf, type StateResource } from "./fleet";

/** What the next run does with a VM. `live`: without a restart. `off`: with one that is off, or will be. */
export type VmAction = "new" | "restart" | "live" | "off" | "none" | "remove";

/** What changes of a VM, and why; the reasons are those that `pulumi preview` gives. */
export interface VmChange {
  name: string;
  action: VmAction;
  reasons: string[];
}

/**
 * What the next run does with each VM, in rollout order; those that the stack file does not have any more come last. `resources` with
 * their secrets: seeds are made of the fleet's key.
 */
export function changesOf(
  fleet: plan.Plan,
  images: Readonly<Record<string, ResolvedImage>>,
  resources: readonly StateResource[],
): VmChange[] {
  const state = new State(resources);
  const key = state.fleetKey();
  const hosts = new Map(fleet.hosts.map((host) => [host.name, host]));
  const changes = fleet.vms.map((vm): VmChange => {
    const guest = state.get(`${vm.name}-guest`);
    const host = hosts.get(vm.host);
    const image = images[vm.image];
    // The planner checked both.
    if (guest === undefined || key === undefined || !host || !image)
      return { name: vm.name, action: "new", reasons: [] };
    const olds = plainOf(guest.inputs);
    const news = wanted({ vm, host, image, prefix: fleet.prefix, key, olds, state });
    const diff = diffGuest(olds, news, plainOf(guest.outputs));
    if (diff.reasons.length === 0) return { name: vm.name, action: "none", reasons: [] };
    const off = news["running"] === false || olds["running"] === false;
    const action = restarts(diff, olds, news) ? "restart" : off ? "off" : "live";
    return { name: vm.name, action, reasons: diff.reasons };
  });
  const known = new Set(fleet.vms.map(({ name }) => name));
  const gone = state.guests().filter((name) => !known.has(name));
  return [
    ...changes,
    ...gone.map((name): VmChange => {
      const keeps = state.get(`${name}-persist-volume`) !== undefined;
      const data = keeps ? "; its persistent volume goes or stays as persist.retain and persist.protect said" : "";
      return { name, action: "remove", reasons: [`is not in the stack file: it is stopped and removed${data}`] };
    }),
  ];
}

/** The inputs that the program will give to a VM's Guest. */
function wanted(on: {
  vm: plan.VmPlan;
  host: plan.HostPlan;
  image: ResolvedImage;
  prefix: string;
  key: string;
  olds: Props;
  state: State;
}): Props {
  const { vm, host, image, prefix, key, state } = on;
  const identity = vmIdentity(vm, key);
  const { uuid, mac } = identity;
  const moved = on.olds["uri"] !== host.uri;
  const persist = vm.persist && !moved ? idOf(state.get(`${vm.name}-persist-volume`)) : UNKNOWN;
  const sizeBytes = String(vm.scratch?.sizeBytes);
  const scratch = state.keepers(`${vm.name}-scratch-creation`)?.["sizeBytes"] === sizeBytes && !moved;
  const overlay = `${vm.name}-overlay-${plan.digest12(image.digest)}`;
  const same = state.keepers(`${overlay}-creation`)?.["generation"] === `${vm.generation}` && !moved;
  const disks = [
    ...(vm.persist ? [{ path: persist, serial: "persist" }] : []),
    ...(vm.scratch
      ? [{ path: scratch ? idOf(state.get(`${vm.name}-scratch-volume`)) : UNKNOWN, serial: "scratch" }]
      : []),
  ];
  const seedPath = seedPathOf(vm, host, prefix);
  const domain = state.get(`${vm.name}-domain`);
  const xslt = domainXslt(domainSpecOf(vm, host, { uuid, mac, disks, seedPath }));
  const stays = !moved && (plainOf(domain?.inputs)["xml"] as { xslt?: unknown } | undefined)?.xslt === xslt;
  return {
    ...guestShape(vm, host, image, prefix),
    uuid,
    domainId: stays ? idOf(domain) : UNKNOWN,
    overlayPath: same ? idOf(state.get(`${overlay}-volume`)) : UNKNOWN,
    ...cardOf(vm.network, mac),
    ...leaseOf(vm, state.network(vm.network)),
    seedDigest: plan.seedDigest(vmSeed(vm, identity, key)),
    ...(vm.persist ? { persistPath: persist } : {}),
  };
}

const idOf = (one: StateResource | undefined): string => one?.id ?? UNKNOWN;

/** The live resources of a state, by name. */
class State {
  private readonly named: ReadonlyMap<string, StateResource>;

  constructor(resources: readonly StateResource[]) {
    const live = resources.filter((one) => one.delete !== true);
    this.named = new Map(live.map((one) => [nameOf(one.urn), one]));
  }

  get(name: string): StateResource | undefined {
    return this.named.get(name);
  }

  /** libvirt's id of a network that this stack makes. */
  network(network: plan.Attachment): string | undefined {
    if (network.mode !== "nat" || network.entry === null) return undefined;
    return this.get(`network-${network.entry}-network`)?.id;
  }

  keepers(name: string): Record<string, unknown> | undefined {
    return plainOf(this.get(name)?.inputs)["keepers"] as Record<string, unknown> | undefined;
  }

  /** Names of the VMs whose guests the last run made. */
  guests(): string[] {
    return [...this.named]
      .filter(([, { type }]) => type === "nixvm:index:Guest")
      .map(([name]) => name.replace(/-guest$/, ""))
      .sort();
  }

  /** Undefined in a stack that has never been brought up. */
  fleetKey(): string | undefined {
    const result = plainOf(this.get("fleet-key")?.outputs)["result"];
    return typeof result === "string" ? plan.fleetKeyOf(result) : undefined;
  }
}

const SECRET_SIGNATURE = "4dabf18193072939515e22adb298388d";

/** Values as they are, also those that an export with secrets wraps. */
function plainOf(value: Record<string, unknown> | undefined): Props {
  return unwrap(value ?? {}) as Props;
}

function unwrap(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(unwrap);
  if (typeof value !== "object" || value === null) return value;
  if (SECRET_SIGNATURE in value) {
    const { plaintext } = value as { plaintext?: string };
    return plaintext === undefined ? UNKNOWN : unwrap(JSON.parse(plaintext));
  }
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, unwrap(inner)]));
}
