import { admit, NotAdmitted, type RolloutInput, rolloutInput } from "../../provider/admit";
import { applyGuest } from "../../provider/lifecycle";
import { UNKNOWN } from "../../provider/inputs";
import { GuestType } from "../../provider/resources";
import { LibvirtError } from "../../provider/virsh";
import { planOf } from "./plan-support";
import { FakeLibvirt, Scene, START, want } from "./provider-fake";

/** The guests of the fake boot at the moment at which the clock starts. */
const canary = { vm: "web", domain: "fleet-web", uri: "qemu:///system" };
const rollout: RolloutInput = {
  wave: 2,
  waves: 2,
  kind: "batch",
  before: [canary],
  soakSeconds: 600,
  windows: [],
  pause: false,
};

let scene: Scene;
beforeEach(() => (scene = new Scene()));
/** How many seconds pass until it may go on. */
async function seconds(input: RolloutInput | "none" = rollout): Promise<number> {
  const begun = scene.clock.now();
  await admit("db", input === "none" ? undefined : input, scene.deps);
  return (scene.clock.now() - begun) / 1000;
}
async function refusal(input: RolloutInput = rollout): Promise<string> {
  const error = await admit("db", input, scene.deps).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(NotAdmitted);
  return (error as Error).message;
}
const says = (change: object) => (scene.libvirt.status = { ...scene.libvirt.status, ...change });
const reached = () => scene.clock.now() / 1000;

test("a VM is not stopped for a change after another one has failed, which the engine may not know of yet", async () => {
  scene.libvirt.status!["healthy"] = false;
  await expect(applyGuest(want, 60, scene.deps)).rejects.toThrow("not healthy");
  await expect(admit("db", undefined, scene.deps)).rejects.toThrow(
    "db: the rollout stops before it: web has failed; what is left stays as it is",
  );
  await admit("web", undefined, scene.deps);
});

test("a VM is not stopped for a change after the time of the whole rollout, also while it waits", async () => {
  const limited = { ...rollout, timeLimitSeconds: 300 };
  expect(await refusal(limited)).toBe(
    'db: the run has gone on for longer than nixvm:rollout.timeLimit (5m), so it is not restarted; run "pulumi up" again',
  );
  expect(reached()).toBeGreaterThanOrEqual(300);
  expect(reached()).toBeLessThan(320);
  scene = new Scene();
  expect(await seconds({ ...rollout, timeLimitSeconds: 900 })).toBeLessThan(620);
});

test("a VM whose domain is replaced is stopped in its turn only; one that leaves the stack at once", async () => {
  const type = new GuestType(scene.world());
  const target = { urn: "urn:web", id: want.uuid };
  const paused = { ...want, rollout: { ...rollout, pause: true } };
  const deleted = () => type.delete(target, { ...want }, 60);
  type.diff(target, { ...want }, {}, { ...paused, domainId: UNKNOWN });
  await expect(deleted()).rejects.toThrow("web: the rollout is paused");
  expect(scene.libvirt.calls).not.toContain("shutdown agent");
  await new GuestType(scene.world()).delete(target, { ...want }, 60);
  expect(scene.libvirt.calls).toContain("shutdown agent");
});

describe("a VM may be stopped for a change", () => {
  test("at once when nothing is said, and nobody is asked", async () => {
    expect(await seconds("none")).toBe(0);
    expect(await seconds({ ...rollout, before: [], soakSeconds: 0 })).toBe(0);
    expect(scene.libvirt.calls).toEqual([]);
  });

  test("when the wave before has been healthy for the soak since its boot, which a second run does not begin anew", async () => {
    const first = await seconds();
    expect(first).toBeGreaterThanOrEqual(600);
    expect(first).toBeLessThan(611);
    expect(await seconds()).toBe(0);
    expect(scene.progress[0]).toBe("waits 10m for the soak of web");
    expect(scene.progress.length).toBeLessThan(100);
  });

  test("after a soak from now on when an image without our contract says no time of its boot", async () => {
    scene.libvirt.status = undefined;
    scene.clock.time = 3_600_000;
    expect(await seconds()).toBeGreaterThanOrEqual(600);
  });

  test("also when the clock of a guest is ahead", async () => {
    says({ bootedAt: "2026-01-01T09:00:00Z" });
    expect(await seconds()).toBeLessThan(611);
  });

  test("on another host", async () => {
    const other = new FakeLibvirt();
    const asked: string[] = [];
    scene.deps.libvirtAt = (uri) => (asked.push(uri), other);
    await seconds({ ...rollout, before: [{ ...canary, uri: "qemu+ssh://b/system" }] });
    expect(new Set(asked)).toEqual(new Set(["qemu+ssh://b/system"]));
    expect(scene.libvirt.calls).toEqual([]);
  });
});

describe("a soak begins anew", () => {
  test("when the guest has restarted by itself", async () => {
    scene.clock.at(300, () => says({ bootId: "boot-2", bootedAt: "2026-01-01T00:05:00Z" }));
    expect(await seconds()).toBeGreaterThanOrEqual(900);
  });

  test("after a moment of trouble that is tolerated", async () => {
    scene.clock.at(300, () => says({ healthy: false }));
    // Before it has been seen for three seconds.
    scene.deps.progress = (line) => {
      if (line.includes("not healthy")) says({ healthy: true });
    };
    expect(await seconds()).toBeGreaterThanOrEqual(900);
  });

  test("after an agent was silent for less than a minute, and libvirt for less than 20 s", async () => {
    scene.clock.at(100, () => (scene.libvirt.system = undefined));
    scene.clock.at(140, () => (scene.libvirt.system = "running"));
    scene.clock.at(200, () => scene.libvirt.failing.set("state", new LibvirtError("unreachable", "no libvirt")));
    scene.clock.at(212, () => scene.libvirt.failing.clear());
    expect(await seconds()).toBeGreaterThanOrEqual(800);
  });
});

describe("the rollout stops with name and reason", () => {
  test.each<[string, () => void, RegExp, number]>([
    [
      "is not healthy",
      () => says({ healthy: false, reasons: ["unit db failed"] }),
      /web.* is not healthy: unit db failed/,
      320,
    ],
    [
      "is off",
      () => (scene.libvirt.domain = { state: "shut off", reason: "crashed" }),
      /web.* is shut off \(crashed\)/,
      312,
    ],
    ["is gone", () => (scene.libvirt.list = []), /web.* is gone from libvirt at qemu:\/\/\/system/, 312],
    ["is silent", () => (scene.libvirt.system = undefined), /web.* silent/, 380],
    [
      "does not get up",
      () => [(scene.libvirt.status = undefined), (scene.libvirt.system = "starting")],
      /web.* not up: system starting/,
      380,
    ],
    [
      "is on a host that is lost",
      () => scene.libvirt.failing.set("list", new LibvirtError("unreachable", "no libvirt")),
      /web.* cannot be asked: no libvirt/,
      340,
    ],
  ])("when a VM of the wave before %s", async (_what, arrange, expected, before) => {
    scene.clock.at(300, arrange);
    const said = await refusal();
    expect(said).toMatch(/^db: the rollout stops before it: web, /);
    expect(said).toMatch(expected);
    expect(reached()).toBeGreaterThanOrEqual(300);
    expect(reached()).toBeLessThan(before);
  });

  test("that is paused", async () => {
    expect(await refusal({ ...rollout, pause: true })).toMatch(
      /^db: the rollout is paused \(nixvm:rollout\.pause\).*pulumi up/,
    );
    expect(scene.libvirt.calls).toEqual([]);
  });

  test("outside of its windows, and says when the next one opens, there and in UTC", async () => {
    const windows = [{ days: ["sat" as const], from: "22:00", to: "04:00", zone: "Europe/Berlin" }];
    expect(await refusal({ ...rollout, windows })).toMatch(
      /^db: outside of .*nixvm:rollout\.windows.*opens Sat 2026-01-03 22:00 Europe\/Berlin \(2026-01-03T21:00Z\)/,
    );
    expect(scene.libvirt.calls).toEqual([]);
  });

  test("when its window closes while the wave before is waited for", async () => {
    const windows = [{ days: ["thu" as const], from: "00:00", to: "00:05", zone: "UTC" }];
    expect(await refusal({ ...rollout, windows })).toMatch(/outside of/);
    expect(reached()).toBeGreaterThanOrEqual(300);
    expect(reached()).toBeLessThan(311);
  });

  test("when it is cancelled, and when virsh is not there", async () => {
    scene.clock.at(10, () => scene.abort.abort());
    expect(await refusal()).toMatch(/^db: cancelled before it was touched/);
    scene = new Scene();
    scene.libvirt.failing.set("list", new LibvirtError("missing", "virsh is not on PATH"));
    expect(await refusal()).toBe("db: virsh is not on PATH");
  });

  test("never touches anything", async () => {
    scene.clock.at(300, () => says({ healthy: false }));
    await refusal();
    expect(new Set(scene.libvirt.calls)).toEqual(new Set(["list", "state"]));
  });
});

describe("a Guest that changes", () => {
  const paused = { ...want, overlayPath: "/pool/new.qcow2", rollout: { ...rollout, pause: true } };
  const steps = () => scene.libvirt.calls.filter((call) => /^(shutdown|destroy|define$|start|setMemory)/.test(call));

  test("is not touched while it runs and is not admitted, and its state stays what it was", async () => {
    const error = await applyGuest(paused, 60, scene.deps).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(NotAdmitted);
    expect((error as Error).message).toMatch(/^web: the rollout is paused/);
    expect(steps()).toEqual([]);
  });

  test("is not asked when it is off, when nothing restarts, and when it is to be stopped", async () => {
    scene.libvirt.domain = { state: "shut off", reason: "shutdown" };
    expect(await applyGuest(paused, 60, scene.deps)).toMatchObject({ healthy: true });
    expect(steps()).toEqual(["define", "start"]);
    expect(await applyGuest(paused, 60, scene.deps)).toMatchObject({ healthy: true });
    expect(await applyGuest({ ...paused, running: false }, 60, scene.deps)).toMatchObject({ state: "shut off" });
    expect(steps()).toEqual(["define", "start", "shutdown agent"]);
  });

  test("is not asked when it is a chassis without a boot disk, which has never been a guest", async () => {
    scene.libvirt.live = scene.libvirt.live.replace("<serial>boot</serial>", "<serial>data</serial>");
    expect(await applyGuest(paused, 60, scene.deps)).toMatchObject({ healthy: true });
    expect(steps()).toEqual(["shutdown agent", "define", "start"]);
  });

  test("waits for the soak, then is stopped", async () => {
    await applyGuest({ ...paused, rollout }, 60, scene.deps);
    expect(scene.clock.now()).toBeGreaterThanOrEqual(600_000);
    expect(steps()).toEqual(["shutdown agent", "define", "start"]);
  });
});

test("what the planner gives a VM is what its Guest takes", () => {
  const windows = [{ from: "22:00", to: "24:00", zone: "Europe/Berlin" }];
  const config = { images: { os: { path: "x.qcow2" } }, defaults: { image: "os" }, fleet: { a: {}, b: {} } };
  const { vms } = planOf({ ...config, rollout: { soak: "5m", windows, pause: true } });
  expect(vms.map(({ rollout: one }) => rolloutInput.safeParse(one).error)).toEqual([undefined, undefined]);
  expect(vms[1]?.rollout).toMatchObject({ before: [{ vm: "a", domain: "nixvm-test-a", uri: "qemu:///system" }] });
  expect(new Date(START).toISOString()).toBe("2026-01-01T00:00:00.000Z");
});
