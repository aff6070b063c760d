import * as plan from "../components/plan";
import { formatMoment, openingAt, type Window } from "../components/plan/windows";
import type { VmAction, VmChange } from "./changes";

/** When VMs of a wave may be restarted, seen from now. */
export interface WaveOpening {
  open: boolean;
  /** Epoch milliseconds; when it closes or opens, where that is known. */
  until?: number;
  opens?: number;
  text: string;
}

/** A part of the rollout: VMs that are through before the next part begins. */
export interface WaveView {
  number: number;
  kind: plan.WaveKind;
  group: string | null;
  /** At most so many are down at a time. */
  lanes: number;
  vms: VmChange[];
  /** How long the wave before has to have been healthy. */
  soakSeconds: number;
  before: string[];
  pause: boolean;
  window: WaveOpening;
}

/** The next run, as data. */
export interface RolloutView {
  waves: WaveView[];
  removed: VmChange[];
  counts: Record<VmAction, number>;
}

/** Puts what changes of each VM into the waves in which they do; waves of which nothing changes are left out. */
export function rolloutView(fleet: plan.Plan, changes: readonly VmChange[], now: number): RolloutView {
  const byName = new Map(changes.map((change) => [change.name, change]));
  const waves = fleet.waves.map(({ kind, group, lanes, vms }) => {
    const context = vms.map((name) => fleet.vms.find((vm) => vm.name === name)?.rollout).find((one) => one);
    return {
      kind,
      group,
      lanes,
      vms: vms.flatMap((name) => byName.get(name) ?? []).filter(({ action }) => action !== "none"),
      soakSeconds: context?.soakSeconds ?? 0,
      before: (context?.before ?? []).map(({ vm }) => vm),
      pause: context?.pause ?? false,
      window: opening(context?.windows ?? [], now),
    };
  });
  const counts: Record<VmAction, number> = { new: 0, restart: 0, live: 0, off: 0, none: 0, remove: 0 };
  for (const { action } of changes) counts[action]++;
  return {
    waves: waves.filter(({ vms }) => vms.length > 0).map((wave, index) => ({ number: index + 1, ...wave })),
    removed: changes.filter(({ action }) => action === "remove"),
    counts,
  };
}

/** VMs that the state has and their hosts do not: a run without a refresh believes the state. */
export function missingVms(there: readonly string[], changes: readonly VmChange[]): string[] {
  return changes
    .filter(({ name, action }) => action !== "new" && action !== "remove" && !there.includes(name))
    .map(({ name }) => `${name} is in the stack's state, but not on its host; "pulumi up --refresh" makes it anew`);
}

function opening(windows: readonly Window[], now: number): WaveOpening {
  const zone = windows[0]?.zone ?? "UTC";
  const seen = openingAt(windows, now);
  if (!seen.open) {
    if (seen.next === null) return { open: false, text: "closed, and does not open within two weeks" };
    return { open: false, opens: seen.next.at, text: `closed now, opens ${formatMoment(seen.next)}` };
  }
  if (!Number.isFinite(seen.until)) return { open: true, text: "at any time" };
  return { open: true, until: seen.until, text: `open until ${formatMoment({ at: seen.until, zone })}` };
}

const VERBS: Record<VmAction, string> = {
  new: "is made",
  restart: "restarts",
  live: "changes live",
  off: "changes while off",
  none: "stays",
  remove: "is removed",
};

/** For people: one block a wave, one line a VM and reason. */
export function rolloutText(view: RolloutView, warnings: readonly string[]): string {
  const { counts } = view;
  const said = (Object.keys(VERBS) as VmAction[])
    .filter((action) => counts[action] > 0)
    .map((action) => `${counts[action]} ${action === "none" ? "unchanged" : action}`);
  const changing = view.waves.length + view.removed.length > 0;
  const waves = view.waves.flatMap((wave) => [waveLine(wave), ...wave.vms.flatMap(vmLines)]);
  const removed =
    view.removed.length > 0 ? ["last: what is not in the stack file", ...view.removed.flatMap(vmLines)] : [];
  return [
    ...(changing ? [...waves, ...removed] : ["nothing changes"]),
    `VMs: ${said.join(", ") || "none"}`,
    ...warnings.map((line) => `warning: ${line}`),
  ].join("\n");
}

function waveLine(wave: WaveView): string {
  const restarting = wave.vms.some(({ action }) => action === "restart");
  const what = wave.kind === "new" ? "new VMs" : wave.kind;
  const parts = [`wave ${wave.number}: ${what}`];
  if (wave.group !== null) parts.push(`group ${wave.group}`);
  if (wave.vms.length > 1) parts.push(wave.lanes === 1 ? "one after the other" : `${wave.lanes} at a time`);
  if (restarting && wave.before.length > 0) {
    const healthy = wave.before.length > 1 ? "have" : "has";
    parts.push(`once ${wave.before.join(", ")} ${healthy} been healthy for ${plan.formatDuration(wave.soakSeconds)}`);
  }
  if (restarting && wave.window.text !== "at any time") parts.push(`window ${wave.window.text}`);
  if (restarting && wave.pause) parts.push("PAUSED: nothing restarts");
  return parts.join(", ");
}

function vmLines({ name, action, reasons }: VmChange): string[] {
  const [first, ...more] = reasons;
  // The reason of a restart says itself that it is one.
  const why = first === undefined ? VERBS[action] : /^restarts/.test(first) ? first : `${VERBS[action]}: ${first}`;
  return [`  ${name} ${why}`, ...more.map((reason) => `  ${" ".repeat(name.length)} ${reason}`)];
}
