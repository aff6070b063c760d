import type { Planned } from "./check-fleet";
import type { HostsLine, VmPlan } from "./types";

/** Addresses of one network mean nothing on another. */
const networkOf = ({ host, network }: VmPlan): string | undefined =>
  network.mode === "nat" ? `${host}/${network.network}` : undefined;

/**
 * The VMs, each with the names of the others in its `hostsFile` where it wants them: of those with a fixed address on its own network,
 * as no other address is known before a VM runs, and none could be reached. A name that it has a line for itself is left to that line.
 */
export function planHostsFiles(planned: readonly Planned[]): VmPlan[] {
  const named = new Map<string, HostsLine[]>();
  for (const { plan } of planned) {
    const at = networkOf(plan);
    if (at === undefined || plan.network.mode !== "nat" || plan.network.address === null) continue;
    const line = { address: plan.network.address.ip, names: [plan.hostname] };
    named.set(at, [...(named.get(at) ?? []), line]);
  }
  return planned.map(({ vm, plan }) => {
    if (vm.fields.hostsFile?.fleet !== true) return plan;
    const taken = new Set([plan.hostname, ...plan.hostsFile.flatMap(({ names }) => names)]);
    const others = (named.get(networkOf(plan) ?? "") ?? []).filter(
      ({ names }) => !names.some((name) => taken.has(name)),
    );
    return { ...plan, hostsFile: [...plan.hostsFile, ...others] };
  });
}
