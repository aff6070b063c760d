import { formatWaves, type PlanContext } from "../../components/plan";
import { base, planOf, problemsOf, textsOf } from "./plan-support";

/** Each row: what is wrong, the config, the path of the one problem, and what its text must contain. */
type Row = [what: string, config: unknown, path: string, parts: string[]];

const fleet2 = (rollout: object) => ({ ...base, fleet: { a: {}, b: {} }, rollout });
const group = (count: number, rollout: object) => ({ ...base, groups: { w: { count, rollout } } });

const rows: Row[] = [
  ["nobody at a time", fleet2({ maxUnavailable: 0 }), "rollout.maxUnavailable", ["0 is not", "from 1 to 1000"]],
  [
    "no percent",
    fleet2({ maxUnavailable: "0%" }),
    "rollout.maxUnavailable",
    ['"0%" is not', 'such as "25%", up to "100%"'],
  ],
  ["more than all", fleet2({ canary: "101%" }), "rollout.canary", ['"101%" is not', 'such as "25%", up to "100%"']],
  ["half a percent", fleet2({ canary: "0.5%" }), "rollout.canary", ['"0.5%" is not']],
  ["a negative canary", fleet2({ canary: -1 }), "rollout.canary", ["-1 is not", "from 0 to 1000"]],
  ["no batches", fleet2({ batches: [] }), "rollout.batches", ["the empty list is not", "at least one size"]],
  ["a batch of zero", fleet2({ batches: [1, 0] }), "rollout.batches[1]", ["0 is not", "from 1 to 1000"]],
  ["a batch of 200 %", fleet2({ batches: ["200%"] }), "rollout.batches[0]", ['"200%" is not']],
  ["no soak", fleet2({ soak: "0s" }), "rollout.soak", ['"0s" is not a duration']],
  ["a pause in words", fleet2({ pause: "yes" }), "rollout.pause", ['"yes" is not true or false']],
  ["no windows", fleet2({ windows: [] }), "rollout.windows", ["the empty list is not", "at any time"]],
  [
    "a window on no day, which never opens",
    fleet2({ windows: [{ days: [], from: "22:00", to: "23:00" }] }),
    "rollout.windows[0].days",
    ["the empty list is not a window that ever opens", "mon, tue"],
  ],
  [
    "a window on a day in words",
    fleet2({ windows: [{ days: ["monday"], from: "22:00", to: "23:00" }] }),
    "rollout.windows[0].days[0]",
    ['"monday" is not a day', "mon, tue, wed, thu, fri, sat, sun"],
  ],
  [
    "a window in an unknown time zone",
    fleet2({ windows: [{ from: "22:00", to: "23:00", zone: "Europe/Berlim" }] }),
    "rollout.windows[0].zone",
    ['"Europe/Berlim" is not a time zone', "Europe/Berlin"],
  ],
  [
    "a window at no time of a day",
    fleet2({ windows: [{ from: "25:00", to: "23:00" }] }),
    "rollout.windows[0].from",
    ['"25:00" is not a time', '"22:00"'],
  ],
  [
    "a window without an end",
    fleet2({ windows: [{ from: "22:00" }] }),
    "rollout.windows[0].to",
    ["is missing", '"24:00"'],
  ],
  [
    "goBack of a group, which is the fleet's",
    { ...base, groups: { w: { count: 2, rollout: { goBack: true } } } },
    "groups.w.rollout.goBack",
    ["is not a known key", "canary"],
  ],
  [
    "a canary larger than the fleet",
    fleet2({ canary: 3 }),
    "rollout.canary",
    ["3 is more than the fleet", "has: 2 VMs", "0 to 2"],
  ],
  ["a canary larger than the group", group(2, { canary: 3 }), "groups.w.rollout.canary", ["than the group has: 2 VMs"]],
  [
    "a canary larger than what no group has taken for itself",
    { ...group(5, { canary: 1 }), fleet: { a: {} }, rollout: { canary: 2 } },
    "rollout.canary",
    ["2 is more than the fleet, without groups", "has: 1 VM;"],
  ],
  [
    "an order that names nobody",
    fleet2({ order: ["a", "bb"] }),
    "rollout.order[1]",
    ["names nobody", "mean b?", "a, b"],
  ],
  ["an order that names one twice", fleet2({ order: ["a", "b", "a"] }), "rollout.order[2]", ["is there twice"]],
  [
    "an order of a group that names another's VM",
    { ...group(2, { order: ["w-2", "a"] }), fleet: { a: {} } },
    "groups.w.rollout.order[1]",
    ['"a" names nobody', "allowed: w-1, w-2"],
  ],
  [
    "a window that ends when it begins, so that it never opens",
    fleet2({ windows: [{ from: "22:00", to: "22:00" }] }),
    "rollout.windows[0].to",
    ["never opens", '"00:00" to "24:00"'],
  ],
];

describe("a rollout that cannot be meant is refused", () => {
  test.each(rows)("%s", (_what, config, path, parts) => {
    const [text = "", ...others] = textsOf(config);
    expect(others).toEqual([]);
    expect(problemsOf(config)[0]?.path).toBe(path);
    for (const part of parts) expect(text).toContain(part);
  });

  test.each<[string, object]>([
    ["a group scaled down to nothing", group(0, { canary: 2 })],
    ["a canary of all", fleet2({ canary: 2 })],
    ["a part of few", fleet2({ canary: "1%", batches: ["100%"], maxUnavailable: "1%" })],
    ["an order of groups and VMs", { ...group(2, {}), fleet: { a: {} }, rollout: { order: ["w", "a", "w-2"] } }],
    ["a whole day", fleet2({ windows: [{ from: "00:00", to: "24:00" }] })],
  ])("%s is allowed", (_what, config) => expect(textsOf(config)).toEqual([]));

  test("a name that is wrong itself makes no second mistake of the order", () => {
    expect(textsOf({ ...base, fleet: { a: 5 }, rollout: { order: ["a"] } })).toHaveLength(1);
  });
});

const OLD = "aaaaaaaaaaaa";
const NEW = "bbbbbbbbbbbb";
const config = { ...base, fleet: { a: {}, b: {}, c: {}, d: {} } };
const known = (current: PlanContext["current"]): Partial<PlanContext> => ({
  current: current ?? {},
  images: { os: { digest: NEW.padEnd(64, "0") } },
});
const all = (imageDigest: string) => Object.fromEntries(["a", "b", "c", "d"].map((name) => [name, { imageDigest }]));
const afterOf = (vms: ReturnType<typeof planOf>["vms"]) => vms.map(({ name, after }) => [name, ...after].join("<"));
const text = (plan: ReturnType<typeof planOf>) => formatWaves(plan);

describe("the rollout of a plan", () => {
  test("a new fleet waits for nobody, one of which nothing is known goes one by one", () => {
    expect(afterOf(planOf(config, known({})).vms)).toEqual(["a", "b", "c", "d"]);
    expect(afterOf(planOf(config).vms)).toEqual(["a", "b<a", "c<b", "d<c"]);
  });

  test("in the test driver of libvirt nothing is known, so it goes one by one", () => {
    const uri = { ...config, hosts: { local: { uri: "test:///default", accelerator: "tcg" } } };
    expect(afterOf(planOf(uri, known({})).vms)).toEqual(["a", "b<a", "c<b", "d<c"]);
  });

  test("a VM that is off comes up at once, unless it has a new image to try: then it comes last", () => {
    const off = { ...all(OLD), a: { imageDigest: OLD, running: false }, b: { imageDigest: NEW, running: false } };
    expect(afterOf(planOf(config, known(off)).vms)).toEqual(["b", "c", "d<c", "a<d"]);
    expect(afterOf(planOf(config, known({ ...all(NEW), a: { running: false } })).vms)).toEqual([
      "a",
      "b",
      "c<b",
      "d<c",
    ]);
  });

  test("a VM that runs on an image of which nothing is known is one that changes", () => {
    const { waves } = planOf(config, known({ ...all(NEW), c: {} }));
    expect(waves.filter(({ changes }) => changes).flatMap(({ vms }) => vms)).toEqual(["c"]);
  });

  test("a group with a rollout of its own has its own policy, field by field over that of the fleet", () => {
    const rollout = { soak: "10m", maxUnavailable: 2, windows: [{ from: "22:00", to: "04:00" }] };
    const plan = planOf({
      ...config,
      groups: { w: { count: 4, rollout: { maxUnavailable: "50%", pause: true } } },
      rollout,
    });
    const of = (name: string) => plan.vms.find((vm) => vm.name === name)?.rollout;
    expect(of("w-1")).toMatchObject({ soakSeconds: 600, pause: true, wave: 1, waves: 4, kind: "canary" });
    expect(of("d")).toMatchObject({ soakSeconds: 600, pause: false, wave: 4, kind: "batch" });
    expect(of("a")?.windows).toEqual([
      { days: ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], from: "22:00", to: "04:00", zone: "UTC" },
    ]);
    expect(plan.waves.map(({ group, lanes, vms }) => [group, lanes, ...vms])).toEqual([
      ["w", 1, "w-1"],
      ["w", 2, "w-2", "w-3", "w-4"],
      [null, 1, "a"],
      [null, 2, "b", "c", "d"],
    ]);
  });

  test("what has to be healthy before: the wave before, and of a rollout that was broken off what is done", () => {
    const soak = { ...config, rollout: { soak: "5m" } };
    const before = (current: PlanContext["current"], extra = {}) =>
      planOf({ ...soak, ...extra }, known(current)).vms.map(({ name, rollout }) => [
        name,
        ...(rollout?.before.map(({ vm, domain }) => `${vm}=${domain}`) ?? []),
      ]);
    expect(before(all(OLD))).toEqual([
      ["a"],
      ["b", "a=nixvm-test-a"],
      ["c", "a=nixvm-test-a"],
      ["d", "a=nixvm-test-a"],
    ]);
    const resumed = before({ ...all(OLD), a: { imageDigest: NEW } });
    expect(resumed.slice(0, 3)).toEqual([["a"], ["b", "a=nixvm-test-a"], ["c", "b=nixvm-test-b"]]);
    // One that is meant to be off says nothing, nor does one of another image.
    const others = { images: { ...base.images, other: { path: "x.qcow2" } } };
    const fleet = { ...config.fleet, a: { image: "other" }, b: { running: false } };
    expect(before({ ...all(OLD), b: { imageDigest: NEW } }, { ...others, fleet }).slice(0, 2)).toEqual([["b"], ["c"]]);
    // Without a soak there is nothing to look at again.
    expect(before(all(OLD), { rollout: {} }).flat()).toEqual(["a", "b", "c", "d"]);
  });
});

describe("what is shown of the rollout before anything happens", () => {
  test("nothing when no image changes, or nothing is there yet", () => {
    expect(text(planOf(config, known(all(NEW))))).toEqual([]);
    expect(text(planOf(config, known({})))).toEqual([]);
    expect(text(planOf(config))).toEqual([]);
  });

  test("one line a wave, with all that it waits for", () => {
    const rollout = {
      batches: [1, "50%"],
      maxUnavailable: 2,
      soak: "1h30m",
      windows: [{ days: ["sat", "sun"], from: "22:00", to: "04:00", zone: "Europe/Berlin" }],
    };
    const big = { ...config, fleet: { ...config.fleet, e: {}, f: {}, g: {} }, rollout };
    const current = {
      ...all(OLD),
      d: { imageDigest: OLD, healthy: false },
      e: { imageDigest: OLD },
      f: { imageDigest: OLD },
    };
    const only = ", only sat sun 22:00 to 04:00 Europe/Berlin";
    expect(text(planOf(big, known(current)))).toEqual([
      "rollout: at once: g",
      `rollout: wave 1 of 4: canary a${only}`,
      `rollout: wave 2 of 4: b, once a has been healthy for 1h30m${only}`,
      `rollout: wave 3 of 4: c, e, f, 2 at a time, once b has been healthy for 1h30m${only}`,
      `rollout: wave 4 of 4: d, it is not healthy now, once c, e, f have been healthy for 1h30m${only}`,
    ]);
  });

  test("a pause and a group are named, and many names are counted", () => {
    const current = Object.fromEntries(Array.from({ length: 15 }, (_, i) => [`w-${i + 1}`, { imageDigest: OLD }]));
    const lines = text(planOf(group(15, { pause: true, canary: 0 }), known(current)));
    expect(lines).toEqual([
      "rollout: wave 1 of 1: w-1, w-10, w-11, w-12, w-13, w-14, w-15, w-2, w-3, w-4, w-5, w-6 and 3 more, group w, one after the other, PAUSED",
    ]);
  });
});
