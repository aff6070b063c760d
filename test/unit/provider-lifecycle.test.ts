import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { GuestInputs } from "../../provider/inputs";
import { applyGuest, deleteGuest, InitFailed, readGuest } from "../../provider/lifecycle";
import { LibvirtError } from "../../provider/virsh";
import { domainXml, Scene, UUID, want } from "./provider-fake";

let scene: Scene;
beforeEach(() => {
  scene = new Scene();
});

const apply = (change: Partial<GuestInputs> = {}, seconds = 0) =>
  applyGuest({ ...want, ...change }, seconds, scene.deps);

async function failure(change: Partial<GuestInputs> = {}, seconds = 0): Promise<InitFailed> {
  const error: unknown = await apply(change, seconds).then(
    () => undefined,
    (caught: unknown) => caught,
  );
  expect(error).toBeInstanceOf(InitFailed);
  return error as InitFailed;
}

describe("gate", () => {
  it("passes once the guest says that it is well, and reports what it runs", async () => {
    scene.libvirt.system = undefined;
    scene.clock.at(8, () => (scene.libvirt.system = "starting"));
    scene.clock.at(12, () => (scene.libvirt.system = "running"));
    expect(await apply()).toMatchObject({
      state: "running",
      healthy: true,
      imageId: "image-2",
      imageVersion: "v2",
      bootId: "boot-1",
      machineId: "0123",
      sshHostKey: "ssh-ed25519 AAAA",
      ip: "10.0.2.15",
    });
    expect(scene.clock.time).toBeLessThan(14_000);
    expect(scene.progress).toEqual(expect.arrayContaining(["booting (1 s)", "booting (8 s)", "system starting"]));
    expect(scene.progress.at(-1)).toBe("healthy, image v2");
  });

  it("costs no wait at all when the guest is well already", async () => {
    await apply();
    expect(scene.clock.time).toBe(0);
  });

  it("starts a domain that is off, once", async () => {
    scene.libvirt.domain = { state: "shut off", reason: "shutdown" };
    await apply();
    expect(scene.libvirt.calls.filter((call) => call === "start")).toHaveLength(1);
  });

  it.each<[string, (scene: Scene) => void, string]>([
    [
      "another image",
      ({ libvirt }) => (libvirt.status!["imageId"] = "image-1"),
      'web: runs image "image-1", wanted "image-2"',
    ],
    [
      "an unhealthy guest",
      ({ libvirt }) => Object.assign(libvirt.status!, { healthy: false, reasons: ["nginx failed"] }),
      "web: says that it is not healthy (system running): nginx failed",
    ],
    [
      "no status record",
      ({ libvirt }) => (libvirt.status = undefined),
      "web: the system is up, but there is no /run/nixvm/status.json",
    ],
    [
      "a record of another schema",
      ({ libvirt }) => (libvirt.status!["schema"] = 9),
      "web: /run/nixvm/status.json does not follow schema 1",
    ],
    [
      "emergency mode",
      ({ libvirt }) => (libvirt.system = "maintenance"),
      "web: is in emergency mode and waits for an administrator",
    ],
    [
      "a crash",
      ({ libvirt, clock }) => {
        libvirt.system = "starting";
        clock.at(2, () => (libvirt.domain = { state: "crashed", reason: "panicked" }));
      },
      "web: stopped while it was waited for: crashed (panicked)",
    ],
    [
      "a guest that powers itself off",
      ({ libvirt, clock }) => {
        libvirt.system = "starting";
        clock.at(2, () => (libvirt.domain = { state: "shut off", reason: "shutdown" }));
      },
      "web: stopped while it was waited for: shut off (shutdown)",
    ],
    [
      "a full pool",
      ({ libvirt, clock }) => {
        libvirt.system = "starting";
        libvirt.domain = { state: "paused", reason: "I/O error" };
        clock.at(1, () => (libvirt.domain = { state: "paused", reason: "I/O error" }));
      },
      "what to do: the storage pool is probably full: make room, then run up again",
    ],
    [
      "a domain that does not start",
      ({ libvirt }) => {
        libvirt.domain = { state: "shut off", reason: "shutdown" };
        libvirt.failing.set("start", new LibvirtError("failed", "virsh start: Cannot access storage file"));
      },
      "web: does not start: virsh start: Cannot access storage file",
    ],
  ])("fails early on %s", async (_name, arrange, message) => {
    arrange(scene);
    expect((await failure()).message).toContain(message);
    expect(scene.clock.time).toBeLessThan(6000);
  });

  it("goes on with a guest whose pool was full, once there is room again", async () => {
    scene.libvirt.domain = { state: "paused", reason: "I/O error" };
    expect(await applyGuest(want, 60, scene.deps)).toMatchObject({ healthy: true });
    expect(scene.libvirt.calls).toContain("resume");
    expect(scene.libvirt.calls).not.toContain("start");
  });

  it("resumes a guest that somebody suspended, once: one that is paused again has another trouble, and not its image", async () => {
    scene.libvirt.domain = { state: "paused", reason: "user" };
    expect(await applyGuest(want, 60, scene.deps)).toMatchObject({ healthy: true });
    expect(scene.libvirt.calls).toContain("resume");
    scene.libvirt.domain = { state: "paused", reason: "user" };
    scene.libvirt.system = "starting";
    scene.clock.at(scene.clock.time / 1000 + 1, () => (scene.libvirt.domain = { state: "paused", reason: "user" }));
    expect((await failure()).message).toContain("web: stopped while it was waited for: paused (user)");
  });

  it("waits while units still correct what the record says", async () => {
    scene.libvirt.status!["healthy"] = false;
    scene.clock.at(2, () => (scene.libvirt.status!["healthy"] = true));
    expect(await apply()).toMatchObject({ healthy: true });
  });

  it("gives up at the time limit, 10 minutes unless told otherwise", async () => {
    scene.libvirt.system = undefined;
    expect((await failure({}, 30)).message).toContain("web: not healthy within 30 s; at the end: booting");
    scene = new Scene();
    scene.libvirt.system = undefined;
    expect((await failure()).message).toContain("within 600 s");
  });

  it("shows the last record and the end of the serial console", async () => {
    const dir = mkdtempSync(join(tmpdir(), "nixvm-"));
    const consoleLog = join(dir, "web.log");
    writeFileSync(consoleLog, Array.from({ length: 60 }, (_, i) => `\u001b[32mline ${i}\u001b[0m\r\n`).join(""));
    scene.libvirt.status!["imageId"] = "image-1";
    const { message } = await failure({ consoleLog });
    rmSync(dir, { recursive: true });
    expect(message).toContain('last status record: {"schema":1,"imageId":"image-1"');
    expect(message).toContain(`last 40 lines of the serial console (${consoleLog}):\n  line 20\n`);
    expect(message.endsWith("\n  line 59")).toBe(true);
  });

  it("does not wait for a guest whose kernel has panicked", async () => {
    const dir = mkdtempSync(join(tmpdir(), "nixvm-"));
    const consoleLog = join(dir, "web.log");
    writeFileSync(consoleLog, "[    0.0] Linux\r\n");
    scene.libvirt.system = undefined;
    const panic = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100";
    scene.clock.at(4, () => writeFileSync(consoleLog, `[    3.1] ${panic}\r\n[    3.2] ---[ end ${panic} ]---\r\n`));
    const { message } = await failure({ consoleLog });
    rmSync(dir, { recursive: true });
    expect(message.split("\n")[0]).toBe(`web: ${panic}`);
    expect(scene.clock.time).toBeLessThan(6000);
  });

  it("keeps a failed guest in the state: id, inputs, and what it really runs", async () => {
    scene.libvirt.status!["imageId"] = "image-1";
    const { id, properties } = await failure();
    expect(id).toBe(UUID);
    expect(properties).toMatchObject({ uuid: UUID, imageDigest: "digest-2", imageId: "image-1", healthy: false });
  });

  it("stops waiting at once when it is cancelled", async () => {
    scene.libvirt.system = undefined;
    scene.clock.at(5, () => scene.abort.abort());
    expect((await failure()).message).toBe('web: cancelled while it was waited for; run "pulumi up" again');
    expect(scene.clock.time).toBeLessThan(6000);
  });

  it("lives through a libvirtd that is restarted, but not through one that stays away", async () => {
    scene.libvirt.system = undefined;
    const down = () => scene.libvirt.failing.set("state", new LibvirtError("unreachable", "libvirt does not answer"));
    scene.clock.at(2, down);
    scene.clock.at(8, () => {
      scene.libvirt.failing.clear();
      scene.libvirt.system = "running";
    });
    expect(await apply()).toMatchObject({ healthy: true });
    scene.libvirt.system = undefined;
    scene.clock.at(scene.clock.time / 1000 + 2, down);
    expect((await failure()).message).toBe("web: libvirt does not answer");
  });

  it("asks an image without our contract only for its agent", async () => {
    scene.libvirt.status = undefined;
    scene.libvirt.system = "starting";
    scene.clock.at(3, () => (scene.libvirt.system = "degraded"));
    expect(await apply({ contract: "none" })).toMatchObject({ healthy: true, state: "running" });
    expect(scene.warnings).toEqual(["some units failed in the guest: systemctl --failed tells which"]);
  });

  it("has nothing to wait for on libvirt's test driver", async () => {
    expect(await apply({ uri: "test:///default" })).not.toHaveProperty("healthy");
    expect(scene.libvirt.calls).toEqual([]);
  });

  it("starts a domain of a test driver that a daemon serves, and asks it for nothing more", async () => {
    const uri = "test+unix:///default?socket=/run/test";
    scene.libvirt.domain = { state: "shut off", reason: "shutdown" };
    scene.libvirt.system = undefined;
    expect(await apply({ uri })).toMatchObject({ healthy: true, state: "running" });
    expect(scene.libvirt.calls.some((call) => call.startsWith("start"))).toBe(true);
    expect(scene.libvirt.calls.some((call) => call.startsWith("agent"))).toBe(false);
  });

  it("fails plainly when the domain is missing or somebody else's", async () => {
    scene.libvirt.list = [{ uuid: "99999999-2222-4333-8444-555555555555", name: "fleet-web" }];
    const error: Error = await apply().then(
      () => new Error("passed"),
      (caught: Error) => caught,
    );
    expect(error).not.toBeInstanceOf(InitFailed);
    expect(error.message).toContain("has UUID 99999999-2222-4333-8444-555555555555 and is not ours");
  });
});

describe("changes in place", () => {
  it("applies a new seed once, live", async () => {
    scene.libvirt.onRestart = () => {
      scene.libvirt.status!["seed"] = { state: "applied", digest: "seed-2" };
      return 0;
    };
    await apply({ seedDigest: "seed-2" });
    expect(scene.libvirt.calls.filter((call) => call.startsWith("restart"))).toEqual([
      "restart nixvm-seed nixvm-status",
    ]);
  });

  it("puts the new medium into the drive before it is applied", async () => {
    scene.libvirt.onRestart = () => {
      scene.libvirt.status!["seed"] = { state: "applied", digest: "seed-2" };
      return 0;
    };
    await apply({ seedDigest: "seed-2", seedPath: "/pool/web-seed.iso" });
    expect(scene.libvirt.calls.filter((call) => /^(restart|changeMedium)/.test(call))).toEqual([
      "changeMedium /pool/web-seed.iso",
      "restart nixvm-seed nixvm-status",
    ]);
  });

  it("takes the medium out of the drive once the guest is healthy, and only then", async () => {
    scene.libvirt.onRestart = () => {
      scene.libvirt.status!["seed"] = { state: "applied", digest: "seed-2" };
      return 0;
    };
    await apply({ seedDigest: "seed-2", seedPath: "/pool/web-seed.iso", ejectSeed: true });
    expect(scene.libvirt.calls.filter((call) => /^(restart|changeMedium|ejectMedium)/.test(call))).toEqual([
      "changeMedium /pool/web-seed.iso",
      "restart nixvm-seed nixvm-status",
      "ejectMedium",
    ]);
    scene.libvirt.calls.length = 0;
    scene.libvirt.status!["healthy"] = false;
    await failure({ ejectSeed: true });
    expect(scene.libvirt.calls).not.toContain("ejectMedium");
  });

  it("fails when the guest keeps the former seed, or cannot apply the new one", async () => {
    scene.libvirt.status!["seed"] = { state: "failed", digest: "seed-1", reason: "no medium" };
    expect((await failure({ seedDigest: "seed-2" })).message).toContain(
      "web: runs with seed seed-1 (failed: no medium), wanted seed-2",
    );
    scene.libvirt.onRestart = () => 1;
    expect((await failure({ seedDigest: "seed-2" })).message).toContain("web: the new seed could not be applied");
  });

  const grows = () => {
    scene.libvirt.onRestart = () => {
      scene.libvirt.status!["persist"] = { state: "mounted", sizeBytes: 0.96 * scene.libvirt.bytes };
      return 0;
    };
  };

  it("grows disk and file system of a running guest", async () => {
    grows();
    const outputs = await apply({ persistBytes: 2 ** 31 });
    expect(scene.libvirt.calls).toEqual(
      expect.arrayContaining([`blockResize ${2 ** 31}`, "restart nixvm-grow nixvm-status"]),
    );
    expect(outputs["persistBytes"]).toBeGreaterThan(2 ** 30);
  });

  it("says how a volume of the old qcow2 version with snapshots is made to grow", async () => {
    const refused =
      "virsh blockresize: internal error: unable to execute QEMU command 'block_resize': Can't resize a v2 image which has snapshots";
    scene.libvirt.failing.set("blockResize", new LibvirtError("failed", refused));
    expect((await failure({ persistBytes: 2 ** 31 })).message).toContain(
      "web: persist.size: /pool/web.qcow2 cannot grow: it has snapshots, and is of qcow2 version 2; with the VM off: qemu-img amend -f qcow2 -o compat=1.1 '/pool/web.qcow2'",
    );
  });

  it("grows the volume of a guest that is off before it starts", async () => {
    scene.libvirt.domain = { state: "shut off", reason: "shutdown" };
    scene.libvirt.status!["persist"] = { state: "mounted", sizeBytes: 2 ** 31 - 2 ** 20 };
    await apply({ persistBytes: 2 ** 31 });
    const calls = scene.libvirt.calls.filter((call) => /Resize|^start/.test(call));
    expect(calls).toEqual([`volumeResize ${2 ** 31}`, "start"]);
  });

  it("says what waits for a restart", async () => {
    scene.libvirt.status!["rebootPending"] = true;
    await apply();
    expect(scene.warnings).toEqual(["part of its seed takes effect only when it restarts"]);
  });

  it("leaves a file system alone that fills its disk but for a rest", async () => {
    await apply();
    expect(scene.libvirt.calls.join()).not.toContain("restart");
  });

  it("finishes a growth that was broken off between disk and file system", async () => {
    scene.libvirt.bytes = 2 ** 31;
    grows();
    await apply({ persistBytes: 2 ** 31 });
    expect(scene.libvirt.calls).toContain("restart nixvm-grow nixvm-status");
  });

  it("says so when the file system does not follow", async () => {
    expect((await failure({ persistBytes: 2 ** 31 })).message).toContain(
      "persist has 2 GiB, but its file system stays at",
    );
  });

  it("never shrinks a disk that turns out to be larger", async () => {
    scene.libvirt.bytes = 2 ** 32;
    expect((await failure()).message).toContain(
      "persist.size: cannot shrink from 4 GiB to 1 GiB; allowed: 4 GiB or more",
    );
    expect(scene.libvirt.calls.join()).not.toContain("Resize");
  });

  it("stops a guest that is not to run, and grows its disk offline", async () => {
    expect(await apply({ running: false, persistBytes: 2 ** 31 })).toMatchObject({ state: "shut off" });
    expect(scene.libvirt.calls).toEqual(expect.arrayContaining(["shutdown agent", `volumeResize ${2 ** 31}`]));
  });
});

describe("clean stop", () => {
  const stop = (change: Partial<GuestInputs> = {}, seconds = 0) =>
    deleteGuest({ ...want, ...change }, seconds, scene.deps);
  const requests = () => scene.libvirt.calls.filter((call) => /shutdown|destroy|resume/.test(call));

  it("asks the agent", async () => {
    await stop();
    expect(requests()).toEqual(["shutdown agent"]);
    expect(scene.warnings).toEqual([]);
  });

  it("presses the power button when there is no agent", async () => {
    scene.libvirt.failing.set("shutdown agent", new LibvirtError("failed", "agent is not connected"));
    await stop();
    expect(requests()).toEqual(["shutdown agent", "shutdown acpi"]);
  });

  it("presses again when the guest did not listen yet", async () => {
    let pressed = 0;
    scene.libvirt.failing.set("shutdown agent", new LibvirtError("failed", "agent is not connected"));
    scene.libvirt.onShutdown = () => {
      if (++pressed === 3) scene.libvirt.domain = { state: "shut off", reason: "shutdown" };
    };
    await stop();
    expect(requests()).toEqual(["shutdown agent", "shutdown acpi", "shutdown acpi", "shutdown acpi"]);
    expect(scene.clock.time).toBeLessThan(13_000);
  });

  it("presses the button too when the agent took the request but nothing happens", async () => {
    scene.libvirt.onShutdown = (mode) => {
      if (mode === "acpi") scene.libvirt.domain = { state: "shut off", reason: "shutdown" };
    };
    await stop();
    expect(requests()).toEqual(["shutdown agent", "shutdown acpi"]);
  });

  it.each([
    ["its own limit", 60, 0, 60_000],
    ["a shorter customTimeouts.delete", 60, 10, 10_000],
  ])("powers off past %s, with a warning", async (_name, stopTimeoutSeconds, timeout, expected) => {
    scene.libvirt.onShutdown = () => undefined;
    await stop({ stopTimeoutSeconds }, timeout);
    expect(requests().at(-1)).toBe("destroy");
    expect(scene.clock.time).toBeGreaterThanOrEqual(expected);
    expect(scene.clock.time).toBeLessThan(expected + 2000);
    expect(scene.warnings).toEqual([`did not stop within ${expected / 1000} s; it is powered off`]);
  });

  it("resumes a paused guest first, since it hears nothing", async () => {
    scene.libvirt.domain = { state: "paused", reason: "user" };
    await stop();
    expect(requests()).toEqual(["resume", "shutdown agent"]);
  });

  it("is done when the domain is off or gone", async () => {
    scene.libvirt.domain = { state: "shut off", reason: "shutdown" };
    await stop();
    scene.libvirt.list = [];
    await stop();
    expect(requests()).toEqual([]);
  });

  it("never touches a domain that has our name but another UUID", async () => {
    scene.libvirt.list = [{ uuid: "99999999-2222-4333-8444-555555555555", name: "fleet-web" }];
    await stop();
    expect(scene.libvirt.calls).toEqual(["list"]);
    expect(scene.warnings[0]).toContain("it is not ours and is left as it is");
  });

  it("stops waiting when it is cancelled", async () => {
    scene.libvirt.onShutdown = () => undefined;
    scene.clock.at(4, () => scene.abort.abort());
    await expect(stop()).rejects.toThrow("web: cancelled while it was stopping");
    expect(requests()).not.toContain("destroy");
  });
});

describe("read", () => {
  const olds = { ...want, state: "running", healthy: true, bootId: "boot-1", bootedAt: "2026-01-01T00:00:01Z" };
  const read = async () => (await readGuest(want, olds, scene.deps))?.outputs;

  it("drops a guest whose domain is gone", async () => {
    scene.libvirt.list = [];
    expect(await read()).toBeUndefined();
  });

  it("shows another image, another state, another boot", async () => {
    Object.assign(scene.libvirt.status!, { imageId: "image-1", bootId: "boot-2" });
    expect(await read()).toMatchObject({ imageId: "image-1", bootId: "boot-2", bootedAt: "2026-01-01T00:00:00Z" });
    scene.libvirt.domain = { state: "shut off", reason: "crashed" };
    expect(await read()).toMatchObject({ state: "shut off" });
  });

  it("does not take rounding of the boot time for drift", async () => {
    expect(await read()).toMatchObject({ bootedAt: "2026-01-01T00:00:01Z" });
  });

  it("shows another disk to boot from, and another shape, than the stack's, for up to put right", async () => {
    scene.libvirt.inactive = domainXml("/pool/by-hand.qcow2", { memory: 640 });
    const found = await readGuest(want, olds, scene.deps);
    expect(found?.inputs).toEqual({ ...want, overlayPath: "/pool/by-hand.qcow2", memoryMiB: 640 });
  });

  it("keeps what is known, with a warning, when the agent is silent", async () => {
    scene.libvirt.system = undefined;
    expect(await read()).toEqual(olds);
    expect(scene.warnings[0]).toContain("the guest agent is silent");
  });

  it.each([
    ["still says so", "stopping"],
    ["has stopped its agent already", undefined],
  ])("waits for a guest that a killed run has asked to stop and that %s", async (_name, system) => {
    scene.libvirt.system = system;
    scene.clock.at(8, () => (scene.libvirt.domain = { state: "shut off", reason: "shutdown" }));
    expect(await read()).toMatchObject({ state: "shut off" });
    expect(scene.warnings).toEqual([]);
  });

  it("waits for no more than half a minute", async () => {
    scene.libvirt.system = "stopping";
    expect(await read()).toMatchObject({ state: "running", bootId: "boot-1" });
    expect(scene.clock.time).toBeLessThan(35_000);
  });
});
