import type { RolloutPolicy, Wave } from "./types";

/** What the planner of a rollout has to know of a VM. */
export interface RolloutMember {
  readonly name: string;
  readonly group: string | null;
  readonly image: string;
}

/** What is known of a VM that is there already. */
export interface Known {
  /** The stack file has another image for it than the one that it runs on. */
  readonly changes: boolean;
  /** `false`: it is not healthy now, before anything is changed. */
  readonly healthy?: boolean;
}

/** Waves, and for each VM the ones that have to be done before it is touched. */
export interface Rollout {
  /** One after the other, but for the first one when it is of VMs that are new: nobody waits for those. */
  readonly waves: readonly Wave[];
  readonly after: ReadonlyMap<string, readonly string[]>;
}

/** How many of `total` an amount stands for: never more than all; a part is rounded down, and is at least one. */
export function amountOf(amount: RolloutPolicy["canary"], total: number): number {
  const wanted =
    typeof amount === "number" ? amount : Math.max(1, Math.floor((total * Number.parseInt(amount, 10)) / 100));
  return Math.min(wanted, total);
}

/**
 * The waves of a change of the whole fleet. VMs that nobody has made yet need no care: they all come up at once. Groups with a
 * policy of their own are rolled out by themselves, and so is the rest of the fleet; what comes first `order` says.
 *
 * Within each of these units comes first what has an image already that others are brought to now, by a rollout that was broken off:
 * if it is not well there, the run ends before another one gets that image. Then those others, again with a canary, then all the rest
 * in the same way, since it may restart for another reason. VMs that are not healthy beforehand come last: they say nothing about
 * what is new, so they must not be its canary.
 */
export function planWaves(
  members: readonly RolloutMember[],
  known: ReadonlyMap<string, Known>,
  policyOf: (group: string | null) => RolloutPolicy,
): Rollout {
  const fresh = members.filter(({ name }) => !known.has(name)).map(({ name }) => name);
  const units = new Map<string | null, RolloutMember[]>();
  for (const member of members) {
    if (!known.has(member.name)) continue;
    const unit = member.group !== null && policyOf(member.group).own ? member.group : null;
    units.set(unit, [...(units.get(unit) ?? []), member]);
  }
  const waves: Wave[] = [];
  for (const [group, unit] of sortedUnits(units, policyOf(null).order)) {
    const policy = policyOf(group);
    const sorted = sortedMembers(unit, policy.order);
    const part = (changes: boolean, healthy: boolean) =>
      sorted.filter(
        ({ name }) => known.get(name)?.changes === changes && (known.get(name)?.healthy !== false) === healthy,
      );
    const coming = new Set(sorted.filter(({ name }) => known.get(name)?.changes).map(({ image }) => image));
    const add = (members: readonly RolloutMember[], changes: boolean): void => {
      waves.push(
        ...wavesOf(
          members.map(({ name }) => name),
          unit.length,
          { group, changes },
          policy,
        ),
      );
    };
    const others = part(false, true);
    add(
      others.filter(({ image }) => coming.has(image)),
      false,
    );
    add(part(true, true), true);
    add(
      others.filter(({ image }) => !coming.has(image)),
      false,
    );
    const lanes = amountOf(policy.maxUnavailable, unit.length);
    for (const changes of [true, false]) {
      const vms = part(changes, false).map(({ name }) => name);
      if (vms.length > 0) waves.push({ kind: "unhealthy", group, changes, vms, lanes });
    }
  }
  const after = afterOf(waves);
  for (const name of fresh) after.set(name, []);
  const first: Wave[] = [{ kind: "new", group: null, changes: false, vms: fresh.sort(), lanes: fresh.length }];
  return { waves: fresh.length > 0 ? [...first, ...waves] : waves, after };
}

/** Canary first, then batches: the list of sizes is used up to its last one, which then repeats. `total`: of the whole unit. */
function wavesOf(
  vms: readonly string[],
  total: number,
  of: Pick<Wave, "group" | "changes">,
  policy: RolloutPolicy,
): Wave[] {
  const waves: Wave[] = [];
  let at = 0;
  const add = (kind: Wave["kind"], size: number, lanes: number): void => {
    const part = vms.slice(at, at + size);
    at += part.length;
    if (part.length > 0) waves.push({ kind, ...of, vms: part, lanes });
  };
  // A canary is there to fail alone: another one must not go down with it.
  add("canary", amountOf(policy.canary, total), 1);
  const lanes = amountOf(policy.maxUnavailable, total);
  for (let round = 0; at < vms.length; round++) {
    const size = policy.batches[Math.min(round, policy.batches.length - 1)] ?? vms.length;
    add("batch", amountOf(size, total), lanes);
  }
  return waves;
}

/**
 * Within a wave a VM waits for the one `lanes` places before it, so that a slow one holds up its own lane only. The first ones of a
 * wave wait for the last ones of all lanes of the wave before, and by that for the whole of it.
 */
function afterOf(waves: readonly Wave[]): Map<string, readonly string[]> {
  const after = new Map<string, readonly string[]>();
  let ends: readonly string[] = [];
  for (const { vms, lanes } of waves) {
    for (const [index, name] of vms.entries())
      after.set(name, index < lanes ? ends : vms.slice(index - lanes, index - lanes + 1));
    ends = vms.slice(-lanes);
  }
  return after;
}

/** Place in `order` of the first of these names; those that are not in it come after all that are. */
function rank(names: readonly (string | null)[], order: readonly string[]): number {
  const places = names.map((name) => (name === null ? -1 : order.indexOf(name))).filter((place) => place >= 0);
  return Math.min(order.length, ...places);
}

const byName = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** A VM's own place counts more than its group's. */
function sortedMembers(members: readonly RolloutMember[], order: readonly string[]): RolloutMember[] {
  const place = ({ name, group }: RolloutMember) => (order.includes(name) ? rank([name], order) : rank([group], order));
  return [...members].sort((a, b) => place(a) - place(b) || byName(a.name, b.name));
}

/** A unit stands where the first of what `order` names of it stands; else groups come by name, and the rest of the fleet last. */
function sortedUnits(
  units: ReadonlyMap<string | null, readonly RolloutMember[]>,
  order: readonly string[],
): [string | null, readonly RolloutMember[]][] {
  const place = (members: readonly RolloutMember[]) =>
    rank(
      members.flatMap(({ name, group }) => [name, group]),
      order,
    );
  const last = (group: string | null) => (group === null ? 1 : 0);
  return [...units].sort(([a, as], [b, bs]) => place(as) - place(bs) || last(a) - last(b) || byName(a ?? "", b ?? ""));
}
