import { checkNames, checkRestore, checkUnique, type Planned } from "./check-fleet";
import { checkNetwork } from "./check-network";
import { checkVm } from "./check-vm";
import { Problems } from "./errors";
import { planHostsFiles } from "./hosts-file";
import { type ImageSource, planHosts, planImages, planNetworks } from "./infrastructure";
import { layeredVms } from "./layers";
import { parseConfig } from "./parse";
import { checkRollout } from "./check-rollout";
import { withRollout } from "./rollout";
import { Scope } from "./scope";
import type { ImagePlan, PlanContext, PlanResult, VmPlan } from "./types";
import { planVm } from "./vm";

/**
 * Turns the config of a stack (the sections `hosts`, `images`, `networks`, `defaults`, `fleet`, `groups` and `rollout`, as
 * read from YAML) into a plan, or into all its mistakes at once (G-2, G-4). Pure and total: no input makes it throw.
 *
 * Pass everything that the namespace holds, also sections that are not known here, so that a typo in a section's name is
 * noticed; leave out sections that are not set.
 */
export function planFleet(config: unknown, context: PlanContext): PlanResult {
  const problems = new Problems();
  const warnings = new Problems();
  const parsed = parseConfig(config, problems);
  const scope = new Scope(parsed, context, problems, warnings);
  const hosts = planHosts(scope);
  const sources = planImages(scope);
  const networks = planNetworks(scope);
  checkNames(scope);
  const around = { scope, hosts, networks };
  const planned: Planned[] = [];
  for (const vm of layeredVms(parsed)) {
    const host = vm.bad("host") ? undefined : scope.hostOf(vm.where("host"), vm.fields.host);
    const plan = planVm(vm, host ?? "", around);
    // What is likely not meant matters when it is there.
    checkVm(vm, plan, vm.absent ? scope.unwarned() : scope);
    // Networks belong to hosts: without a host nothing can be said about them.
    if (host !== undefined) checkNetwork(vm, plan, around);
    planned.push({ vm, plan });
  }
  checkUnique(planned, scope);
  checkRestore(scope);
  checkRollout(scope);
  if (problems.all.length > 0) return { ok: false, problems: problems.all };
  const vms = planHostsFiles(planned.filter(({ vm }) => !vm.absent));
  return {
    ok: true,
    plan: {
      prefix: scope.prefix,
      hosts: [...hosts.values()],
      images: usedImages(vms, sources),
      keepImages: parsed.config.rollout?.keepImages ?? 0,
      networks: [...networks.values()],
      ...withRollout(vms, hosts, parsed.config, context),
      warnings: warnings.all,
    },
  };
}

/** One image for each host that uses it, whatever the number of VMs (T-5). */
function usedImages(vms: readonly VmPlan[], sources: ReadonlyMap<string, ImageSource>): ImagePlan[] {
  const used = new Map<string, ImagePlan>();
  for (const { host, image, imageKey } of vms) {
    const source = sources.get(image);
    if (source !== undefined) used.set(imageKey, { key: imageKey, host, ...source });
  }
  return [...used.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
}
