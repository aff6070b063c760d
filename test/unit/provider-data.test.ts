import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { machineOf } from "../../provider/domainXml";
import { GuestInputs, UNKNOWN } from "../../provider/inputs";
import { applyGuest, InitFailed } from "../../provider/lifecycle";
import { Memory } from "../../provider/memory";
import { GuestType } from "../../provider/resources";
import { LibvirtError } from "../../provider/virsh";
import { contentOf, DiskHost, snapshotsIn } from "./provider-disks";
import { Scene, UUID, want } from "./provider-fake";

// Real programs on real files: on a busy machine a test takes some seconds.
jest.setTimeout(30_000);

const MIB = 2 ** 20;
const [OLD, NEW] = ["aaaaaaaaaaaa", "bbbbbbbbbbbb"];
const overlay = (digest: string): string => `/pool/fleet-web-${digest}-01020304.qcow2`;
const lastGood = { imageDigest: OLD, imageId: "image-old", overlayPath: overlay(OLD), contract: "nixvm" } as const;
const memory: Memory = { quarantined: [], lastGood };

let folder: string;
let file: string;
let host: DiskHost;
let scene: Scene;
let wanted: GuestInputs;
/** What the new image does. */
let healthy: boolean;

beforeEach(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm data "));
  file = path.join(folder, "web persist");
  host = new DiskHost();
  host.img("create", "-q", "-f", "qcow2", "-o", "compat=1.1", file, String(4 * MIB));
  scene = host.scene(file, overlay(OLD));
  wanted = {
    ...want,
    imageDigest: NEW,
    imageId: "image-2",
    overlayPath: overlay(NEW),
    persistPath: file,
    goBack: true,
    snapshots: 2,
  };
  healthy = true;
  write(1);
  scene.libvirt.onStart = (xml) => {
    const old = xml.includes(OLD);
    scene.libvirt.status = {
      ...scene.libvirt.status,
      imageId: old ? "image-old" : "image-2",
      healthy: old || healthy,
      reasons: old || healthy ? [] : ["unit db failed"],
    };
    if (!old) write(2);
  };
});
afterEach(() => fs.rmSync(folder, { recursive: true }));

function write(value: number): void {
  execFileSync("qemu-io", ["-f", "qcow2", "-c", `write -q -P ${value} 0 64k`, file]);
}
/** What a domain is before its Guest gives it its overlay. */
function withoutBootDisk(): void {
  const { libvirt } = scene;
  libvirt.domain = { state: "shut off", reason: "unknown" };
  libvirt.live = libvirt.inactive = libvirt.inactive.replace(
    /<disk [^>]*><source file="[^"]*"\/>[^\n]*<serial>boot<\/serial><\/disk>/,
    "",
  );
}
const byte = (snapshot?: string): number => contentOf(file, snapshot)[0]!;
const apply = (inputs = wanted, known = memory) => applyGuest(inputs, 60, scene.deps, known);
const bootPath = (): string | undefined => machineOf(scene.libvirt.inactive)?.bootPath;
const started = (): number => scene.libvirt.calls.filter((call) => call === "start").length;
async function refused(inputs = wanted): Promise<Error> {
  const error = await apply(inputs).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(Error);
  return error as Error;
}

describe("an upgrade with snapshots", () => {
  it("keeps the data as the former image left it, with the VM off, and says so", async () => {
    const outputs = await apply();
    const [name] = snapshotsIn(file);
    expect(name).toMatch(new RegExp(`^nixvm-${OLD}-`));
    expect([byte(name), byte()]).toEqual([1, 2]);
    expect(outputs["dataSnapshots"]).toEqual([name]);
    expect(scene.infos).toEqual([`its data as image ${OLD} left it is in the snapshot ${name}`]);
  });

  it("takes one also of a VM that is off, and changes not a byte of its disk", async () => {
    scene.libvirt.domain = { state: "shut off", reason: "shutdown" };
    const before = contentOf(file);
    const outputs = await apply({ ...wanted, running: false }, { quarantined: [] });
    expect(bootPath()).toBe(overlay(NEW));
    expect(contentOf(file).equals(before)).toBe(true);
    expect(outputs["dataSnapshots"]).toEqual(snapshotsIn(file));
    expect(snapshotsIn(file)).toHaveLength(1);
  });

  it("that was broken off behind the snapshot goes on with that one", async () => {
    scene.libvirt.failing.set("define", new LibvirtError("failed", "killed"));
    await refused();
    const first = snapshotsIn(file);
    expect(first).toHaveLength(1);
    scene.libvirt.failing.clear();
    await apply();
    expect(snapshotsIn(file)).toEqual(first);
  });

  it("takes the image from the state for a domain that was made anew", async () => {
    withoutBootDisk();
    await apply();
    expect(snapshotsIn(file)).toEqual([expect.stringMatching(new RegExp(`^nixvm-${OLD}-`))]);
  });

  it.each<[string, Partial<GuestInputs>, Memory | undefined]>([
    ["without snapshots", { snapshots: 0 }, memory],
    ["without a word of them", { snapshots: undefined }, memory],
    [
      "of nothing but its memory",
      { imageDigest: OLD, overlayPath: overlay(OLD), imageId: "image-old", memoryMiB: 1024 },
      memory,
    ],
  ])("%s takes none", async (_what, change, known) => {
    scene.libvirt.status!["imageId"] = "image-old";
    await apply({ ...wanted, ...change }, known);
    expect(started()).toBe(1);
    expect(snapshotsIn(file)).toEqual([]);
    expect(host.calls).toEqual([]);
  });

  it("of a new VM takes none", async () => {
    withoutBootDisk();
    await apply(wanted, { quarantined: [] });
    expect(snapshotsIn(file)).toEqual([]);
  });

  it("that has no room for one is refused before the VM is stopped", async () => {
    host.free = 1;
    const error = await refused();
    // The state has to go on saying what runs.
    expect(error).not.toBeInstanceOf(InitFailed);
    expect(error.message).toMatch(/^web: persist\.snapshots: the pool fleet of qemu:\/\/\/system has 1 bytes free/);
    expect(scene.libvirt.calls.filter((call) => /^(shutdown|destroy|define$|start)/.test(call))).toEqual([]);
    expect(scene.libvirt.domain.state).toBe("running");
  });

  it("whose snapshot fails starts the VM again as it was", async () => {
    host.failing = { verb: "snapshot-create-as", done: false };
    const error = await refused();
    expect(error).not.toBeInstanceOf(InitFailed);
    expect(error.message).toBe(
      "web: no snapshot of its data can be taken, so it is started again on its former image: virsh snapshot-create-as: the fake was told to fail",
    );
    expect([scene.libvirt.domain.state, bootPath()]).toEqual(["running", overlay(OLD)]);
  });
});

describe("a VM that goes back", () => {
  beforeEach(() => (healthy = false));

  it("keeps what the failed image wrote, unless its data is to go back too", async () => {
    const { message } = await refused();
    expect(message).toMatch(new RegExp(`web: is back on image ${OLD} and healthy there`));
    expect(byte()).toBe(2);
    expect(snapshotsIn(file)).toHaveLength(1);
  });

  it("gets its data of before with restoreData, and what the failed image wrote is in a snapshot", async () => {
    const { message } = await refused({ ...wanted, restoreData: true });
    const [before, after] = snapshotsIn(file);
    expect(message).toContain(
      `web: is back on image ${OLD} with its data of the snapshot ${before} (what was written since is in ${after}) and healthy there`,
    );
    expect(after).toMatch(new RegExp(`^nixvm-${NEW}-`));
    expect([byte(), byte(before), byte(after)]).toEqual([1, 1, 2]);
    expect(bootPath()).toBe(overlay(OLD));
  });

  it("keeps its data where there is no snapshot of before, and says so", async () => {
    const { message } = await refused({ ...wanted, snapshots: 0, restoreData: true });
    expect(message).toMatch(/is back on image aaaaaaaaaaaa and healthy there/);
    expect(scene.warnings).toContain(`there is no snapshot of its data under image ${OLD}: the data stays as it is`);
    expect(byte()).toBe(2);
  });

  it("stays off when its data cannot be put back: the former image is not let at data that the new one wrote", async () => {
    host.failing = { verb: "snapshot-revert", done: false };
    const { message } = await refused({ ...wanted, restoreData: true });
    expect(message).toMatch(/could not be brought back to its former image: virsh snapshot-revert/);
    expect(scene.libvirt.domain.state).toBe("shut off");
    expect(byte()).toBe(2);
  });
});

describe("the preview of an upgrade", () => {
  const urn = "urn:pulumi:test::nixvm::nixvm:index:Guest::web-guest";
  const type = () =>
    new GuestType({
      libvirt: () => scene.libvirt,
      disks: () => scene.deps.disks,
      networks: () => scene.networks,
      clock: scene.clock,
      signal: scene.abort.signal,
      display: () => ({ log: () => undefined, flush: async () => undefined }),
    });
  const preview = (guests: GuestType, inputs: object, olds: object = { ...wanted, imageDigest: OLD }) =>
    guests.update({ urn, id: UUID }, { ...olds }, { ...wanted, overlayPath: UNKNOWN, ...inputs }, 60, true);

  it("refuses one whose snapshot has no room, and touches nothing", async () => {
    host.free = 1;
    await expect(preview(type(), {})).rejects.toThrow(/^web: persist\.snapshots: the pool fleet .* has 1 bytes free/);
    expect(host.calls).toEqual([]);
  });

  it("adds up what all VMs of a pool need", async () => {
    const other = path.join(folder, "db persist");
    fs.copyFileSync(file, other);
    const [one, two] = [file, other].map((volume) => fs.statSync(volume).blocks * 512) as [number, number];
    host.free = one + two - 1;
    const guests = type();
    await preview(guests, {});
    await expect(preview(guests, { vm: "db", persistPath: other })).rejects.toThrow(/overwrites of 2 volumes/);
    await preview(type(), { vm: "db", persistPath: other });
  });

  it("does not look where no snapshot will be taken, nor fails where nobody answers", async () => {
    host.free = 1;
    await preview(type(), { snapshots: undefined });
    await preview(type(), { snapshots: 0 });
    await preview(type(), {}, wanted);
    await preview(type(), { persistPath: UNKNOWN });
    host.failing = { verb: "vol-download", done: false };
    await preview(type(), {});
  });
});
