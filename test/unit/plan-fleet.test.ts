import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { formatProblems, type Plan, planFleet, type VmPlan } from "../../components/plan";
import { base, context, planOf } from "./plan-support";

const names = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen"];
const vm = fc.record(
  {
    memory: fc.constantFrom("512MiB", "1GiB", 2048),
    vcpus: fc.integer({ min: 1, max: 8 }),
    running: fc.boolean(),
    persist: fc.record({ size: fc.constantFrom("1GiB", "20G"), protect: fc.boolean() }, { requiredKeys: [] }),
    network: fc.constantFrom("nat", "bridge:br0"),
    generation: fc.nat(3),
    vmDiskSize: fc.nat(3),
  },
  { requiredKeys: [] },
);
const fleet = fc.dictionary(fc.constantFrom(...names), vm, { maxKeys: 8 });
const lanes = fc.integer({ min: 1, max: 4 });

const config = (vms: object, size = 1) => ({
  ...base,
  groups: { w: { count: 3 } },
  fleet: vms,
  rollout: { maxUnavailable: size },
});
const withoutOrder = (plan: Plan): Map<string, VmPlan> =>
  new Map(plan.vms.map((one) => [one.name, { ...one, after: [], rollout: null }]));

describe("the plan of a fleet", () => {
  test("changing one VM changes that VM's plan and nothing else (G-2)", () => {
    fc.assert(
      fc.property(fleet, fc.constantFrom(...names), vm, lanes, (vms, name, other, size) => {
        fc.pre(Object.hasOwn(vms, name));
        const [before, after] = [planOf(config(vms, size)), planOf(config({ ...vms, [name]: other }, size))];
        const rest = (plan: Plan) => ({ ...plan, warnings: [], vms: plan.vms.filter((one) => one.name !== name) });
        expect(rest(after)).toEqual(rest(before));
      }),
    );
  });

  test("adding or removing a VM changes no other, but for its place in the order (G-2)", () => {
    fc.assert(
      fc.property(fleet, fc.constantFrom(...names), vm, (vms, name, added) => {
        const { [name]: _, ...rest } = vms;
        const [without, with_] = [
          withoutOrder(planOf(config(rest))),
          withoutOrder(planOf(config({ ...rest, [name]: added }))),
        ];
        expect(with_.has(name)).toBe(true);
        with_.delete(name);
        expect(with_).toEqual(without);
      }),
    );
  });

  test("the order of entries in the file means nothing", () => {
    fc.assert(
      fc.property(fleet, lanes, (vms, size) => {
        const turned = Object.fromEntries(Object.entries(vms).reverse());
        expect(JSON.stringify(planOf(config(turned, size)))).toBe(JSON.stringify(planOf(config(vms, size))));
      }),
    );
  });

  test("what is planned is plain data", () => {
    fc.assert(
      fc.property(fleet, (vms) => {
        const plan = planOf(config(vms));
        expect(JSON.parse(JSON.stringify(plan))).toEqual(plan);
      }),
    );
  });

  test("the image is in no VM's identity, volume or seed inputs: an upgrade changes image and nothing else (T-41 to T-44)", () => {
    const images = { v1: { path: "v1.qcow2" }, v2: { path: "v2.qcow2" } };
    fc.assert(
      fc.property(fleet, (vms) => {
        const at = (image: string) => planOf({ ...config(vms), images, defaults: { image } }).vms;
        const strip = (all: readonly VmPlan[]) => all.map((one) => ({ ...one, image: "", imageKey: "" }));
        expect(strip(at("v2"))).toEqual(strip(at("v1")));
      }),
    );
  });
});

describe("any input", () => {
  const junk = fc.anything({ withObjectString: true, withNullPrototype: true, maxDepth: 4 });
  const sections = ["hosts", "images", "networks", "defaults", "fleet", "groups", "rollout", "other"];
  const fields = [
    "image",
    "host",
    "preset",
    "persist",
    "size",
    "network",
    "address",
    "accounts",
    "count",
    "identity",
    "mac",
    "scratch",
    "home",
    "__proto__",
    "constructor",
    "path",
    "subnet",
    "toString",
  ];
  const words = [
    "os",
    "nat",
    "tmpfs",
    "zvm",
    "readonly",
    "1GiB",
    "10.0.0.0/24",
    "10.0.0.2",
    "local",
    "x.qcow2",
    "toString",
    "02:00:00:00:00:01",
  ];
  const leaf = fc.oneof(junk, fc.constantFrom(...words), fc.integer(), fc.boolean(), fc.constant(null));
  const inner = fc.dictionary(fc.oneof(fc.constantFrom(...fields, ...words), fc.string()), leaf, { maxKeys: 5 });
  const middle = fc.dictionary(fc.oneof(fc.constantFrom(...fields, "web", "db"), fc.string()), fc.oneof(inner, leaf), {
    maxKeys: 5,
  });
  const outer = fc.dictionary(fc.constantFrom(...sections), fc.oneof(middle, leaf), { maxKeys: 8 });

  test("gives a plan or problems with a path and a text, and never throws", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          junk,
          outer,
          middle.map((web) => ({ ...base, fleet: { web } })),
        ),
        (input) => {
          const result = planFleet(input, context);
          if (result.ok) return;
          expect(result.problems.length).toBeGreaterThan(0);
          for (const problem of result.problems) {
            expect(problem.path).not.toBe("");
            expect(problem.message).toMatch(/\S/);
            expect(problem.message).not.toMatch(/invalid|expected/i);
          }
          expect(new Set(result.problems.map(({ path }) => path)).size).toBe(result.problems.length);
          expect(formatProblems(result.problems).split("\n")).toHaveLength(result.problems.length + 1);
        },
      ),
      { numRuns: 300 },
    );
  });

  test("a fleet of 1,000 VMs is planned in no time worth mentioning", () => {
    const started = performance.now();
    expect(planOf({ ...base, groups: { w: { count: 1000 } } }).vms).toHaveLength(1000);
    expect(performance.now() - started).toBeLessThan(3000);
  });
});

test("the planner is pure: no Pulumi, no I/O, but for the script that writes the schema (D7)", () => {
  const folder = join(__dirname, "..", "..", "components", "plan");
  const allowed = /^(\.\/[a-z-]+|zod|@js-temporal\/polyfill|node:crypto|node:net)$/;
  for (const file of readdirSync(folder).filter((name) => name !== "write-schema.ts")) {
    const imports = [...readFileSync(join(folder, file), "utf8").matchAll(/from "([^"]+)"/g)].map((match) => match[1]);
    expect(imports.filter((from) => !allowed.test(from ?? ""))).toEqual([]);
  }
});

test("a single member of a group has fields of its own, the others those of the group", () => {
  const plan = planOf({ ...base, groups: { w: { count: 3, vcpus: 2, members: { 2: { running: false, vcpus: 4 } } } } });
  expect(plan.vms.map(({ name, running, vcpus }) => [name, running, vcpus])).toEqual([
    ["w-1", true, 2],
    ["w-2", false, 4],
    ["w-3", true, 2],
  ]);
});
