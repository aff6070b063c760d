import { applyGuest, InitFailed } from "../../provider/lifecycle";
import { bootDiskOf, modifiedOf, withBootDisk } from "../../provider/domainXml";
import { parseVolumes } from "../../provider/parse";
import { refusal } from "../../provider/quarantine";
import { LibvirtError } from "../../provider/virsh";
import { FakeLibvirt, Scene, want } from "./provider-fake";

const OLD = "aaaaaaaaaaaa";
const NEW = "bbbbbbbbbbbb";
const overlay = (digest: string, creation = "01020304", vm = "web"): string =>
  `/pool/fleet-${vm}-${digest}-${creation}.qcow2`;
const domain = (path: string): string => `<domain><name>fleet-web</name><devices>
  <disk type="file" device="disk"><source file="${path}"/><target dev="vda"/><serial>boot</serial></disk>
  <disk type="file" device="disk"><source file="/pool/fleet-web-persist"/><target dev="vdb"/><serial>persist</serial></disk>
</devices></domain>`;
const wanted = { ...want, imageDigest: NEW, imageId: "image-bad", goBack: true };

let scene: Scene;
beforeEach(() => {
  scene = new Scene();
  const { libvirt } = scene;
  libvirt.inactive = domain(overlay(NEW));
  libvirt.volumes = [
    { path: overlay(NEW), modified: 300 },
    { path: overlay("cccccccccccc"), modified: 100 },
    { path: overlay(OLD), modified: 200 },
    { path: overlay(OLD, "01020304", "web-2"), modified: 400 },
    { path: "/pool/fleet-base-dddddddddddd.qcow2", modified: 500 },
  ];
  runs(libvirt, "image-bad", false);
  libvirt.onDefine = (xml) => {
    if (xml.includes(OLD)) runs(libvirt, "image-old", true);
  };
});

function runs(libvirt: FakeLibvirt, imageId: string, healthy: boolean): void {
  libvirt.status = { ...libvirt.status, imageId, healthy, reasons: healthy ? [] : ["unit db failed"] };
}
async function failed(history = { fresh: true, quarantined: [] as never[] }, inputs = wanted): Promise<InitFailed> {
  const error = await applyGuest(inputs, 60, scene.deps, history).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(InitFailed);
  return error as InitFailed;
}
const steps = (): string[] => scene.libvirt.calls.filter((call) => /^(shutdown|destroy|define|start)/.test(call));

describe("a VM that is not healthy on a new image", () => {
  it("is brought back to the overlay it ran on before, and the step fails", async () => {
    const { message, properties } = await failed();
    expect(message).toMatch(/^web: .*unit db failed/);
    expect(message).toMatch(new RegExp(`web: is back on image ${OLD} and healthy there, \\d+ s after the failure`));
    expect(bootDiskOf(scene.libvirt.inactive)).toBe(overlay(OLD));
    expect(scene.libvirt.inactive).toBe(domain(overlay(OLD)));
    expect(steps()).toEqual(["shutdown agent", "define", "start"]);
    const asked = scene.libvirt.calls.filter((call) => call.startsWith("volumeModified "));
    expect(asked.sort()).toEqual([OLD, NEW, "cccccccccccc"].map((digest) => `volumeModified ${overlay(digest)}`));
    expect(properties).toMatchObject({ healthy: true, imageId: "image-old", imageDigest: NEW });
    expect(properties["quarantined"]).toEqual([
      { digest: NEW, reason: expect.stringContaining("unit db failed"), at: expect.stringMatching(/^20\d\d-.*Z$/) },
    ]);
  });

  it("is powered off when it does not stop, which is reported", async () => {
    scene.libvirt.onShutdown = () => undefined;
    await failed();
    expect(bootDiskOf(scene.libvirt.inactive)).toBe(overlay(OLD));
    expect(steps().slice(-3)).toEqual(["destroy", "define", "start"]);
    expect(scene.warnings.join()).toMatch(/did not stop within 30 s.*powered off/);
  });

  it.each([
    ["has no former overlay", () => (scene.libvirt.volumes = [{ path: overlay(NEW), modified: 1 }])],
    [
      "could not be brought back to its former image",
      () => scene.libvirt.failing.set("define", new LibvirtError("failed", "no room")),
    ],
    ["could not be brought back to its former image", () => (scene.libvirt.onDefine = () => undefined)],
    ["has no former overlay", () => (scene.libvirt.inactive = domain("/pool/by-hand.qcow2"))],
  ])("that %s says so, and the image is not quarantined", async (said, arrange) => {
    arrange();
    const { message, properties } = await failed();
    expect(message).toMatch(/unit db failed/);
    expect(message).toContain(said);
    expect(properties["quarantined"]).toBeUndefined();
    expect(properties["healthy"]).toBe(false);
  });

  it("is left as it is for somebody to look at with goBack: false, and when it ran well on that image before", async () => {
    await failed(undefined, { ...wanted, goBack: false });
    await failed({ fresh: false, quarantined: [] });
    expect(steps()).toEqual([]);
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
    scene.libvirt.inactive = domain(overlay(OLD));
    runs(scene.libvirt, "image-old", true);
    scene.libvirt.onDefine = () => runs(scene.libvirt, "image-bad", true);
    const retry = { ...wanted, retry: true };
    expect(refusal(outputs, retry)).toBeUndefined();
    const reached = await applyGuest(retry, 60, scene.deps, { fresh: false, ...outputs });
    expect(bootDiskOf(scene.libvirt.inactive)).toBe(overlay(NEW));
    expect(steps()).toEqual(["shutdown agent", "define", "start"]);
    expect(reached).toMatchObject({ healthy: true, imageId: "image-bad" });
    expect(reached["quarantined"]).toBeUndefined();
  });

  it("stays known while other images run", async () => {
    runs(scene.libvirt, "image-bad", true);
    const former = { ...outputs.quarantined[0]!, digest: OLD };
    const reached = await applyGuest(wanted, 60, scene.deps, { fresh: true, quarantined: [former] });
    expect(reached["quarantined"]).toEqual([former]);
  });
});

describe("what is read of libvirt", () => {
  it("the boot disk, and the same definition with another one", () => {
    const odd = '/pool/it\'s <a> & "b".qcow2';
    const xml = withBootDisk(domain(overlay(OLD)), odd)!;
    expect(bootDiskOf(xml)).toBe(odd);
    expect(withBootDisk(xml, overlay(OLD))).toBe(domain(overlay(OLD)));
    for (const none of [
      "<domain/>",
      domain("/a").replace("<serial>boot", "<serial>other"),
      domain("/a").replace("<serial>persist", "<serial>boot"),
    ]) {
      expect([bootDiskOf(none), withBootDisk(none, "/x")]).toEqual([undefined, undefined]);
    }
  });

  it("volumes of a pool, with spaces in names and paths", () => {
    expect(parseVolumes(" Name   Path\n------\n a b.qcow2   /pool dir/a b.qcow2 \n c   /c\n\n")).toEqual([
      "/pool dir/a b.qcow2",
      "/c",
    ]);
    expect(modifiedOf("<timestamps><atime>1.5</atime><mtime>1763750000.25</mtime></timestamps>")).toBe(1763750000.25);
    expect(modifiedOf("<volume/>")).toBe(0);
  });
});
