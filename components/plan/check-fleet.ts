import type { Segment } from "./errors";
import { type LayeredVm, memberNames } from "./layers";
import type { VmConfig } from "./model-vm";
import type { Scope } from "./scope";
import type { VmPlan } from "./types";

/** A VM as layered and as planned. */
export interface Planned {
  readonly vm: LayeredVm;
  readonly plan: VmPlan;
}

/** Something of which every VM needs its own. */
interface Unique {
  readonly what: string;
  readonly field: keyof VmConfig;
  readonly at: readonly Segment[];
  readonly allowed: string;
  /** The value, and the space in which it has to be unique; `undefined` when the VM has none or it is made for it. */
  readonly of: (plan: VmPlan) => { value: string | number; scope: string } | undefined;
}

const everywhere = (value: string | null) => (value === null ? undefined : { value, scope: "" });

const UNIQUE: readonly Unique[] = [
  {
    what: "the host name",
    field: "hostname",
    at: ["hostname"],
    allowed: "a host name of its own for each VM",
    of: (plan) => everywhere(plan.hostname),
  },
  {
    what: "the MAC address",
    field: "network",
    at: ["network", "mac"],
    allowed: "an address of its own for each VM, or none: it is then derived",
    of: (plan) => everywhere(plan.network.mac),
  },
  {
    what: "the UUID",
    field: "identity",
    at: ["identity", "uuid"],
    allowed: "a UUID of its own for each VM, or none: it is then derived",
    of: (plan) => everywhere(plan.identity.uuid),
  },
  {
    what: "the machine-id",
    field: "identity",
    at: ["identity", "machineId"],
    allowed: "a machine-id of its own for each VM, or none: it is then derived",
    of: (plan) => everywhere(plan.identity.machineId),
  },
  {
    what: "the address",
    field: "network",
    at: ["network", "address"],
    allowed: "an address of its own for each VM on a network",
    of: ({ network, host }) =>
      network.mode === "nat" && network.address !== null
        ? { value: network.address.ip, scope: `${host}/${network.entry ?? ""}` }
        : undefined,
  },
  {
    what: "the SSH port",
    field: "network",
    at: ["network", "sshPort"],
    allowed: "a port of its own for each VM of a host: set network.sshPort",
    of: ({ network, host }) => (network.mode === "user" ? { value: network.sshPort, scope: host } : undefined),
  },
];

/** Checks that no two VMs have the same of anything that must be one VM's own. */
export function checkUnique(all: readonly Planned[], scope: Scope): void {
  for (const unique of UNIQUE) {
    const holders = new Map<string, LayeredVm>();
    for (const { vm, plan } of all) {
      if (vm.bad(unique.field)) continue;
      const found = unique.of(plan);
      if (found === undefined) continue;
      const key = `${found.scope}\0${found.value}`;
      const other = holders.get(key);
      if (other === undefined) {
        holders.set(key, vm);
        continue;
      }
      // identity.mac and network.mac are two places for one thing.
      const at = unique.at[1] === "mac" && vm.fields.identity?.mac !== undefined ? ["identity", "mac"] : unique.at;
      const message = `is ${unique.what} of two VMs, ${other.name} and ${vm.name}`;
      scope.problems.add(vm.where(...at), found.value, message, unique.allowed);
    }
  }
}

/** Checks that data is to be brought back only where VMs are. */
export function checkRestore(scope: Scope): void {
  const { goBack, restoreDataOnRollback } = scope.config.rollout ?? {};
  if (restoreDataOnRollback !== true || goBack !== false) return;
  const message = "is for VMs that are brought back to their former image, and goBack is false";
  scope.problems.add(["rollout", "restoreDataOnRollback"], true, message, "goBack: true, or false");
}

/** Checks that VMs and members of groups have different names, and names that fit. */
export function checkNames(scope: Scope): void {
  const fleet = scope.config.fleet ?? {};
  const groups = scope.config.groups ?? {};
  for (const group of Object.keys(groups)) {
    const path = ["groups", group];
    if (Object.hasOwn(fleet, group)) {
      scope.problems.add(
        path,
        undefined,
        "is the name of a group and of a VM in fleet",
        "another name for one of them",
      );
    }
    const members = memberNames(scope.config, group);
    const clash = members.find((member) => Object.hasOwn(fleet, member));
    if (clash !== undefined) {
      const message = `has a member ${clash}, and fleet has a VM of that name`;
      scope.problems.add([...path, "count"], groups[group]?.count, message, "another name for the group or the VM");
    }
    for (const n of Object.keys(groups[group]?.members ?? {})) {
      if (Number(n) <= members.length) continue;
      const message = `is no member of ${group}, which has ${members.length}`;
      scope.problems.add([...path, "members", n], undefined, message, `numbers from 1 to ${members.length}`);
    }
    const longest = members.at(-1) ?? "";
    if (longest.length > 63) {
      scope.problems.add(
        path,
        group,
        `is too long: its member ${longest} has ${longest.length} characters`,
        "63 characters with the number",
      );
    }
  }
}
