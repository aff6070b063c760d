import { parseDuration } from "./duration";
import type { Config } from "./model";
import type { PolicyConfig } from "./model-rollout";
import { digest12 } from "./names";
import type { HostPlan, Plan, PlanContext, RolloutContext, RolloutPolicy, VmPlan, Wave } from "./types";
import { DAYS } from "./windows";
import { type Known, planWaves } from "./waves";

/** The policy of the fleet, or of a group: field by field over that of the fleet. */
export function policyOf(config: Config, group: string | null): RolloutPolicy {
  const own = group === null ? undefined : config.groups?.[group]?.rollout;
  const written: PolicyConfig = { ...config.rollout, ...own };
  return {
    own: own !== undefined,
    canary: written.canary ?? 1,
    batches: written.batches ?? ["100%"],
    maxUnavailable: written.maxUnavailable ?? 1,
    order: written.order ?? [],
    soakSeconds: parseDuration(written.soak) ?? 0,
    windows: (written.windows ?? []).map(({ days, from, to, zone }) => ({
      days: days ?? DAYS,
      from,
      to,
      zone: zone ?? "UTC",
    })),
    pause: written.pause ?? false,
    timeLimitSeconds: parseDuration(config.rollout?.timeLimit) ?? null,
  };
}

/** Puts the VMs into the order of the rollout, and tells each one whom it waits for and what it has to see to before it restarts. */
export function withRollout(
  vms: readonly VmPlan[],
  hosts: ReadonlyMap<string, HostPlan>,
  config: Config,
  context: PlanContext,
): Pick<Plan, "vms" | "waves"> {
  const policies = new Map<string | null, RolloutPolicy>();
  const policy = (group: string | null): RolloutPolicy => {
    const known = policies.get(group) ?? policyOf(config, group);
    policies.set(group, known);
    return known;
  };
  const standing = new Map<string, Known>();
  for (const vm of vms) {
    const known = standingOf(vm, hosts.get(vm.host), context);
    if (known !== undefined) standing.set(vm.name, known);
  }
  const { waves, after } = planWaves(vms, standing, policy);
  const byName = new Map(vms.map((vm) => [vm.name, vm]));
  const planned = waves.flatMap((wave) => {
    const rollout = wave.kind === "new" ? null : contextOf(wave, waves, { vms: byName, hosts, policyOf: policy });
    return named(wave.vms, byName).map((vm) => ({ ...vm, after: after.get(vm.name) ?? [], rollout }));
  });
  return { vms: planned, waves };
}

/** What is known of a VM; `undefined` when its start can hurt nobody: it is new, or off without anything new to try. */
function standingOf(vm: VmPlan, host: HostPlan | undefined, context: PlanContext): Known | undefined {
  // Nobody has looked, or there is nothing to see in libvirt's test driver: taken for one that is there.
  if (context.current === undefined || /^test[:+]/.test(host?.uri ?? "")) return { changes: false };
  const current = context.current[vm.name];
  if (current === undefined) return undefined;
  const digest = context.images?.[vm.image]?.digest;
  const changes = digest !== undefined && current.imageDigest !== digest12(digest);
  if (current.running !== false)
    return { changes, ...(current.healthy === undefined ? {} : { healthy: current.healthy }) };
  return changes && current.imageDigest !== undefined ? { changes, healthy: false } : undefined;
}

interface Around {
  readonly vms: ReadonlyMap<string, VmPlan>;
  readonly hosts: ReadonlyMap<string, HostPlan>;
  readonly policyOf: (group: string | null) => RolloutPolicy;
}

/** What all VMs of a wave have to see to. */
function contextOf(wave: Wave, waves: readonly Wave[], { vms, hosts, policyOf }: Around): RolloutContext {
  const { group, changes, kind } = wave;
  const policy = policyOf(group);
  const witnesses = waves.filter((other) => other.kind === "canary" || other.kind === "batch");
  const last = witnesses
    .filter((other) => waves.indexOf(other) < waves.indexOf(wave) && (other.changes || !changes))
    .at(-1);
  const before = [...(last?.vms ?? [])];
  // Of a rollout that was broken off: what has been brought to these images already.
  if (changes && last?.group !== group) {
    const images = new Set(named(wave.vms, vms).map(({ image }) => image));
    const rest = witnesses.filter((other) => other.group === group && !other.changes).flatMap((other) => other.vms);
    before.push(...named(rest, vms).flatMap(({ name, image }) => (images.has(image) ? [name] : [])));
  }
  const soakSeconds = Math.max(policy.soakSeconds, last === undefined ? 0 : policyOf(last.group).soakSeconds);
  const alike = waves.filter((other) => other.kind !== "new" && other.changes === changes);
  return {
    wave: alike.indexOf(wave) + 1,
    waves: alike.length,
    kind,
    before:
      soakSeconds === 0
        ? []
        : named(before, vms)
            .filter(({ running }) => running)
            .map(({ name, domainName, host }) => ({ vm: name, domain: domainName, uri: hosts.get(host)?.uri ?? "" })),
    soakSeconds,
    windows: policy.windows,
    pause: policy.pause,
    ...(policy.timeLimitSeconds === null ? {} : { timeLimitSeconds: policy.timeLimitSeconds }),
  };
}

function named(names: readonly string[], vms: ReadonlyMap<string, VmPlan>): VmPlan[] {
  return names.flatMap((name) => vms.get(name) ?? []);
}
