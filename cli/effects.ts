import { cardOf, describeNetwork } from "../components/attachment";
import type { VmPlan } from "../components/plan";
import { diffGuest } from "../provider/diff";
import type { StateResource } from "./fleet";

/** What a change of the stack file does to a VM. */
export interface Effect {
  /** As a preview would say it, one phrase each; empty when nothing changes for the guest. */
  reasons: string[];
  /** Whether a guest that runs has to restart for it. */
  restarts: boolean;
}

/** What a Guest was told of its shape, disk and network, were it made from this plan. */
function inputsOf(vm: VmPlan, mac: unknown): Record<string, unknown> {
  return {
    memoryMiB: vm.memoryMiB,
    vcpus: vm.vcpus,
    ...(vm.memoryMaximumMiB === null ? {} : { memoryMaximumMiB: vm.memoryMaximumMiB }),
    ...(vm.vcpusMaximum === null ? {} : { vcpusMaximum: vm.vcpusMaximum }),
    ...(vm.persist === null ? {} : { persistBytes: vm.persist.sizeBytes }),
    network: describeNetwork(vm.network),
    ...cardOf(vm.network, mac, undefined),
  };
}

/** Shape, disk and network of a VM that is there against those that are declared now, by the rules that the provider itself goes by. */
export function effectOf(resources: readonly StateResource[], vm: VmPlan): Effect {
  const guest = resources.find(
    ({ type, urn, delete: going }) =>
      type === "nixvm:index:Guest" && going !== true && urn.endsWith(`::${vm.name}-guest`),
  );
  const olds = guest?.inputs ?? {};
  const mac = (olds["nic"] as { mac?: unknown } | undefined)?.mac ?? "same";
  const news = inputsOf(vm, mac);
  const before = Object.fromEntries(Object.keys(news).map((key) => [key, olds[key]]));
  // A card that goes is a change too.
  if (olds["nic"] !== undefined) before["nic"] = olds["nic"];
  const running = { running: olds["running"] };
  const { reasons } = diffGuest({ ...before, ...running }, { ...news, ...running });
  return { reasons, restarts: reasons.some((line) => line.startsWith("restarts, because")) };
}
