import fc from "fast-check";
import type { Amount, RolloutPolicy } from "../../components/plan";
import { amountOf, type Known, planWaves, type RolloutMember } from "../../components/plan/waves";

const policy = (over: Partial<RolloutPolicy> = {}): RolloutPolicy => ({
  own: false,
  canary: 1,
  batches: ["100%"],
  maxUnavailable: 1,
  order: [],
  soakSeconds: 0,
  windows: [],
  pause: false,
  timeLimitSeconds: null,
  ...over,
});

const names = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay", "kea", "lark"];
const groups = [null, "birds", "mammals"];
const percent = fc.integer({ min: 1, max: 100 }).map((part) => `${part}%`);
const amount = (min: number): fc.Arbitrary<Amount> => fc.oneof(fc.integer({ min, max: 15 }), percent);
const somePolicy = fc.record({
  own: fc.boolean(),
  canary: amount(0),
  batches: fc.array(amount(1), { minLength: 1, maxLength: 3 }),
  maxUnavailable: amount(1),
  order: fc.shuffledSubarray([...names, "birds", "mammals"], { maxLength: 5 }),
});
interface Case {
  members: RolloutMember[];
  known: Map<string, Known>;
  policyOf: (group: string | null) => RolloutPolicy;
  unitOf: (name: string) => string | null;
}
/** Any fleet in any state under any policies. */
const someCase: fc.Arbitrary<Case> = fc
  .record({
    members: fc.uniqueArray(
      fc.record({
        name: fc.constantFrom(...names),
        group: fc.constantFrom(...groups),
        image: fc.constantFrom("x", "y"),
      }),
      {
        selector: ({ name }) => name,
      },
    ),
    states: fc.array(
      fc.option(fc.record({ changes: fc.boolean(), healthy: fc.boolean() }, { requiredKeys: ["changes"] }), {
        freq: 4,
      }),
      { minLength: names.length, maxLength: names.length },
    ),
    policies: fc.tuple(somePolicy, somePolicy, somePolicy),
  })
  .map(({ members, states, policies }) => {
    const known = new Map<string, Known>();
    for (const { name } of members) {
      const state = states[names.indexOf(name)];
      if (state) known.set(name, state);
    }
    const policyOf = (group: string | null) =>
      policy({ ...policies[groups.indexOf(group)], ...(group === null ? { own: false } : {}) });
    const groupOf = new Map(members.map(({ name, group }) => [name, group]));
    const unitOf = (name: string) => {
      const group = groupOf.get(name) ?? null;
      return group !== null && policyOf(group).own ? group : null;
    };
    return { members, known, policyOf, unitOf };
  });
const plan = ({ members, known, policyOf }: Case) => planWaves(members, known, policyOf);

describe("the waves of any rollout", () => {
  test("have every VM exactly once, and what is new waits for nobody and holds up nobody", () => {
    fc.assert(
      fc.property(someCase, (any) => {
        const { waves, after } = plan(any);
        expect(waves.flatMap(({ vms }) => vms).sort()).toEqual(any.members.map(({ name }) => name).sort());
        expect([...after.keys()].sort()).toEqual(any.members.map(({ name }) => name).sort());
        for (const [name, before] of after) {
          if (!any.known.has(name)) expect(before).toEqual([]);
          expect(before.filter((other) => !any.known.has(other))).toEqual([]);
        }
      }),
    );
  });

  test("never have more than maxUnavailable VMs under way, however long each takes, and a canary is alone", () => {
    const durations = fc.array(fc.nat(100), { minLength: names.length, maxLength: names.length });
    fc.assert(
      fc.property(someCase, durations, (any, takes) => {
        const { waves, after } = plan(any);
        const times = new Map<string, { from: number; to: number }>();
        // In the order of the waves: a VM that waited for a later one would have no time here.
        for (const name of waves.flatMap(({ vms }) => vms)) {
          const from = Math.max(0, ...(after.get(name) ?? []).map((before) => times.get(before)?.to ?? NaN));
          times.set(name, { from, to: from + 1 + takes[names.indexOf(name)]! });
        }
        const staged = [...times].filter(([name]) => any.known.has(name));
        const sizes = (unit: string | null) => staged.filter(([name]) => any.unitOf(name) === unit).length;
        for (const [name, { from }] of staged) {
          const active = staged.filter(([, other]) => other.from <= from && from < other.to).map(([other]) => other);
          const unit = any.unitOf(name);
          expect(active.length).toBeLessThanOrEqual(amountOf(any.policyOf(unit).maxUnavailable, sizes(unit)));
          expect(new Set(active.map(any.unitOf)).size).toBe(1);
          const wave = waves.find(({ vms }) => vms.includes(name));
          if (wave?.kind === "canary") expect(active).toEqual([name]);
        }
      }),
    );
  });

  test("go by the order: within a unit, and for units by the first of what it names", () => {
    fc.assert(
      fc.property(someCase, (any) => {
        const { waves } = plan(any);
        for (const { vms, group, kind } of waves) {
          if (kind === "new") continue;
          const { order } = any.policyOf(group);
          const place = (name: string) => {
            const own = order.indexOf(name);
            const its = order.indexOf(any.members.find((member) => member.name === name)?.group ?? "");
            return own >= 0 ? own : its >= 0 ? its : order.length;
          };
          const keys = vms.map((name): [number, string] => [place(name), name]);
          expect(keys).toEqual([...keys].sort(([a, x], [b, y]) => a - b || (x < y ? -1 : 1)));
        }
        const units = waves.filter(({ kind }) => kind !== "new").map(({ group }) => group);
        const blocks = units.filter((unit, at) => unit !== units[at - 1]);
        expect(new Set(blocks).size).toBe(blocks.length);
        const { order } = any.policyOf(null);
        const places = blocks.map((unit) => {
          const of = any.members.filter(({ name }) => any.known.has(name) && any.unitOf(name) === unit);
          const all = of.flatMap(({ name, group }) => [name, group]).map((name) => order.indexOf(name ?? ""));
          return Math.min(order.length, ...all.filter((at) => at >= 0));
        });
        expect(places).toEqual([...places].sort((a, b) => a - b));
      }),
    );
  });

  test("take what is done already first, then what changes, and what is not healthy last, which is never a canary", () => {
    fc.assert(
      fc.property(someCase, (any) => {
        const { waves } = plan(any);
        for (const unit of groups) {
          const own = waves.filter(({ group, kind }) => group === unit && kind !== "new");
          const imageOf = (name: string) => any.members.find((member) => member.name === name)?.image;
          const coming = own.filter(({ changes }) => changes).flatMap(({ vms }) => vms.map(imageOf));
          const rank = own.map(({ kind, changes, vms }) => {
            if (kind === "unhealthy") return changes ? 3 : 4;
            return changes ? 1 : coming.includes(imageOf(vms[0]!)) ? 0 : 2;
          });
          expect(rank).toEqual([...rank].sort());
        }
        for (const { kind, changes, vms } of waves) {
          for (const name of vms) {
            expect(any.known.get(name)?.changes ?? false).toBe(changes);
            expect(any.known.get(name)?.healthy === false).toBe(kind === "unhealthy");
          }
        }
      }),
    );
  });

  test("do not depend on the order of the stack file, and are the same each time", () => {
    fc.assert(
      fc.property(someCase, fc.nat(11), (any, turn) => {
        const turned = [...any.members.slice(turn), ...any.members.slice(0, turn)].reverse();
        const known = new Map([...any.known].reverse());
        const [first, second] = [plan(any), plan({ ...any, members: turned, known })];
        expect(second.waves).toEqual(first.waves);
        expect(Object.fromEntries(second.after)).toEqual(Object.fromEntries(first.after));
      }),
    );
  });

  test("sizes: the canary, then each batch, the last size again and again", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 12 }), somePolicy, (count, some) => {
        const members = names.slice(0, count).map((name) => ({ name, group: null, image: "x" }));
        const known = new Map(members.map(({ name }) => [name, { changes: true }]));
        const { waves } = planWaves(members, known, () => policy({ ...some, own: false }));
        const canaries = waves.filter(({ kind }) => kind === "canary").flatMap(({ vms }) => vms);
        expect(canaries).toHaveLength(amountOf(some.canary, count));
        const sizes = waves.filter(({ kind }) => kind === "batch").map(({ vms }) => vms.length);
        let left = count - canaries.length;
        for (const [at, size] of sizes.entries()) {
          const wanted = some.batches[at] ?? some.batches.at(-1)!;
          expect(size).toBe(Math.min(left, amountOf(wanted, count)));
          left -= size;
        }
        expect(left).toBe(0);
      }),
    );
  });
});

test.each<[Amount, number, number]>([
  ["25%", 4, 1],
  ["25%", 7, 1],
  ["25%", 8, 2],
  ["1%", 3, 1],
  ["99%", 3, 2],
  ["100%", 3, 3],
  [5, 3, 3],
  [0, 3, 0],
  [1, 0, 0],
  ["50%", 0, 0],
])("%s of %i VMs are %i", (amount, total, expected) => expect(amountOf(amount, total)).toBe(expected));

test("with nothing said it is one VM after the other, by name", () => {
  const members = ["c", "a", "b"].map((name) => ({ name, group: null, image: "x" }));
  const known = new Map(members.map(({ name }) => [name, { changes: true }]));
  const { waves, after } = planWaves(members, known, () => policy());
  expect(waves.map(({ kind, vms }) => [kind, ...vms])).toEqual([
    ["canary", "a"],
    ["batch", "b", "c"],
  ]);
  expect([...after]).toEqual([
    ["a", []],
    ["b", ["a"]],
    ["c", ["b"]],
  ]);
});

test("a slow VM holds up its own lane only, and the next wave waits for all of this one", () => {
  const members = ["a", "b", "c", "d", "e", "f", "g"].map((name) => ({ name, group: null, image: "x" }));
  const known = new Map(members.map(({ name }) => [name, { changes: true }]));
  const { after } = planWaves(members, known, () => policy({ maxUnavailable: 2, batches: [4] }));
  expect(Object.fromEntries(after)).toEqual({
    a: [],
    b: ["a"],
    c: ["a"],
    d: ["b"],
    e: ["c"],
    f: ["d", "e"],
    g: ["d", "e"],
  });
});
