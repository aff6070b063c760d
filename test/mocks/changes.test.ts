import { changesOf } from "../../cli/changes";
import type { StateResource } from "../../cli/fleet";
import { missingVms, rolloutText, rolloutView } from "../../cli/rolloutPlan";
import { Fleet } from "../../components/Fleet";
import type { ResolvedImage } from "../../components/images";
import type * as plan from "../../components/plan";
import { config, image, planned } from "../helpers/fleets";
import { plain, recordResources, settled } from "../helpers/recorder";

const images = { os: image("a") };

/** The state that the real program leaves behind, as `pulumi stack export` has it. */
async function stateOf(fleet: plan.Plan, used: Record<string, ResolvedImage> = images): Promise<StateResource[]> {
  const seen = await recordResources();
  new Fleet("fleet", { plan: fleet, images: used, history: [] });
  await settled();
  return [...seen.values()].map(({ name, type, inputs }) => {
    const open = Object.fromEntries(Object.entries(inputs).map(([key, value]) => [key, plain(value)]));
    const computed = type === "random:index/randomPassword:RandomPassword" ? { result: "x".repeat(64) } : {};
    const id = type.endsWith(":Volume") ? `/pool/${String(open.name)}` : `${name}-id`;
    return {
      urn: `urn:pulumi:test::nixvm::${type}::${name}`,
      type,
      id,
      inputs: open,
      outputs: { ...open, ...computed },
    };
  });
}

const current = (digit = "a") => ({ imageDigest: digit.repeat(12), running: true, healthy: true });
const there = { current: { web: current(), db: current() } };
const full = config(["db", "web"], {
  networks: { lan: { subnet: "192.168.77.0/24" } },
  fleet: {
    db: { scratch: { size: "1GiB" }, health: { up: { command: "true" } } },
    web: { network: "nat:lan", identity: { sshHostKey: "stack" }, memoryMaximum: "1GiB" },
  },
});
const changed = (over: (vms: any) => void): plan.Plan => {
  const other = structuredClone(full) as { fleet: Record<string, unknown> };
  over(other.fleet);
  return planned(other, there);
};
const said = (fleet: plan.Plan, state: StateResource[], used: Record<string, ResolvedImage> = images) =>
  Object.fromEntries(changesOf(fleet, used, state).map(({ name, action, reasons }) => [name, [action, ...reasons]]));

test("nothing changes of what the program has just made: the plan counts on the inputs that it registers", async () => {
  const fleet = planned(full, there);
  expect(said(fleet, await stateOf(fleet))).toEqual({ db: ["none"], web: ["none"] });
});

test("a plan tells who restarts and why, who changes live, who is new and who goes", async () => {
  const state = await stateOf(planned(full, there));
  const one = (over: (vms: any) => void) => said(changed(over), state);
  expect(one((vms) => (vms.db.memory = "1GiB"))).toMatchObject({
    db: ["restart", "restarts, because the memory changes from 512 MiB to 1024 MiB"],
    web: ["none"],
  });
  expect(one((vms) => (vms.web.memory = "768MiB")).web).toEqual([
    "live",
    "the memory changes from 512 MiB to 768 MiB live, no restart",
  ]);
  expect(one((vms) => (vms.web.dns = ["1.1.1.1"])).web).toEqual(["live", "applies a new seed live, no restart"]);
  expect(one((vms) => (vms.db.scratch.size = "2GiB")).db).toEqual([
    "restart",
    "restarts, because its domain is replaced",
  ]);
  expect(one((vms) => (vms.db.generation = 1)).db?.[0]).toBe("restart");
  expect(one((vms) => (vms.db.running = false)).db).toEqual(["off", "is stopped cleanly"]);
  expect(one((vms) => (vms.new = {})).new).toEqual(["new"]);
  expect(one((vms) => delete vms.db).db).toEqual([
    "remove",
    expect.stringMatching(/^is not in the stack file.*persist\.retain/),
  ]);
});

test("a new image restarts all of its VMs, each with its reason, in the waves of the rollout", async () => {
  const state = await stateOf(planned(full, there));
  const next = { os: image("b") };
  const fleet = planned(full, { ...there, images: next });
  const view = rolloutView(fleet, changesOf(fleet, next, state), Date.parse("2026-11-22T12:00Z"));
  expect(view.waves.map(({ kind, vms }) => [kind, vms.map(({ name }) => name)])).toEqual([
    ["canary", ["db"]],
    ["batch", ["web"]],
  ]);
  const text = rolloutText(view, ["careful"]);
  expect(text).toMatch(/db restarts, because the image changes from image-v-a \(a{12}\) to image-v-b \(b{12}\)/);
  expect(text).toContain("VMs: 2 restart\nwarning: careful");
});

test("a window that is closed says when it opens, and a live change does not wait for it", async () => {
  const windows = { rollout: { windows: [{ days: ["sat"], from: "22:00", to: "24:00", zone: "Europe/Berlin" }] } };
  const fleet = planned({ ...full, ...windows }, there);
  const state = await stateOf(fleet);
  const next = { os: image("b") };
  const later = planned({ ...full, ...windows }, { ...there, images: next });
  const sunday = Date.parse("2026-11-22T12:00Z");
  const view = rolloutView(later, changesOf(later, next, state), sunday);
  expect(view.waves[0]?.window).toEqual({
    open: false,
    opens: Date.parse("2026-11-28T21:00Z"),
    text: "closed now, opens Sat 2026-11-28 22:00 Europe/Berlin (2026-11-28T21:00Z)",
  });
  expect(rolloutText(view, [])).toContain("window closed now, opens Sat 2026-11-28");
  const live = rolloutView(
    fleet,
    changesOf(
      changed((vms) => (vms.web.dns = ["1.1.1.1"])),
      images,
      state,
    ),
    sunday,
  );
  expect(rolloutText(live, [])).not.toContain("window");
});

test("a VM that the state has and its host has not is said, as a run without a refresh does not see it", async () => {
  const state = await stateOf(planned(full, there));
  const changes = changesOf(planned(full, { current: { db: current() } }), images, state);
  expect(missingVms(["db"], changes)).toEqual([expect.stringMatching(/^web is in .*--refresh/)]);
  // One that is off is there, although it comes up at once like a new one.
  expect(missingVms(["db", "web"], changes)).toEqual([]);
  const removed = changesOf(
    planned({ ...full, fleet: { web: (full.fleet as Record<string, object>).web } }, there),
    images,
    state,
  );
  expect(missingVms(["web"], removed)).toEqual([]);
});
