import { type Behaviour, digestOf } from "./hosts";
import type { Event, Scenario, Step } from "./simulation";

const four = ["ant", "bee", "cat", "dog"];
const six = [...four, "elk", "fox"];

/** Ways to roll out, each tried with every kind of trouble. */
const policies: Record<string, { vms: string[]; rollout: Record<string, unknown> }> = {
  "one by one": { vms: four, rollout: {} },
  "two at a time": { vms: four, rollout: { maxUnavailable: 2 } },
  "no canary, three at a time": { vms: six, rollout: { canary: 0, maxUnavailable: 3 } },
  "two canaries": { vms: four, rollout: { canary: 2, maxUnavailable: 2 } },
  "batches of half": { vms: six, rollout: { batches: ["50%"], maxUnavailable: "34%" } },
  "growing batches with a soak": { vms: six, rollout: { batches: [1, 2], maxUnavailable: 2, soak: "2m" } },
  "by order": { vms: four, rollout: { order: ["dog", "cat"] } },
};

/** What may be wrong with the new image on one VM. */
const troubles: Record<string, Behaviour> = {
  "is sick": { health: "sick" },
  "goes off": { crash: 5 },
  "never answers": { mute: true },
  "is slow": { boot: 25 },
  "gets well late": { health: { wellFrom: 2 } },
  flaps: { health: { flaps: 2, until: 30 } },
  "is sick and does not stop": { health: "sick", stop: "never" },
};

const harmless = ["is slow", "gets well late", "flaps"];

/** The VM that is first, in the middle and last in the rollout. */
function places({ vms, rollout }: { vms: string[]; rollout: Record<string, unknown> }): Record<string, string> {
  const order = (rollout.order as string[] | undefined) ?? [];
  const sorted = [...order, ...vms.filter((vm) => !order.includes(vm))];
  return { canary: sorted[0]!, middle: sorted[Math.floor(sorted.length / 2)]!, last: sorted.at(-1)! };
}

const upgrade: Step[] = [{ up: "v2" }];

function* byTrouble(): Generator<Scenario> {
  for (const [how, policy] of Object.entries(policies)) {
    yield { name: `${how}: all is well`, ...policy, steps: upgrade };
    for (const [what, behaviour] of Object.entries(troubles)) {
      for (const [place, vm] of Object.entries(places(policy))) {
        // What passes the gate in the end goes on in the same way everywhere.
        if (place !== "canary" && harmless.includes(what)) continue;
        yield { name: `${how}: ${place} ${what}`, ...policy, guests: { [vm]: { v2: behaviour } }, steps: upgrade };
      }
    }
  }
}

/** A rollout that is broken off, and gone on with. */
function* brokenOff(): Generator<Scenario> {
  for (const [how, policy] of Object.entries(policies)) {
    for (const after of [1, 6, 16]) {
      yield {
        name: `${how}: cancelled after ${after} s, then gone on with`,
        ...policy,
        steps: [{ up: "v2", cancel: after }, { up: "v2" }],
      };
      yield {
        name: `${how}: killed after ${after} s, then gone on with`,
        ...policy,
        steps: [{ up: "v2", kill: after }, { up: "v2" }],
      };
    }
    yield {
      name: `${how}: cancelled, gone on with, and then the last is sick`,
      ...policy,
      guests: { [places(policy).last!]: { v2: { health: "sick" } } },
      steps: [{ up: "v2", cancel: 16 }, { up: "v2" }],
    };
  }
}

/** After a failure: the same image is refused, a fixed one or the former one goes on. */
function* afterFailure(): Generator<Scenario> {
  const sick: Behaviour = { health: "sick" };
  for (const [how, policy] of Object.entries(policies)) {
    const { canary, last } = places(policy) as { canary: string; last: string };
    const after = (vm: string, name: string, ...steps: Step[]): Scenario => ({
      name: `${how}: ${name}`,
      ...policy,
      guests: { [vm]: { v2: sick } },
      steps: [...upgrade, ...steps],
    });
    yield after(canary, "the canary fails, the same image is refused", { up: "v2" });
    yield after(canary, "the canary fails, a fixed image goes through", { up: "v3" });
    yield after(canary, "the canary fails, the image is tried again on request", {
      up: "v2",
      rollout: { retry: [digestOf("v2")] },
    });
    yield after(last, "the last fails, a fixed image goes through", { up: "v3" });
    yield after(last, "the last fails, all go to the former image", { up: "v1" });
  }
}

/** What was not the image's fault is tried again without being asked to. */
function* notTheImage(): Generator<Scenario> {
  for (const [how, policy] of Object.entries(policies)) {
    for (const [place, vm] of Object.entries(places(policy))) {
      yield {
        name: `${how}: the QEMU of the ${place} is killed in its gate, the same image goes through in the next run`,
        ...policy,
        guests: { [vm]: { v2: { killed: 5 } } },
        steps: [{ up: "v2" }, { up: "v2" }],
      };
    }
  }
}

function* withoutGoingBack(): Generator<Scenario> {
  for (const vm of ["ant", "cat", "dog"]) {
    yield {
      name: `without going back: ${vm} is sick and is asked again before another one is touched`,
      ...{ vms: four, rollout: { goBack: false }, guests: { [vm]: { v2: { health: "sick" } } } },
      steps: [{ up: "v2" }, { up: "v2" }, { up: "v3" }],
    };
    yield {
      name: `going back fails too: the former overlay of ${vm} is gone`,
      ...{ vms: four, guests: { [vm]: { v2: { health: "sick" } } } },
      steps: [{ up: "v2", events: [{ at: 1, what: "loses its former overlay", vm }] }, { up: "v3" }],
    };
    // Well before the upgrade, sick after any restart: the boot is what breaks it.
    yield {
      name: `going back fails too: ${vm} is sick on both images, and was before`,
      ...{ vms: four, guests: { [vm]: { v1: { health: { sickFrom: 3000 } }, v2: { health: "sick" } } } },
      steps: [{ up: "v2" }, { up: "v3" }],
    };
    yield {
      name: `going back fails too: ${vm} never answers on either image`,
      ...{ vms: four, guests: { [vm]: { v1: { boot: 3590 }, v2: { mute: true } } } },
      steps: [{ up: "v2" }, { up: "v3" }],
    };
  }
}

/** VMs that are not healthy, off or new before the upgrade. */
function* before(): Generator<Scenario> {
  for (const [how, policy] of Object.entries(policies)) {
    const { canary, last } = places(policy) as { canary: string; last: string };
    const ill: Behaviour = { health: { sickFrom: 600 } };
    yield {
      name: `${how}: the canary was sick before and comes last`,
      ...policy,
      guests: { [canary]: { v1: ill } },
      steps: upgrade,
    };
    yield {
      name: `${how}: the canary was sick before and is not healed`,
      ...policy,
      guests: { [canary]: { v1: ill, v2: { health: "sick" } } },
      steps: upgrade,
    };
    yield {
      name: `${how}: all were sick before and are healed`,
      ...policy,
      guests: { "*": { v1: ill } },
      steps: upgrade,
    };
    yield { name: `${how}: one is off`, ...policy, off: [canary], steps: upgrade };
    yield { name: `${how}: two are new`, ...policy, fresh: [canary, last], steps: upgrade };
  }
  yield { name: "a new fleet comes up at once", vms: six, fresh: six, steps: [{ up: "v1" }, { up: "v2" }] };
  yield { name: "a new fleet while paused", vms: six, fresh: six, rollout: { pause: true }, steps: [{ up: "v1" }] };
}

/** What happens to VMs that were changed, while the next ones wait. */
function* soak(): Generator<Scenario> {
  const rollout = { soak: "3m", maxUnavailable: 2, batches: [1, 2] };
  const events: [string, Event[]][] = (["goes off", "restarts", "is removed", "loses its host"] as const).flatMap(
    (what) => [60, 150].map((at): [string, Event[]] => [`ant ${what} after ${at} s`, [{ at, what, vm: "ant" }]]),
  );
  for (const [name, happening] of events) {
    yield { name: `soak: ${name}`, vms: six, elsewhere: ["ant"], rollout, steps: [{ up: "v2", events: happening }] };
  }
  yield {
    name: "soak: the host of ant is lost and found again",
    ...{ vms: six, elsewhere: ["ant"], rollout },
    steps: [
      {
        up: "v2",
        events: [
          { at: 60, what: "loses its host", vm: "ant" },
          { at: 75, what: "finds its host", vm: "ant" },
        ],
      },
    ],
  };
  for (const seconds of [1, 30, 120, 170]) {
    const sick = { ant: { v2: { health: { sickFrom: seconds } } } };
    yield { name: `soak: ant gets sick after ${seconds} s`, vms: six, rollout, guests: sick, steps: upgrade };
    const flaps = { ant: { v2: { health: { flaps: 2, until: seconds / 4 } } } };
    yield { name: `soak: ant flaps for ${seconds / 4} s`, vms: six, rollout, guests: flaps, steps: upgrade };
    yield {
      name: `soak: cancelled after ${seconds} s, the rest of it is waited for`,
      ...{ vms: four, rollout },
      steps: [{ up: "v2", cancel: seconds + 30 }, { wait: 20 }, { up: "v2" }],
    };
  }
  yield {
    name: "soak: the canary gets sick only after the run was cancelled",
    ...{ vms: four, rollout, guests: { ant: { v2: { health: { sickFrom: 90 } } } } },
    steps: [{ up: "v2", cancel: 60 }, { wait: 100 }, { up: "v2" }],
  };
}

/** Windows that are closed, open, or close in the middle, also when the clock changes. */
function* windows(): Generator<Scenario> {
  const berlin = (from: string, to: string, days?: string[]) => ({
    windows: [{ from, to, zone: "Europe/Berlin", ...(days ? { days } : {}) }],
  });
  const tables: [name: string, start: string, rollout: Record<string, unknown>, ...steps: Step[]][] = [
    ["open", "2026-01-10T21:10", berlin("22:00", "23:00")],
    ["closed", "2026-01-10T20:10", berlin("22:00", "23:00")],
    ["closed on that day", "2026-01-11T21:10", berlin("22:00", "23:00", ["sat"])],
    ["open over midnight", "2026-01-10T23:10", berlin("22:00", "04:00", ["sat"])],
    ["closes in the middle", "2026-01-10T21:59:40", berlin("22:00", "23:00")],
    [
      "closes in the middle, the rest goes in the next one",
      "2026-01-10T21:59:40",
      berlin("22:00", "23:00"),
      { wait: 82_800 },
      { up: "v2" },
    ],
    ["closes in the middle, tried again at once", "2026-01-10T21:59:40", berlin("22:00", "23:00"), { up: "v2" }],
    ["closes while two are under way", "2026-01-10T21:59:40", { ...berlin("22:00", "23:00"), maxUnavailable: 2 }],
    ["closes during a soak", "2026-01-10T21:58", { ...berlin("22:00", "23:00"), soak: "5m" }],
    [
      "closed, then left out",
      "2026-01-10T20:10",
      berlin("22:00", "23:00"),
      { up: "v2", rollout: { windows: undefined } },
    ],
    ["opens late, as the clock skips an hour", "2026-03-29T00:59:40", berlin("02:30", "04:00")],
    ["is skipped with its hour", "2026-03-29T00:59:40", berlin("02:10", "02:50"), { wait: 60 }, { up: "v2" }],
    ["opens at the skip", "2026-03-29T01:00", berlin("02:30", "04:00")],
    ["closes early, as the clock skips an hour", "2026-03-29T00:59:40", berlin("01:00", "02:30")],
    ["over the skipped hour", "2026-03-29T00:59:40", berlin("01:00", "04:00")],
    ["in the first of two hours", "2026-10-25T00:30", berlin("02:10", "02:50")],
    ["in the second of two hours", "2026-10-25T01:30", berlin("02:10", "02:50")],
    ["closes in the second of two hours", "2026-10-25T01:49:40", berlin("02:10", "02:50")],
    ["of an evening in summer", "2026-07-10T20:30", berlin("22:00", "23:00")],
    ["of an evening in winter", "2026-01-09T20:30", berlin("22:00", "23:00")],
    ["the whole day", "2026-01-10T20:10", berlin("00:00", "24:00")],
  ];
  for (const [name, start, rollout, ...steps] of tables) {
    yield { name: `window: ${name}`, vms: four, start, rollout, steps: [...upgrade, ...steps] };
  }
  yield {
    name: "window: closed for VMs that run, not for new ones",
    ...{ vms: four, start: "2026-01-10T20:10", fresh: ["cat", "dog"], rollout: berlin("22:00", "23:00") },
    steps: upgrade,
  };
}

function* pause(): Generator<Scenario> {
  for (const [how, policy] of Object.entries(policies)) {
    yield {
      name: `${how}: stopped in the middle by hand, paused, and gone on with`,
      ...policy,
      steps: [
        { up: "v2", cancel: 16 },
        { up: "v2", rollout: { pause: true } },
        { up: "v2", rollout: { pause: false } },
      ],
    };
  }
  yield { name: "paused from the start", vms: four, rollout: { pause: true }, steps: upgrade };
}

function* hosts(): Generator<Scenario> {
  for (const at of [1, 4, 9, 20]) {
    const lost: Event = { at, what: "loses its host", vm: "bee" };
    const found: Event = { at: at + 15, what: "finds its host", vm: "bee" };
    for (const maxUnavailable of [1, 2]) {
      const of = { vms: four, elsewhere: ["bee", "dog"], rollout: { maxUnavailable } };
      const some = `${maxUnavailable} at a time`;
      yield { name: `host lost after ${at} s, ${some}`, ...of, steps: [{ up: "v2", events: [lost] }, { up: "v2" }] };
      yield {
        name: `host lost after ${at} s for 15 s, ${some}`,
        ...of,
        steps: [{ up: "v2", events: [lost, found] }, { up: "v2" }],
      };
    }
  }
}

function* groups(): Generator<Scenario> {
  const vms = ["db", "web-1", "web-2", "web-3", "web-4"];
  const own: [string, Record<string, unknown>, Record<string, unknown>][] = [
    ["of its own", { maxUnavailable: "50%" }, {}],
    ["after the rest", { maxUnavailable: 2 }, { order: ["db"] }],
    ["with two canaries", { canary: 2 }, { maxUnavailable: 2 }],
    ["without a canary", { canary: 0, maxUnavailable: 4 }, {}],
    ["paused alone", { pause: true }, {}],
    ["paused alone, and last", { pause: true }, { order: ["db"] }],
    ["with a soak", { soak: "1m" }, {}],
  ];
  for (const [name, rollout, fleet] of own) {
    const of = { vms, groups: { web: { count: 4, rollout } }, rollout: fleet };
    yield { name: `group ${name}`, ...of, steps: upgrade };
    yield {
      name: `group ${name}: web-3 is sick`,
      ...of,
      guests: { "web-3": { v2: { health: "sick" } } },
      steps: upgrade,
    };
    yield { name: `group ${name}: db is sick`, ...of, guests: { db: { v2: { health: "sick" } } }, steps: upgrade };
  }
}

export const scenarios: Scenario[] = [
  ...byTrouble(),
  ...brokenOff(),
  ...afterFailure(),
  ...notTheImage(),
  ...withoutGoingBack(),
  ...before(),
  ...soak(),
  ...windows(),
  ...pause(),
  ...hosts(),
  ...groups(),
];
