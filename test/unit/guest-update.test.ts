// nix/guest/update with the stand-in for Nix that the live tests have in their guests, real locks, and a source that is a file.
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { chmodSync, readdirSync, readFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import { guestDir, Sandbox } from "./guest-sandbox";

const standins = path.resolve(guestDir, "../../images/variants/standins");
const standin = path.join(standins, "usr/lib/nixvm-standins/system");

const system = (version: string, kernel = "image", initrd = "image", modules = "image") =>
  `kernel ${kernel}\ninitrd ${initrd}\nkernel-modules ${modules}\nversion ${version}\nend\n`;

let box: Sandbox;
afterEach(() => box.done());

const command = (name: string, body: string) => {
  box.write(`bin/${name}`, `#!/bin/sh\n${body}\n`);
  chmodSync(box.path(`bin/${name}`), 0o755);
};
const source = (text: string) => box.write("source", text);
const env = () => ({
  STANDIN_STORE: box.path("store"),
  STANDIN_RUN: box.path("image/run"),
  NIXVM_UPDATE_FETCH: "standin fetch",
  NIXVM_UPDATE_SWITCH: "standin",
  NIXVM_UPDATE_WAIT: "0",
});
const update = (extra: NodeJS.ProcessEnv = {}) => box.guest("update", { ...env(), ...extra });
const state = () => box.state("update");
/** Version of the system that runs, or of the one that was booted. */
const version = (which: "current" | "booted") => box.read(`image/run/${which}-system/version`).trim();

/** A start of the machine: memory is empty, and what was made the next system is the one that is booted. */
function boot(plan = `update\tpull\t${box.path("source")}\t3600\n`): void {
  box.restart();
  box.remove("image/run");
  box.write("run/seed/current/plan", plan);
  // Decided in the initrd; busybox would not ask the sandbox for its "mount".
  box.write("run/state/layout", "rootMode\ttmpfs\nmount\t/persist\n");
  const run = spawnSync(box.path("bin/standin"), ["booted"], { env: { ...process.env, ...env() }, encoding: "utf8" });
  expect(run.stderr).toBe("");
}
function made(shell?: string): void {
  box = new Sandbox(shell);
  command("standin", `exec bash '${standin}' "$@"`);
  // Whoever calls one of these has restarted the machine.
  for (const name of ["reboot", "shutdown", "poweroff", "halt", "kexec"])
    command(name, 'echo "restart!" >> "$SANDBOX/calls"');
  source(system("1"));
  boot();
}

describe.each(["dash", "busybox sh"])("an update, run by %s,", (shell) => {
  beforeEach(() => made(shell));

  test("with the kernel that was booted takes over while everything runs (V-34)", () => {
    expect(update().code).toBe(0);
    expect(version("current")).toBe("1");
    expect(version("booted")).toBe("image");
    expect(state()).toMatchObject({ mode: "pull", state: "switched", staged: "", rebootPending: "false" });
    expect(state()["running"]).toBe(
      spawnSync("readlink", [box.path("image/run/current-system")], { encoding: "utf8" }).stdout.trim(),
    );
    expect(state()["at"]).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
    boot();
    expect([version("booted"), version("current")]).toEqual(["1", "1"]);
  });

  test.each<[string, string]>([
    ["kernel", system("2", "6.9")],
    ["initrd", system("2", "image", "new")],
    ["kernel-modules", system("2", "image", "image", "6.9")],
  ])("with another %s waits for the next start, and says so (V-32, V-33, V-36, C-21)", (part, text) => {
    source(text);
    const run = update();
    expect(run.code).toBe(0);
    expect(run.log).toContain(`nixvm-update: staged: another ${part} than the booted one`);
    expect([version("booted"), version("current")]).toEqual(["image", "image"]);
    expect(state()).toMatchObject({ state: "staged", rebootPending: "true" });
    expect(state()["staged"]).toBe(
      spawnSync("readlink", [box.path("store/profile")], { encoding: "utf8" }).stdout.trim(),
    );
    expect(box.calls()).not.toMatch(/restart!|reboot|poweroff|kexec|isolate|soft-reboot/);
    boot();
    expect([version("booted"), version("current")]).toEqual(["2", "2"]);
    expect(update().code).toBe(0);
    expect(state()).toMatchObject({ state: "current", staged: "", rebootPending: "false", reason: "" });
  });

  test("that brings nothing new does nothing", () => {
    update();
    command("standin", `case $1 in fetch) exec bash '${standin}' "$@" ;; esac\necho "standin $*" >> "$SANDBOX/calls"`);
    expect(update().code).toBe(0);
    expect(state()).toMatchObject({ state: "current", reason: "" });
    expect(box.calls()).not.toContain("standin");
  });
});

describe("an update", () => {
  beforeEach(() => made());

  test.each<[string, () => NodeJS.ProcessEnv | void, string]>([
    ["a source that cannot be reached", () => box.remove("source"), "source cannot be fetched: cat: "],
    [
      "a source that was cut off half-way",
      () => source("kernel image\ninitrd image\n"),
      "the description ends too early",
    ],
    ["a system without a kernel", () => source("initrd image\nkernel-modules image\nend\n"), "-system has no kernel"],
    [
      "a fetch that never ends",
      () => (command("standin", "sleep 60"), { NIXVM_UPDATE_LIMIT: "1" }),
      "gave no system within 1 s",
    ],
    ["a fetch that prints nothing", () => command("standin", ":"), "is not one path"],
    ["a fetch that prints more than a path", () => command("standin", "printf '/a\\n/b\\n'"), "is not one path: /a /b"],
    ["a fetch that prints no absolute path", () => command("standin", "echo result"), "is not one path: result"],
    ["a fetch that dies without a word", () => command("standin", "exit 9"), "the command ended with 9"],
    ["an image without a way to fetch", () => ({ NIXVM_UPDATE_FETCH: "" }), "does not say how a system is fetched"],
  ])("leaves everything as it is with %s, and is no failed unit (V-40, C-25)", (_what, arrange, reason) => {
    update();
    source(system("2"));
    const extra = arrange();
    const before = [readdirSync(box.path("image/run")), version("current"), readlink("store/profile")];
    expect(update(extra ?? {}).code).toBe(0);
    expect([readdirSync(box.path("image/run")), version("current"), readlink("store/profile")]).toEqual(before);
    expect(state()).toMatchObject({
      state: "failed",
      staged: "",
      rebootPending: "false",
      running: readlink("image/run/current-system"),
    });
    expect(state()["reason"]).toContain(reason);
    expect(readdirSync(box.path("store")).filter((name) => name.startsWith("."))).toEqual([]);
  });
  const readlink = (name: string) => spawnSync("readlink", [box.path(name)], { encoding: "utf8" }).stdout.trim();

  test("that failed is made up for by the next one", () => {
    box.remove("source");
    update();
    expect(state()["state"]).toBe("failed");
    source(system("2"));
    update();
    expect(state()).toMatchObject({ state: "switched", reason: expect.stringContaining("without a restart") });
    expect(version("current")).toBe("2");
  });

  test("goes to where the source has moved: the last one staged is what is booted (V-32)", () => {
    source(system("2", "6.9"));
    update();
    const first = state()["staged"];
    update();
    expect(state()).toMatchObject({ state: "staged", staged: first });
    source(system("3", "6.10"));
    update();
    expect(state()["staged"]).not.toBe(first);
    boot();
    expect(version("booted")).toBe("3");
  });

  test("that is staged is done once", () => {
    source(system("2", "6.9"));
    update();
    command("standin", `case $1 in fetch) exec bash '${standin}' "$@" ;; esac\necho "standin $*" >> "$SANDBOX/calls"`);
    update();
    expect(state()).toMatchObject({ state: "staged", rebootPending: "true" });
    expect(box.calls()).not.toContain("standin");
  });

  test("keeps what waits for the next start when the source goes away", () => {
    source(system("2", "6.9"));
    update();
    const { staged } = state();
    box.remove("source");
    update();
    expect(state()).toMatchObject({ state: "failed", staged, rebootPending: "true" });
  });

  test("takes back what was staged when the source goes back", () => {
    update();
    source(system("2", "6.9"));
    update();
    source(system("1"));
    update();
    expect(state()).toMatchObject({ staged: "", rebootPending: "false" });
    boot();
    expect(version("booted")).toBe("1");
  });

  test("that cannot be put into effect is reported, and tried again", () => {
    command("standin", `[ "$1" = fetch ] || { echo "unit web failed" >&2; exit 4; }\nexec bash '${standin}' "$@"`);
    expect(update().code).toBe(0);
    expect(state()).toMatchObject({
      state: "failed",
      reason: expect.stringMatching(/effect \(switch\): unit web failed$/),
    });
    command("standin", `exec bash '${standin}' "$@"`);
    update();
    expect(state()["state"]).toBe("switched");
  });

  test("that put half of itself into effect is not taken for a finished one", () => {
    command("standin", `bash '${standin}' "$@"\n[ "$1" = fetch ] || exit 4`);
    update();
    expect(version("current")).toBe("1");
    expect(state()["state"]).toBe("failed");
    update();
    expect(state()["state"]).toBe("failed");
    command("standin", `exec bash '${standin}' "$@"`);
    update();
    expect(state()).toMatchObject({ state: "switched", unfinished: "" });
  });

  test.each([
    ["switch", system("2"), "switched"],
    ["boot", system("2", "6.9"), "staged"],
  ])("that was killed during %s is begun again", (how, text, after) => {
    source(text);
    command("standin", `[ "$1" = fetch ] || { kill -9 $PPID; exit; }\nexec bash '${standin}' "$@"`);
    expect(update().code).toBeNull();
    expect(state()).toMatchObject({
      state: "failed",
      reason: expect.stringContaining(`it broke off while`),
      staged: "",
    });
    expect(state()["reason"]).toContain(`(${how})`);
    command("standin", `exec bash '${standin}' "$@"`);
    update();
    expect(state()["state"]).toBe(after);
  });

  test("that ends well and changes nothing is a failure", () => {
    command("standin", `[ "$1" = fetch ] || exit 0\nexec bash '${standin}' "$@"`);
    update();
    expect(state()).toMatchObject({ state: "failed", reason: expect.stringMatching(/and yet .+-system runs$/) });
  });

  test("is staged when it is not known what was booted", () => {
    box.remove("image/run/booted-system");
    update();
    expect(state()).toMatchObject({
      state: "staged",
      reason: expect.stringContaining("kernel, initrd, kernel-modules"),
    });
  });

  test("comes from one address: of the seed, else of the image, and without either nothing happens (V-37, V-38)", () => {
    boot("update\tpull\t-\t3600\n");
    update();
    expect(state()).toMatchObject({ state: "failed", reason: expect.stringContaining("no address to update from") });
    update({ NIXVM_UPDATE_FLAKE: box.path("source") });
    expect(state()["state"]).toBe("switched");
    box.write("other", system("other"));
    boot(`update\tpull\t${box.path("other")}\t3600\n`);
    update({ NIXVM_UPDATE_FLAKE: box.path("source") });
    expect(version("current")).toBe("other");
  });

  test("is not made in update mode image (C-20)", () => {
    boot("hostname\tweb\n");
    command("standin", 'echo "standin $*" >> "$SANDBOX/calls"');
    expect(update().code).toBe(0);
    expect(state()).toMatchObject({ mode: "image", state: "off", rebootPending: "false" });
    expect(box.calls()).not.toContain("standin");
  });

  test("has no credential at hand and asks for none (V-42)", () => {
    command(
      "standin",
      `[ "$1" != fetch ] || { ls -A "$HOME"; echo "$GIT_TERMINAL_PROMPT"; cat; } > "$SANDBOX/seen"\nexec bash '${standin}' "$@"`,
    );
    update({ HOME: "/root" });
    expect(box.read("seen")).toBe("0\n");
    expect(state()["state"]).toBe("switched");
  });

  test("renews the status record, with the system that runs and the one that waits (V-36, V-43)", () => {
    box.write("image/image.json", '{"schema":1,"id":"img-v1","version":"v1","contract":1,"rootModes":["tmpfs"]}\n');
    expect(box.guest("status").code).toBe(0);
    const record = (): unknown => JSON.parse(box.read("run/status.json"));
    update();
    // The image stays the program's: what has moved on is the system alone.
    expect(record()).toMatchObject({
      imageId: "img-v1",
      rebootPending: false,
      update: { mode: "pull", state: "switched", running: state()["running"] },
    });
    source(system("2", "6.9"));
    update();
    const { running, staged } = state();
    expect(record()).toMatchObject({
      imageId: "img-v1",
      rebootPending: true,
      update: { mode: "pull", state: "staged", running, staged },
    });
  });

  test("waits for a route in the first run of a boot, and not for ever (V-41)", () => {
    const begun = Date.now();
    update({ NIXVM_UPDATE_WAIT: "2" });
    expect(Date.now() - begun).toBeGreaterThan(1900);
    const header = "Iface\tDestination\tGateway\tFlags\n";
    const slow = { NIXVM_UPDATE_WAIT: "60" };
    const routes: [string, string][] = [
      ["route", `${header}eth0\t0002000A\t00000000\t0001\neth0\t00000000\t0202000A\t0003\n`],
      ["ipv6_route", `${"0".repeat(32)} 00 ${"0".repeat(32)} 00 fe80 00000400 00000001 00000000 00000003     eth0\n`],
    ];
    for (const [file, text] of routes) {
      boot();
      box.write(`proc/net/${file}`, text);
      const at = Date.now();
      update(slow);
      expect(state()["state"]).toBe("current");
      expect(Date.now() - at).toBeLessThan(10_000);
      box.remove("proc/net");
    }
    // The second run of a boot waits for nothing.
    const at = Date.now();
    update(slow);
    expect(Date.now() - at).toBeLessThan(10_000);
  });

  test("gives way to one that is under way, and starts when that is over", async () => {
    const lock = box.path("run/update.lock");
    const holder: ChildProcess = spawn("flock", [lock, "sh", "-c", `echo held; cat > /dev/null`], { stdio: "pipe" });
    await new Promise((resolve) => holder.stdout!.once("data", resolve));
    const run = update();
    holder.stdin!.end();
    await new Promise((resolve) => holder.once("exit", resolve));
    expect([run.code, run.log]).toEqual([0, "nixvm-update: another run is at it\n"]);
    expect(box.has("run/state/update")).toBe(false);
    update();
    expect(state()["state"]).toBe("switched");
  });

  test("does not keep the lock through what a fetch leaves behind", () => {
    command("standin", `[ "$1" != fetch ] || sleep 5 > /dev/null 2>&1 &\nexec bash '${standin}' "$@"`);
    update();
    expect(update().log).not.toContain("another run");
  });
});

describe("the stand-in for Nix", () => {
  let server: Server;
  let requests: string[];
  beforeEach(async () => {
    made();
    requests = [];
    server = createServer((request, response) => {
      requests.push(`${request.url} ${JSON.stringify(request.headers)}`);
      response.statusCode = request.url === "/system" ? 200 : 404;
      response.end(request.url === "/system" ? system("7") : "no");
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  });
  afterEach(() => new Promise((resolve) => server.close(resolve)));

  function fetch(address: string): Promise<{ code: number | null; out: string; err: string }> {
    const child = spawn("bash", [standin, "fetch", address], { env: { ...process.env, ...env() } });
    let [out, err] = ["", ""];
    child.stdout.on("data", (data) => (out += data));
    child.stderr.on("data", (data) => (err += data));
    return new Promise((resolve) => child.on("close", (code) => resolve({ code, out: out.trim(), err })));
  }

  test("fetches from a server, without a credential (V-42)", async () => {
    const { port } = server.address() as AddressInfo;
    const { code, out } = await fetch(`http://127.0.0.1:${port}/system`);
    expect(code).toBe(0);
    expect(readFileSync(path.join(out, "version"), "utf8")).toBe("7\n");
    expect(requests).toEqual([`/system {"host":"127.0.0.1:${port}"}`]);
    expect(await fetch(`http://127.0.0.1:${port}/none`)).toMatchObject({
      code: 1,
      err: expect.stringContaining("404"),
    });
    expect(await fetch("http://127.0.0.1:1/system")).toMatchObject({ code: 1, err: "127.0.0.1:1 cannot be reached\n" });
  });
});
