import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import type { Context } from "../../cli/context";
import { examine } from "../../cli/doctor";
import * as check from "../../cli/doctorChecks";
import { CliError, wrongInput } from "../../cli/errors";
import { locksOf } from "../../cli/runningRun";
import { Virsh } from "../../provider/virsh";
import { config, planned } from "../helpers/fleets";

const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm doctor "));
const root = path.resolve(__dirname, "../..");
const before = { ...process.env };
const bin = path.join(dir, "bin");
beforeEach(() => {
  fs.rmSync(bin, { recursive: true, force: true });
  fs.mkdirSync(bin);
  // Only what a test puts there is on this machine.
  process.env.PATH = bin;
  process.env.LIBVIRT_DEFAULT_URI = "qemu:///system";
  process.env.PULUMI_BACKEND_URL = `file://${dir}/state`;
  delete process.env.PULUMI_CONFIG_PASSPHRASE_FILE;
  process.env.PULUMI_CONFIG_PASSPHRASE = "x";
});
afterAll(() => {
  process.env = before;
  fs.rmSync(dir, { recursive: true, force: true });
});

function script(name: string, text: string): void {
  fs.writeFileSync(path.join(bin, name), `#!/bin/sh\n${text}\n`, { mode: 0o755 });
}

/** The machine of these tests: every tool is there, libvirt answers. */
function wellMachine(): void {
  for (const { command } of check.TOOLS) script(command, "exit 0");
  script("pulumi", 'case "$1" in version) echo v3.250.0 ;; *) echo "[]" ;; esac');
  script("nix", 'case "$1" in --version) echo "nix (Nix) 2.24.0" ;; *) echo "flakes nix-command" ;; esac');
  script(
    "virsh",
    `case "$*" in
      *" version") echo "Using library: libvirt 9.0.0"; echo "Running hypervisor: QEMU 7.2.22" ;;
      *" domcapabilities "*) echo '<domain>kvm</domain><os x><value>efi</value></os>' ;;
      *" pool-info "*) echo "Capacity: 107374182400"; echo "Available: 53687091200" ;;
      *" qemu-agent-command "*) echo '{"return": 1000000000}' ;;
      *) echo "<capabilities/>" ;;
    esac`,
  );
}

const context = (more: object): Context =>
  ({
    root,
    stack: () => Promise.reject(wrongInput("--stack", undefined, "no stack is selected", "the name of one")),
    libvirt: (uri: string) => new Virsh(uri),
    ...more,
  }) as unknown as Context;
const find = (findings: check.Finding[], name: string): check.Finding | undefined =>
  findings.find((one) => one.name === name);
const levels = (findings: check.Finding[], prefix: string): Record<string, check.Level> =>
  Object.fromEntries(findings.filter(({ name }) => name.startsWith(prefix)).map(({ name, level }) => [name, level]));

jest.setTimeout(120_000);

test("with all tools hidden each is named with its package, and nothing else breaks the check (T-19)", async () => {
  const findings = await examine(context({ stack: () => Promise.reject(new Error("spawn pulumi ENOENT")) }));
  const tools = findings.filter(({ name }) => name.startsWith("tool."));
  expect(tools.map(({ name, level }) => [name, level])).toEqual(
    check.TOOLS.map(({ command, optional }) => [`tool.${command}`, optional ? "warn" : "fail"]),
  );
  expect(find(findings, "tool.virsh")?.advice).toBe("install the package libvirt-clients");
  expect(find(findings, "nix")).toMatchObject({
    level: "warn",
    advice: expect.stringContaining("only needed to build"),
  });
  expect(find(findings, "stack")?.level).toBe("warn");
  // Emulation is chosen where KVM does not work: no failure.
  expect(["ok", "warn"]).toContain(find(findings, "kvm")?.level);
});

test("one hidden tool is the one that is named (T-19)", async () => {
  wellMachine();
  fs.rmSync(path.join(bin, "xsltproc"));
  const findings = await examine(context({}));
  expect(findings.filter(({ level }) => level === "fail").map(({ name }) => name)).toEqual(["tool.xsltproc"]);
});

test("without a stack this machine and its libvirt are looked at, and that is no failure (T-19)", async () => {
  wellMachine();
  const findings = await examine(context({}));
  expect(findings.filter(({ level }) => level === "fail")).toEqual([]);
  expect(find(findings, "stack")).toMatchObject({
    level: "warn",
    text: expect.stringContaining("no stack is selected"),
  });
  expect(levels(findings, "host.")).toEqual({ "host.local.libvirt": "ok", "host.local.versions": "ok" });
});

test("each host of the stack is looked at: libvirt, versions, pool, firmware, clocks of its guests (T-19)", async () => {
  wellMachine();
  const fleet = planned(config(["web"], { hosts: { far: { uri: "qemu+ssh://far/system" } } }), {
    defaults: { accelerator: "kvm", poolRoot: path.join(dir, "pools") },
  });
  const stack = {
    stack: () => Promise.resolve("test"),
    plan: () => Promise.resolve(fleet),
    vms: () => Promise.resolve([{ name: "web", uri: "qemu+ssh://far/system", uuid: "u" }]),
  };
  const well = await examine(context(stack));
  expect(levels(well, "host.")).toEqual({
    "host.far.libvirt": "ok",
    "host.far.versions": "ok",
    "host.far.pool": "ok",
    "host.far.apparmor": "ok",
  });
  expect(levels(well, "preflight")).toEqual({ preflight: "ok" });
  // A guest that believes in 1970.
  expect(find(well, "vm.web.clock")).toMatchObject({
    level: "warn",
    text: expect.stringContaining("behind this machine"),
  });
  script(
    "virsh",
    'echo "error: failed to connect to the hypervisor" >&2; echo "error: ssh: no route to host" >&2; exit 1',
  );
  const ill = await examine(context(stack));
  expect(find(ill, "host.far.libvirt")).toMatchObject({
    level: "fail",
    text: expect.stringContaining("no route to host"),
  });
});

test("mistakes of the stack file are one finding with all of them", async () => {
  wellMachine();
  const refused = () => Promise.reject(new CliError("The stack file has 2 mistakes", 2));
  const findings = await examine(context({ stack: () => Promise.resolve("test"), plan: refused }));
  expect(find(findings, "stack")).toMatchObject({ level: "fail", text: "The stack file has 2 mistakes" });
});

test("a lock that a killed run left is told from one of a run that goes on", async () => {
  wellMachine();
  const folder = path.join(dir, "state/.pulumi/locks/organization/nixvm/test");
  fs.mkdirSync(folder, { recursive: true });
  const write = (pid: number): void =>
    fs.writeFileSync(
      path.join(folder, "lock.json"),
      JSON.stringify({ pid, username: "me", hostname: os.hostname(), timestamp: "2026-11-22T10:00:00Z" }),
    );
  const stack = { stack: () => Promise.resolve("test"), plan: () => Promise.reject(new CliError("no")) };
  write(999_999_999);
  expect(find(await examine(context(stack)), "lock")).toMatchObject({
    level: "warn",
    advice: expect.stringContaining("pulumi cancel --stack test"),
  });
  write(process.pid);
  expect(find(await examine(context(stack)), "lock")).toMatchObject({
    level: "ok",
    text: expect.stringContaining("goes on"),
  });
  expect(locksOf("other")).toEqual([]);
  expect(locksOf("test", "s3://bucket")).toBeUndefined();
});

test("a passphrase file that is gone, or that others can read, is found", async () => {
  wellMachine();
  delete process.env.PULUMI_CONFIG_PASSPHRASE;
  const file = path.join(dir, "passphrase");
  process.env.PULUMI_CONFIG_PASSPHRASE_FILE = file;
  const level = async () => find(await examine(context({})), "passphrase")?.level;
  expect(await level()).toBe("fail");
  fs.writeFileSync(file, "x", { mode: 0o644 });
  expect(await level()).toBe("warn");
  fs.chmodSync(file, 0o600);
  expect(await level()).toBe("ok");
});

describe("UFW", () => {
  const rules = [
    "Anywhere on virbr0         ALLOW IN    Anywhere",
    "Anywhere                   ALLOW OUT   Anywhere on virbr0",
    "Anywhere                   ALLOW FWD   Anywhere on virbr0",
    "Anywhere on virbr0         ALLOW FWD   Anywhere",
  ];
  const commands = [
    "ufw allow in on virbr0",
    "ufw allow out on virbr0",
    "ufw route allow in on virbr0",
    "ufw route allow out on virbr0",
  ];

  test("that is on without rules for the bridge is a warning with the four rules (T-23)", async () => {
    wellMachine();
    script("ufw", "echo 'Status: active'");
    const finding = find(await examine(context({})), "ufw");
    expect(finding).toMatchObject({ level: "warn", advice: commands.join("; ") });
    // The page has the same four.
    const page = fs.readFileSync(path.join(root, "docs/doctor.md"), "utf8");
    for (const command of commands) expect(page).toContain(command);
  });

  test("is fine when it is off, when it is not there, and with all four rules; each missing one is named (T-23)", () => {
    const status = (lines: string[]): string => ["Status: active", "", ...lines].join("\n");
    expect(check.checkUfw(undefined, []).level).toBe("ok");
    expect(check.checkUfw("Status: inactive\n", []).level).toBe("ok");
    expect(check.checkUfw(status(rules), ["virbr0"]).level).toBe("ok");
    rules.forEach((rule, index) => {
      const rest = rules.filter((one) => one !== rule);
      expect(check.checkUfw(status(rest), ["virbr0"])).toMatchObject({ level: "warn", advice: commands[index] });
    });
    expect(check.checkUfw(status(rules), ["virbr1"]).level).toBe("warn");
  });
});

test("what a number or a word means is the same at its edges", () => {
  const GIB = 2 ** 30;
  expect(check.checkSpace("h", { capacity: 100 * GIB, available: 5 * GIB }).level).toBe("ok");
  expect(check.checkSpace("h", { capacity: 100 * GIB, available: 4 * GIB }).level).toBe("warn");
  expect(check.checkSpace("h", { capacity: 3 * GIB, available: GIB }).level).toBe("warn");
  expect(check.checkSpace("h", undefined).level).toBe("ok");
  expect([-6, -5, 0, 5, 6].map((seconds) => check.checkClock("c", seconds).level)).toEqual([
    "warn",
    "ok",
    "ok",
    "ok",
    "warn",
  ]);
  expect(check.checkKvm("accelerator: kvm (a probe guest ran in 1.0 s)\n").level).toBe("ok");
  expect(check.checkKvm("accelerator: tcg (no /dev/kvm)\n")).toMatchObject({
    level: "warn",
    text: "does not work: no /dev/kvm",
  });
  expect(check.checkKvm("").level).toBe("warn");
  const versions = (libvirt: string, qemu: string) =>
    check.checkVersions("h", `Using library: libvirt ${libvirt}\nRunning hypervisor: QEMU ${qemu}`)[0]?.level;
  expect([versions("9.0.0", "7.2.0"), versions("8.0.0", "7.2.0"), versions("10.0.0", "6.2.0")]).toEqual([
    "ok",
    "warn",
    "warn",
  ]);
  const apparmor = "<secmodel>\n <model>apparmor</model>";
  expect(check.checkAppArmor("h", apparmor, "/srv/pool").level).toBe("warn");
  expect(check.checkAppArmor("h", apparmor, "/var/lib/libvirt/images/nixvm").level).toBe("ok");
  expect(check.checkAppArmor("h", "<secmodel><model>dac</model>", "/srv/pool").level).toBe("ok");
});
