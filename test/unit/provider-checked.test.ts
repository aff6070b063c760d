import { Check } from "../../provider/checkScript";
import { machineOf } from "../../provider/domainXml";
import { applyGuest, InitFailed, readGuest } from "../../provider/lifecycle";
import { memoryOf } from "../../provider/memory";
import { domainXml, FakeLibvirt, Scene, want } from "./provider-fake";

// What health checks do in the life of a guest; how each is carried out is in provider-checks.test.ts.

const limits = { timeoutSeconds: 10, withinSeconds: 60 };
const old: Check = { ...limits, name: "old", kind: "command", command: "old-check" };
const fresh: Check = { ...limits, name: "fresh", kind: "command", command: "fresh-check" };
const OLD = "/pool/fleet-web-old.qcow2";
const NEW = "/pool/fleet-web-new.qcow2";
const lastGood = {
  ...{ imageDigest: "old", imageId: "image-2", overlayPath: OLD },
  contract: "nixvm",
  checks: [old],
} as const;
const memory = { quarantined: [], lastGood: { ...lastGood, checks: [old] } };
const upgrade = { ...want, imageDigest: "new", overlayPath: NEW, goBack: true, checks: [fresh] };

let scene: Scene;
let guest: FakeLibvirt;
beforeEach(() => {
  scene = new Scene();
  guest = scene.libvirt;
  guest.live = guest.inactive = domainXml(OLD);
  answers({ old: 0, fresh: 0 });
});

/** Exit codes of the checks on the image that runs. */
function answers(codes: { old: number; fresh: number }): void {
  guest.commands = [
    ["command -v", () => ({})],
    ["old-check", () => ({ code: codes.old })],
    ["fresh-check", () => ({ code: codes.fresh, err: "no answer\n" })],
  ];
}
async function failed(known = memory): Promise<InitFailed> {
  const error: unknown = await applyGuest(upgrade, 60, scene.deps, known).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(InitFailed);
  return error as InitFailed;
}
const boots = (): string | undefined => machineOf(guest.live)?.bootPath;

describe("a guest with health checks", () => {
  it("is asked after its own word, and then is healthy and remembers what it passed", async () => {
    const reached = await applyGuest({ ...want, checks: [old] }, 60, scene.deps, { quarantined: [] });
    expect(reached).toMatchObject({ healthy: true, checks: [old] });
    expect(memoryOf(reached).lastGood?.checks).toEqual([old]);
    expect(scene.progress.slice(-2)).toEqual(["check old", "healthy, image v2"]);
  });

  it("is asked again when only they change, without a restart", async () => {
    guest.live = guest.inactive = domainXml(want.overlayPath);
    await applyGuest({ ...want, checks: [fresh] }, 60, scene.deps, memory);
    expect(guest.asked).toEqual(["fresh-check"]);
    expect(guest.calls.filter((call) => /^(shutdown|start|define)/.test(call))).toEqual([]);
  });

  it("is not asked while it is off", async () => {
    expect(await applyGuest({ ...upgrade, running: false }, 60, scene.deps, memory)).toMatchObject({
      state: "shut off",
    });
    expect(guest.asked).toEqual([]);
  });

  it("that fails one on a new image goes back, and passes there those it passed before", async () => {
    answers({ old: 0, fresh: 1 });
    const { message, properties } = await failed();
    expect(message).toMatch(/^web: health check "fresh" failed: exit code 1: no answer \(\d+ tries in 6\d s\)/);
    expect(message).toContain('last status record: {"schema":1');
    expect(message).toContain("is back on image old and healthy there");
    expect(boots()).toBe(OLD);
    expect(guest.asked.at(-1)).toBe("old-check");
    expect(properties).toMatchObject({ healthy: true, lastGood, quarantined: [{ digest: "new" }] });
    // Image and checks of before are no change then.
    const found = await readGuest(upgrade, properties, scene.deps);
    expect(found?.inputs).toMatchObject({ imageDigest: "old", overlayPath: OLD, checks: [old] });
  });

  it("that fails those of before on the way back is not called healthy", async () => {
    guest.onStart = (xml) => answers({ old: 1, fresh: xml.includes(OLD) ? 0 : 1 });
    const { message, properties } = await failed();
    expect(message).toContain('could not be brought back to its former image: health check "old" failed: exit code 1');
    expect(properties).toMatchObject({ healthy: false });
    expect(properties["quarantined"]).toBeUndefined();
  });

  it("goes back to what had no checks without being asked any", async () => {
    answers({ old: 1, fresh: 1 });
    const { imageDigest, imageId, overlayPath, contract } = lastGood;
    const { message, properties } = await failed({
      quarantined: [],
      lastGood: { imageDigest, imageId, overlayPath, contract },
    } as never);
    expect(message).toContain("is back on image old and healthy there");
    const found = await readGuest(upgrade, properties, scene.deps);
    expect(found?.inputs).not.toHaveProperty("checks");
  });
});

describe("before it is stopped for an upgrade a guest", () => {
  it("is asked for the commands of the new checks, and for its health by the former ones", async () => {
    guest.commands.unshift(["command -v 'fresh-check'", () => ({ out: "0\n" })]);
    guest.onShutdown = () => {
      guest.asked.push("(stop)");
      guest.domain = { state: "shut off", reason: "shutdown" };
    };
    await applyGuest(upgrade, 60, scene.deps, memory);
    expect(guest.asked).toEqual(["command -v 'fresh-check'", "old-check", "(stop)", "fresh-check"]);
    expect(scene.warnings).toEqual([expect.stringContaining('health check "fresh": fresh-check is not in the guest')]);
  });

  it.each<[string, () => void, string]>([
    [
      "by its own word",
      () => (guest.status = { ...guest.status, healthy: false, reasons: ["db is down"] }),
      "db is down",
    ],
    ["by its checks", () => answers({ old: 1, fresh: 1 }), 'health check "old": exit code 1'],
  ])("that is not healthy %s is reported, and the new image is not blamed", async (_what, arrange, why) => {
    arrange();
    guest.onStart = (xml) => {
      guest.status = { ...guest.status, healthy: true, reasons: [] };
      answers({ old: 0, fresh: xml.includes(OLD) ? 0 : 1 });
    };
    const { message, properties } = await failed();
    expect(scene.warnings[0]).toBe(`was not healthy before this change: ${why}`);
    expect(message).toContain(`\nit was not healthy before either: ${why}\n`);
    expect(message).toContain("is back on image old");
    expect(properties["quarantined"]).toBeUndefined();
  });

  it("that is not healthy and gets so by the new image is as good as any other", async () => {
    answers({ old: 1, fresh: 0 });
    expect(await applyGuest(upgrade, 60, scene.deps, memory)).toMatchObject({ healthy: true });
    expect(boots()).toBe(NEW);
  });

  it("that has never had a boot disk is not asked", async () => {
    guest.live = guest.inactive = domainXml(OLD).replace(/<disk.*serial>boot<.*\n/, "");
    guest.status = { ...guest.status, healthy: false };
    guest.onStart = () => (guest.status = { ...guest.status, healthy: true });
    await applyGuest(upgrade, 60, scene.deps, { quarantined: [] });
    expect([guest.asked, scene.warnings]).toEqual([["fresh-check"], []]);
  });
});
