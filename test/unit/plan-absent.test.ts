import { base, context, one, planOf, problemsOf, textsOf, vmOf } from "./plan-support";
import { planFleet } from "../../components/plan";

test("an absent VM is in no plan, and its image is not asked for (T-54)", () => {
  const images = { ...base.images, old: { path: "images/old.qcow2" } };
  const config = { ...base, images, fleet: { web: { state: "absent", image: "old" }, db: {} } };
  const plan = planOf(config);
  expect(plan.vms.map(({ name }) => name)).toEqual(["db"]);
  expect(plan.images.map(({ name }) => name)).toEqual(["os"]);
});

test("an absent VM is nobody that others wait for, and those that are there are as without it", () => {
  const fleet = { a: {}, b: {}, c: {} };
  expect(planOf({ ...base, fleet: { ...fleet, b: { state: "absent" } } })).toEqual(
    planOf({ ...base, fleet: { a: {}, c: {} } }),
  );
});

test("what is one VM's own stays its own while it is absent: names, ports, addresses (T-54)", () => {
  const network = { mode: "user", sshPort: 2222 };
  expect(textsOf({ ...base, fleet: { a: { state: "absent", network }, b: { network } } })).toEqual([
    expect.stringContaining("fleet.b.network.sshPort: 2222 is the SSH port of two VMs, a and b"),
  ]);
  const clash = { ...base, fleet: { "w-1": { state: "absent" } }, groups: { w: { count: 1 } } };
  expect(textsOf(clash)[0]).toContain("has a member w-1, and fleet has a VM of that name");
  expect(problemsOf({ ...base, fleet: { a: { state: "absent" } }, rollout: { order: ["a"] } })).toEqual([]);
});

test("an entry is checked while its VM is absent, but what is only likely wrong is not said", () => {
  expect(textsOf(one({ state: "absent", image: "none" }))).toEqual([expect.stringContaining("fleet.web.image")]);
  const config = (state: string) => one({ state, tcpPorts: [80] });
  expect(planOf(config("present")).warnings).toHaveLength(1);
  expect(planOf(config("absent")).warnings).toEqual([]);
});

test("a member, a group and the defaults can be absent, and the nearest word holds", () => {
  const names = (config: object): string[] => planOf({ ...base, ...config }).vms.map(({ name }) => name);
  expect(names({ groups: { w: { count: 3, members: { 2: { state: "absent" } } } } })).toEqual(["w-1", "w-3"]);
  expect(names({ groups: { w: { count: 2, state: "absent", members: { 1: { state: "present" } } } } })).toEqual([
    "w-1",
  ]);
  expect(names({ defaults: { ...base.defaults, state: "absent" }, fleet: { a: {}, b: { state: "present" } } })).toEqual(
    ["b"],
  );
});

test("present is the default, and says nothing else than no word", () => {
  expect(vmOf(one({ state: "present" }))).toEqual(vmOf(one({})));
});

test("another word is refused, with those that there are", () => {
  const result = planFleet(one({ state: "absnt" }), context);
  expect(result.ok ? [] : result.problems).toMatchObject([
    {
      path: "fleet.web.state",
      value: "absnt",
      message: expect.stringContaining("did you mean absent"),
      allowed: "present, absent",
    },
  ]);
});
