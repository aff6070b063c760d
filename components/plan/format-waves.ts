import { formatDuration } from "./duration";
import type { Plan, VmPlan, Wave } from "./types";
import type { Window } from "./windows";

/** More names than this in one line are counted. */
const SHOWN = 12;

/**
 * How the rollout will go, one line a wave. Nothing when no image changes of a VM that is there: what is new is nothing to be
 * careful with.
 */
export function formatWaves({ waves, vms }: Pick<Plan, "waves" | "vms">): string[] {
  const changing = waves.filter(({ changes }) => changes);
  if (changing.length === 0) return [];
  const made = waves.filter(({ kind }) => kind === "new").flatMap((wave) => `rollout: at once: ${list(wave.vms)}`);
  const lines = changing.map((wave) => {
    const context = vms.find(({ name }) => name === wave.vms[0])?.rollout;
    return context ? line(wave, context) : "";
  });
  return [...made, ...lines];
}

function line(wave: Wave, { wave: number, waves, before, soakSeconds, windows, pause }: Context): string {
  const what = wave.kind === "canary" ? "canary " : "";
  const parts = [`rollout: wave ${number} of ${waves}: ${what}${list(wave.vms)}`];
  if (wave.group !== null) parts.push(`group ${wave.group}`);
  if (wave.vms.length > 1) parts.push(wave.lanes === 1 ? "one after the other" : `${wave.lanes} at a time`);
  if (wave.kind === "unhealthy") parts.push(wave.vms.length > 1 ? "they are not healthy now" : "it is not healthy now");
  if (before.length > 0) {
    const who = list(before.map(({ vm }) => vm));
    parts.push(`once ${who} ${before.length > 1 ? "have" : "has"} been healthy for ${formatDuration(soakSeconds)}`);
  }
  if (windows.length > 0) parts.push(`only ${windows.map(formatWindow).join(" or ")}`);
  if (pause) parts.push("PAUSED");
  return parts.join(", ");
}

type Context = NonNullable<VmPlan["rollout"]>;

function list(names: readonly string[]): string {
  if (names.length <= SHOWN) return names.join(", ");
  return `${names.slice(0, SHOWN).join(", ")} and ${names.length - SHOWN} more`;
}

function formatWindow({ days, from, to, zone }: Window): string {
  return `${days.length === 7 ? "" : `${days.join(" ")} `}${from} to ${to} ${zone}`;
}
