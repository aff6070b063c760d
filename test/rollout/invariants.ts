import { amountOf } from "../../components/plan/waves";
import { policyOf } from "../../components/plan/rollout";
import { digestOf } from "./hosts";
import type { Change, Run, Simulation } from "./simulation";

/** What must hold in every scenario, whatever its log says. Gives what does not. */
export function violations(simulation: Simulation): string[] {
  return simulation.runs.flatMap((run, index) =>
    [...together(simulation, run), ...order(run), ...permission(simulation, run), ...images(simulation, run)].map(
      (text) => `run ${index + 1}: ${text}`,
    ),
  );
}

const isDown = (change: Change): change is Change & { downFrom: number } => change.downFrom !== undefined;

/** Never more VMs down than allowed, and a canary alone. */
function together({ scenario, vms }: Simulation, { plan, changes }: Run): string[] {
  const down = changes.filter(isDown);
  return down.flatMap((change) => {
    const active = down.filter(
      (other) => other.downFrom <= change.downFrom && change.downFrom < (other.to ?? Infinity),
    );
    const wave = plan.waves.find(({ vms: names }) => names.includes(change.vm));
    const group = wave?.group ?? null;
    const config = { rollout: scenario.rollout, groups: scenario.groups } as never;
    const unit = plan.waves
      .filter((other) => other.kind !== "new" && other.group === group)
      .flatMap((other) => other.vms);
    const limit = amountOf(policyOf(config, group).maxUnavailable, unit.length);
    const names = active.map(({ vm }) => vm).join(" and ");
    return [
      ...(active.length > limit ? [`${names} are down together, allowed: ${limit}`] : []),
      ...(wave?.kind === "canary" && active.length > 1 ? [`${names} are down with the canary ${change.vm}`] : []),
      ...(vms.has(change.vm) ? [] : [`${change.vm} is none of the fleet`]),
    ];
  });
}

/** Nobody begins after a failure; nobody of a later wave before all of an earlier one are done. */
function order({ plan, changes, brokeAt }: Run): string[] {
  const waveOf = (name: string) => plan.waves.findIndex(({ vms }) => vms.includes(name));
  const down = changes.filter(isDown);
  return down.flatMap((change) => [
    ...(brokeAt !== undefined && change.downFrom > brokeAt ? [`${change.vm} goes down after a failure`] : []),
    ...down
      .filter((other) => waveOf(other.vm) < waveOf(change.vm) && (other.to ?? Infinity) > change.downFrom)
      .map((other) => `${change.vm} goes down before ${other.vm} is done`),
    ...down
      .filter((other) => waveOf(other.vm) < waveOf(change.vm) && other.outcome === "failed")
      .map((other) => `${change.vm} goes down although ${other.vm} has failed`),
  ]);
}

/** Not while paused, not outside of a window, not before the soak is over. */
function permission({ time }: Simulation, { plan, changes }: Run): string[] {
  return changes.filter(isDown).flatMap(({ vm, downFrom, bootsBefore }) => {
    const rollout = plan.vms.find(({ name }) => name === vm)?.rollout;
    if (!rollout) return [`${vm} is stopped although it is new or off`];
    const { pause, windows, soakSeconds } = rollout;
    const open = windows.length === 0 || windows.some((window) => isOpen(window, time.start + downFrom));
    const short = bootsBefore.some((boot) => downFrom - boot < soakSeconds * 1000);
    return [
      ...(pause ? [`${vm} goes down while the rollout is paused`] : []),
      ...(open ? [] : [`${vm} goes down outside of the windows`]),
      ...(short ? [`${vm} goes down before the soak is over`] : []),
    ];
  });
}

/** By the clock on the wall, as the machine's own calendar has it. */
function isOpen(
  { days, from, to, zone }: { days: readonly string[]; from: string; to: string; zone: string },
  at: number,
): boolean {
  const format = new Intl.DateTimeFormat("en-GB", {
    timeZone: zone,
    weekday: "short",
    hour: "2-digit",
    minute: "2-digit",
    hourCycle: "h23",
  });
  const read = (ms: number) => {
    const {
      weekday = "",
      hour,
      minute,
    } = Object.fromEntries(format.formatToParts(ms).map(({ type, value }) => [type, value]));
    return { day: weekday.toLowerCase(), time: `${hour}:${minute}` };
  };
  const { day, time } = read(at);
  const yesterday = read(at - 86_400_000).day;
  if (to > from) return days.includes(day) && time >= from && time < to;
  return (days.includes(day) && time >= from) || (days.includes(yesterday) && time < to);
}

/** A quarantined image is not started again; who was brought back is healthy there; after a good run all have the image. */
function images({ vms }: Simulation, run: Run): string[] {
  const again = run.started.filter(({ vm, image }) => run.quarantined.get(vm)?.includes(digestOf(image)));
  const last = run.started.at(-1);
  const back = run.changes.filter(({ said }) => said?.includes("is back on"));
  return [
    ...again.map(({ vm, image }) => `${vm} boots ${image}, which is quarantined`),
    ...back.flatMap(({ vm, said }) => {
      const image = run.started.filter((start) => start.vm === vm).at(-1)?.image ?? "";
      return said?.includes(`is back on image ${image}`) && image !== run.image ? [] : [`${vm} is not back: ${image}`];
    }),
    ...(run.ok && last !== undefined
      ? run.changes.filter(({ outcome }) => outcome !== "ok").map(({ vm }) => `${vm} is not done in a good run`)
      : []),
    ...(run.ok ? [...vms.keys()].filter((name) => !run.plan.vms.some((vm) => vm.name === name)) : []),
  ];
}
