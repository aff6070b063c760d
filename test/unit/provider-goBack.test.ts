import { machineOf } from "../../provider/domainXml";
import { applyGuest, InitFailed, readGuest } from "../../provider/lifecycle";
import { memoryOf, refusal } from "../../provider/memory";
import { LibvirtError } from "../../provider/virsh";
import { domainXml, FakeLibvirt, Scene, want } from "./provider-fake";

const OLD = "aaaaaaaaaaaa";
const NEW = "bbbbbbbbbbbb";
const overlay = (digest: string): string => `/pool/fleet-web-${digest}-01020304.qcow2`;
const wanted = { ...want, imageDigest: NEW, imageId: "image-bad", overlayPath: overlay(NEW), goBack: true };
const lastGood = {
  imageDigest: OLD,
  imageId: "image-old",
  overlayPath: overlay(OLD),
  contract: "nixvm",
} as const;
const memory = { quarantined: [], lastGood };

let scene: Scene;
beforeEach(() => {
  scene = new Scene();
  const { libvirt } = scene;
  libvirt.live = libvirt.inactive = domainXml(overlay(OLD));
  runs(libvirt, "image-old", true);
  libvirt.onStart = (xml) => (xml.includes(OLD) ? runs(libvirt, "image-old", true) : runs(libvirt, "image-bad", false));
});

function runs(libvirt: FakeLibvirt, imageId: string, healthy: boolean): void {
  libvirt.status = { ...libvirt.status, imageId, healthy, reasons: healthy ? [] : ["unit db failed"] };
}
async function failed(known = memory as Parameters<typeof applyGuest>[3], inputs = wanted): Promise<InitFailed> {
  const error = await applyGuest(inputs, 60, scene.deps, known).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(InitFailed);
  return error as InitFailed;
}
const steps = (): string[] => scene.libvirt.calls.filter((call) => /^(shutdown|destroy|define$|start)/.test(call));
const bootDisk = (): string | undefined => machineOf(scene.libvirt.inactive)?.bootPath;

describe("a VM that is not healthy on a new image", () => {
  it("is brought back to the overlay it was healthy on, and the step fails", async () => {
    const { message, properties } = await failed();
    expect(message).toMatch(/^web: .*unit db failed/);
    expect(message).toMatch(new RegExp(`web: is back on image ${OLD} and healthy there, \\d+ s after the failure`));
    expect(bootDisk()).toBe(overlay(OLD));
    expect(steps()).toEqual(["shutdown agent", "define", "start", "shutdown agent", "define", "start"]);
    expect(properties).toMatchObject({ healthy: true, ...lastGood, lastGood });
    expect(properties["quarantined"]).toEqual([
      { digest: NEW, reason: expect.stringContaining("unit db failed"), at: expect.stringMatching(/^20\d\d-.*Z$/) },
    ]);
  });

  it.each<[string, (libvirt: FakeLibvirt) => void]>([
    ["its QEMU dies", (libvirt) => (libvirt.domain = { state: "shut off", reason: "crashed" })],
    ["somebody pulls the plug", (libvirt) => (libvirt.domain = { state: "shut off", reason: "destroyed" })],
    ["its pool is full", (libvirt) => (libvirt.domain = { state: "paused", reason: "I/O error" })],
    ["somebody suspends it", (libvirt) => (libvirt.domain = { state: "paused", reason: "user" })],
  ])("because %s is brought back, and the image is not blamed", async (_why, happens) => {
    const { libvirt } = scene;
    libvirt.onStart = (xml) => {
      libvirt.system = xml.includes(OLD) ? "running" : undefined;
      if (xml.includes(OLD)) return runs(libvirt, "image-old", true);
      // A second time after it was resumed.
      for (const seconds of [2, 4]) scene.clock.at(scene.clock.time / 1000 + seconds, () => happens(libvirt));
    };
    const { message, properties } = await failed();
    expect(message).toMatch(
      /is back on image a{12} and healthy there.*; the image is not to blame: run "pulumi up" again/,
    );
    expect(bootDisk()).toBe(overlay(OLD));
    expect(properties["quarantined"]).toBeUndefined();
    expect(refusal(properties, { ...wanted })).toBeUndefined();
  });

  it("then is in the state as what it really is, so that the former image is no change", async () => {
    const { properties } = await failed();
    const found = await readGuest(wanted, properties, scene.deps);
    const former = { ...wanted, imageDigest: OLD, imageId: "image-old", overlayPath: overlay(OLD) };
    expect(found?.inputs).toEqual(former);
    expect(found?.outputs).toMatchObject({ healthy: true, imageId: "image-old", lastGood });
    expect(found?.outputs["quarantined"]).toEqual(properties["quarantined"]);
  });

  it("is powered off when it does not stop, which is reported", async () => {
    scene.libvirt.live = scene.libvirt.inactive = domainXml(overlay(NEW));
    runs(scene.libvirt, "image-bad", false);
    scene.libvirt.onShutdown = () => undefined;
    await failed();
    expect(bootDisk()).toBe(overlay(OLD));
    expect(steps().slice(-3)).toEqual(["destroy", "define", "start"]);
    expect(scene.warnings.join()).toMatch(/did not stop within 30 s.*powered off/);
  });

  it.each([
    ["its overlay is gone", () => scene.libvirt.missingVolumes.add(overlay(OLD))],
    [
      "could not be brought back to its former image",
      () => (scene.libvirt.onStart = () => runs(scene.libvirt, "image-bad", false)),
    ],
    [
      "could not be brought back to its former image",
      () => scene.libvirt.failing.set("hasVolume", new LibvirtError("unreachable", "no libvirt")),
    ],
  ])("that %s says so, and the image is not quarantined", async (said, arrange) => {
    arrange();
    const { message, properties } = await failed();
    expect(message).toMatch(/unit db failed|wanted "image-bad"/);
    expect(message).toContain(said);
    expect(properties["quarantined"]).toBeUndefined();
    expect(properties).toMatchObject({ healthy: false, lastGood });
  });

  it("is left as it is for somebody to look at with goBack: false, and when there is nothing to go back to", async () => {
    for (const attempt of [() => failed(memory, { ...wanted, goBack: false }), () => failed({ quarantined: [] })]) {
      scene.libvirt.calls = [];
      expect((await attempt()).message).toContain("unit db failed");
      expect(bootDisk()).toBe(overlay(NEW));
    }
    expect(steps()).toEqual([]);
  });

  it("stays on its image when it was healthy on it before: another trouble than the image's", async () => {
    const onNew = { ...lastGood, imageDigest: NEW, imageId: "image-bad", overlayPath: overlay(NEW) };
    const { properties } = await failed({ quarantined: [], lastGood: onNew });
    expect(bootDisk()).toBe(overlay(NEW));
    expect(properties["quarantined"]).toBeUndefined();
  });

  it("goes on from where a run was broken off: already on the new overlay, or off", async () => {
    scene.libvirt.live = scene.libvirt.inactive = domainXml(overlay(NEW));
    runs(scene.libvirt, "image-bad", true);
    expect(await applyGuest(wanted, 60, scene.deps, memory)).toMatchObject({ healthy: true, imageDigest: NEW });
    expect(steps()).toEqual([]);
    scene.libvirt.domain = { state: "shut off", reason: "destroyed" };
    scene.libvirt.onStart = () => runs(scene.libvirt, "image-bad", true);
    const reached = await applyGuest(wanted, 60, scene.deps, memory);
    expect(steps()).toEqual(["start"]);
    expect(memoryOf(reached).lastGood).toEqual({
      ...lastGood,
      ...{ imageDigest: NEW, imageId: "image-bad" },
      overlayPath: overlay(NEW),
    });
  });
});

describe("a quarantined image", () => {
  const outputs = { quarantined: [{ digest: NEW, reason: "not healthy", at: "2026-01-01T00:00:00.000Z" }] };

  it("is refused with its reason and the way out, and another one is not", () => {
    expect(refusal(outputs, { vm: "web", imageDigest: NEW })).toMatch(
      /^web: image bbbbbbbbbbbb is quarantined: .*2026-01-01.*not healthy.*rollout\.retry/,
    );
    expect(refusal(outputs, { vm: "web", imageDigest: OLD })).toBeUndefined();
    expect(refusal({}, { vm: "web", imageDigest: NEW })).toBeUndefined();
    expect(refusal({ quarantined: "x" }, { vm: "web", imageDigest: NEW })).toBeUndefined();
  });

  it("is tried again on its own overlay when that is asked for, and is out of quarantine when it is healthy", async () => {
    scene.libvirt.onStart = () => runs(scene.libvirt, "image-bad", true);
    const retry = { ...wanted, retry: true };
    expect(refusal(outputs, retry)).toBeUndefined();
    const reached = await applyGuest(retry, 60, scene.deps, { ...outputs, lastGood });
    expect(bootDisk()).toBe(overlay(NEW));
    expect(steps()).toEqual(["shutdown agent", "define", "start"]);
    expect(reached).toMatchObject({ healthy: true, imageId: "image-bad" });
    expect(reached["quarantined"]).toBeUndefined();
  });

  it("stays known while other images run", async () => {
    runs(scene.libvirt, "image-bad", true);
    scene.libvirt.onStart = () => runs(scene.libvirt, "image-bad", true);
    const former = { ...outputs.quarantined[0]!, digest: OLD };
    const reached = await applyGuest(wanted, 60, scene.deps, { quarantined: [former] });
    expect(reached["quarantined"]).toEqual([former]);
  });
});
