import { hint, listNames, type Segment } from "./errors";
import { memberNames } from "./layers";
import type { PolicyConfig } from "./model-rollout";
import { isBroken } from "./parse";
import type { Scope } from "./scope";

/** Checks what a policy says of VMs, and windows that never open. */
export function checkRollout(scope: Scope): void {
  const { fleet, groups, rollout } = scope.config;
  const named = Object.entries(groups ?? {});
  const own = named.filter(([, group]) => group.rollout !== undefined);
  const members = named.flatMap(([name]) => memberNames(scope.config, name));
  const all = [...Object.keys(fleet ?? {}), ...members];
  const apart = new Set(own.flatMap(([name]) => memberNames(scope.config, name)));
  // Names are not known when a section that has them could not be read.
  const unread = ["fleet", "groups"].some((section) => isBroken(scope.parsed, section)) || brokenEntries(scope);
  check(scope, ["rollout"], rollout ?? {}, {
    size: all.length - apart.size,
    of: "the fleet, without groups that have a rollout of their own,",
    names: unread ? undefined : [...all, ...named.map(([name]) => name)],
  });
  for (const [name, group] of own) {
    const names = memberNames(scope.config, name);
    check(scope, ["groups", name, "rollout"], group.rollout ?? {}, { size: names.length, of: "the group", names });
  }
}

/** A VM or group that is left out because all of it is wrong is still a name. */
function brokenEntries(scope: Scope): boolean {
  return [...scope.parsed.broken].some((path) => /^(fleet|groups)\0[^\0]*$/.test(path));
}

interface Unit {
  readonly size: number;
  readonly of: string;
  /** What `order` may name; `undefined` when that is not known. */
  readonly names: readonly string[] | undefined;
}

function check(scope: Scope, path: readonly Segment[], policy: PolicyConfig, { size, of, names }: Unit): void {
  const { problems } = scope;
  const { canary, order, windows } = policy;
  // Where there is nobody there is nobody to hurt: a group may be scaled down to nothing.
  if (typeof canary === "number" && canary > size && size > 0 && names !== undefined) {
    const message = `is more than ${of} has: ${size} ${size === 1 ? "VM" : "VMs"}`;
    problems.add([...path, "canary"], canary, message, `0 to ${size}, or a part such as "10%"`);
  }
  for (const [index, name] of (order ?? []).entries()) {
    const at = [...path, "order", index];
    if (order?.indexOf(name) !== index) problems.add(at, name, "is there twice", "each name once");
    else if (names !== undefined && !names.includes(name)) {
      problems.add(at, name, `names nobody${hint(name, names)}`, listNames(names, "nothing: there are no VMs"));
    }
  }
  for (const [index, { from, to }] of (windows ?? []).entries()) {
    if (from !== to) continue;
    const allowed = 'another time; "00:00" to "24:00" is the whole day';
    problems.add([...path, "windows", index, "to"], to, "is when the window begins, so it never opens", allowed);
  }
}
