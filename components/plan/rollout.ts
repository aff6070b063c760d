import type { VmPlan } from "./types";

/**
 * Gives every VM the one it has to wait for: that `batch` places before it. The fleet then runs in `batch` lanes, so at no
 * time are more than `batch` VMs being changed, and a slow VM holds up its own lane only.
 */
export function inRolloutOrder(vms: readonly VmPlan[], batch: number): VmPlan[] {
  return vms.map((vm, index) => {
    const before = vms[index - batch];
    return { ...vm, after: before === undefined ? [] : [before.name] };
  });
}
