import { execFileSync } from "node:child_process";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import * as path from "node:path";
import type { LiveVm } from "../../cli/guests";
import { systemClock } from "../../provider/clock";
import { newKey, reboot, ssh } from "../helpers/guest";
import { IMAGES, LiveStack, ROOT } from "../helpers/liveStack";

// A guest that updates itself, and one whose sessions wait for home-manager, both with stand-ins for what only Nix can make
// (images/variants/standins). Each test goes on from where the one before it left them.
jest.setTimeout(15 * 60_000);

const PORTS = { pull: 23601, work: 23602 };
const SLOW_SECONDS = 10;
let stack: LiveStack;
let server: Server;
let config: Record<string, any>;
let key: { file: string; publicKey: string };
let pull: LiveVm;
let work: LiveVm;

/** What the update source has now: names of the parts of a system, and its version. */
const source = { kernel: "image", version: "1" };
const text = (): string =>
  `kernel ${source.kernel}\ninitrd image\nkernel-modules image\nversion ${source.version}\nend\n`;

interface Update {
  state: string;
  reason: string;
  running: string;
  staged: string;
}
/** What the guest says of its updates, once the run of this boot has ended. */
async function update(): Promise<Update & { rebootPending: boolean; healthy: boolean; bootId: string }> {
  const until = Date.now() + 3 * 60_000;
  for (;;) {
    const status = (await pull.status()) as Awaited<ReturnType<LiveVm["status"]>> & { update: Update };
    if (status.update.state !== "off" || Date.now() > until) return { ...status, ...status.update };
    await systemClock.sleep(500, new AbortController().signal);
  }
}
async function updateNow(): ReturnType<typeof update> {
  await pull.exec("systemctl start --wait nixvm-update.service");
  return update();
}
const versionThatRuns = async (): Promise<string> => (await pull.exec("cat /run/current-system/version")).trim();

beforeAll(async () => {
  execFileSync(path.join(ROOT, "images/build"), ["standins"], { stdio: "ignore" });
  server = createServer((_, response) => response.end(text()));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  // The host, as a guest of QEMU's own network sees it.
  const flake = `http://10.0.2.2:${(server.address() as AddressInfo).port}/system`;
  stack = await LiveStack.make("updates");
  key = newKey(stack.dir, "key");
  config = {
    images: { os: { path: path.join(IMAGES, "reference-standins.qcow2") } },
    rollout: { gateTimeout: "10m", stopTimeout: "2m", maxUnavailable: 2 },
    defaults: { image: "os", memory: "512MiB", vcpus: 1, adminKeys: [key.publicKey], userKeys: [key.publicKey] },
    fleet: {
      pull: { preset: "zvm", persist: { size: "128MiB" }, update: { mode: "pull", flake, every: "1h" } },
      work: { preset: "workbench", persist: { size: "128MiB" }, home: { mode: "tmpfs", size: "32MiB" } },
    },
  };
  for (const name of ["pull", "work"] as const) config.fleet[name].network = { mode: "user", sshPort: PORTS[name] };
  await stack.configure(config);
});

afterAll(async () => {
  server.close();
  await stack.remove(config);
});

test("in its first boot a guest brings in the system that the source has (V-31, V-34)", async () => {
  expect((await stack.up()).error).toBe("");
  [pull, work] = [await stack.vm("pull"), await stack.vm("work")];
  expect(await update()).toMatchObject({ healthy: true, state: "switched", rebootPending: false });
  expect(await versionThatRuns()).toBe("1");
});

test("it looks once an hour (V-30)", async () => {
  const timer = await pull.exec("systemctl show -P TimersMonotonic -P RandomizedDelayUSec nixvm-update.timer");
  expect(timer).toContain("OnUnitActiveUSec=55min");
  expect(timer).toContain("5min");
  expect(await pull.exec("systemctl is-active nixvm-update.timer")).toBe("active\n");
});

test("another system with the same kernel takes over while everything runs (V-34)", async () => {
  const { bootId } = await pull.status();
  source.version = "2";
  expect(await updateNow()).toMatchObject({ state: "switched", bootId, rebootPending: false });
  expect(await versionThatRuns()).toBe("2");
  expect(await updateNow()).toMatchObject({ state: "current", bootId });
});

test("one with another kernel waits for a restart, and the guest does not restart by itself (V-32, V-33)", async () => {
  const { bootId } = await pull.status();
  Object.assign(source, { kernel: "newer", version: "3" });
  expect(await updateNow()).toMatchObject({
    healthy: true,
    state: "staged",
    reason: expect.stringContaining("another kernel than the booted one"),
    rebootPending: true,
    bootId,
  });
  expect(await versionThatRuns()).toBe("2");
  expect(await updateNow()).toMatchObject({ state: "staged", rebootPending: true, bootId });
});

test("a system of the guest's own is no drift of the stack", async () => {
  expect((await stack.preview({ refresh: true, expectNoChanges: true })).error).toBe("");
});

/** Asks for a session from the start of the boot on; what the first one that is had sees. */
async function firstSession(): Promise<{ configured: string; boot: string }> {
  const until = Date.now() + 5 * 60_000;
  for (;;) {
    const script = "cat .configured 2> /dev/null || echo none; cat /proc/sys/kernel/random/boot_id";
    const tried = ssh(PORTS.work, "user", key.file, script, ["ConnectTimeout=5"]);
    if (tried.code === 0 || Date.now() > until) {
      const [configured = "", boot = ""] = tried.out.trim().split("\n");
      return { configured, boot };
    }
    await systemClock.sleep(200, new AbortController().signal);
  }
}
const homeManager = (seconds: number, code: number): Promise<string> =>
  work.exec(`mkdir -p /persist/standins; echo ${seconds} ${code} > /persist/standins/home-manager; sync`);

test("the restart takes the staged system (V-32)", async () => {
  await homeManager(SLOW_SECONDS, 0);
  await reboot(pull);
  expect(await update()).toMatchObject({ healthy: true, state: "current", rebootPending: false });
  expect(await pull.exec("cat /run/booted-system/version /run/booted-system/kernel")).toBe("3\nnewer\n");
});

test.each([1, 2, 3, 4, 5])(
  "start %i: the first session finds what home-manager made, however slow that is (P-28)",
  async () => {
    const before = (await work.status()).bootId;
    await work.restartPlainly();
    const { configured, boot } = await firstSession();
    expect(boot).not.toBe(before);
    expect(configured).toBe(boot);
  },
);

test("sessions wait by a drop-in, which keeps the unit and has the limit (P-24, P-25)", async () => {
  const unit = await work.exec("systemctl cat user@1000.service; systemctl show -P TimeoutStartUSec user@1000.service");
  expect(unit).toMatch(/# \S+\/user@\.service\n[^]*ExecStart=[^]*# \S+\/user@\.service\.d\/home-manager\.conf/);
  expect(unit).toMatch(/After=home-manager-user\.service[^]*\n1min 30s\n$/);
});

test("a home-manager that fails locks nobody out (P-27); a guest starts without its update source (V-31)", async () => {
  await homeManager(1, 1);
  source.version = "4";
  server.close();
  await work.restartPlainly();
  const { configured, boot } = await firstSession();
  expect(boot).not.toBe("");
  expect(configured).toBe("none");
  expect(await work.exec("systemctl is-failed home-manager-user.service")).toBe("failed\n");
  expect((await reboot(work, "started")).reasons).toEqual(["unit home-manager-user.service failed"]);
  await reboot(pull);
  expect(await update()).toMatchObject({
    healthy: true,
    state: "failed",
    reason: expect.stringContaining("cannot be reached"),
  });
  expect(await versionThatRuns()).toBe("3");
});
