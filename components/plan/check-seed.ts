import type { LayeredVm } from "./layers";
import type { Scope } from "./scope";
import type { VmPlan } from "./types";

/** A guest that restarts while the medium is out of its drive needs a copy of the seed. */
export function checkSeed(vm: LayeredVm, plan: VmPlan, { problems }: Scope): void {
  if (!plan.ejectSeed || plan.persist !== null || vm.bad("seed", "persist", "rootMode", "preset")) return;
  const path = vm.where("seed", "eject");
  problems.add(
    path,
    true,
    `needs a persistent volume, whose copy of the seed a guest that restarts goes by: without it nobody could log in${vm.remark(path)}`,
    "persist beside it, or false",
  );
}
