import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { bridges, machineDefaults } from "../components/machine";
import type * as plan from "../components/plan";
import { preflightHosts } from "../components/prepare";
import { isLocal } from "../provider/pool";
import { preflight } from "../provider/preflight";
import { realProbes } from "../provider/probes";
import { run } from "../provider/run";
import { isTestDriver } from "../provider/testDriver";
import { LibvirtError } from "../provider/virsh";
import type { Context } from "./context";
import * as check from "./doctorChecks";
import { CliError } from "./errors";
import type { FleetVm } from "./fleet";
import { locksOf, type RunLock } from "./runningRun";

/** A question to this machine; one that does not answer in that time is as good as one that does not work. */
const ASK_MS = 15_000;
/** The probe of KVM has 15 s of its own. */
const PROBE_MS = 40_000;

/** Looks at all that a fleet needs. Nothing is changed, and nothing that is missing keeps the rest from being looked at. */
export async function examine(context: Context): Promise<check.Finding[]> {
  const stack = await examineStack(context);
  const parts = [
    ...machine(),
    ...(await tools()),
    ...(await accelerator(context.root)),
    await nix(),
    await ufw(),
    bridgesHere(),
    ...stack.findings,
    ...(await Promise.all(stack.hosts.map((host) => examineHost(context, host)))).flat(),
    ...(await examinePlan(stack.fleet)),
    ...(await clocks(context, stack.vms)),
  ];
  return parts;
}

function machine(): check.Finding[] {
  const said = `${os.type()} ${os.release()} on ${process.arch}, Node ${process.versions.node}`;
  const advice =
    "guests are x86-64, and libvirt runs on Linux; a remote libvirt host (nixvm:hosts) can be another machine";
  return [
    process.platform === "linux" && process.arch === "x64"
      ? check.ok("machine", said)
      : check.warn("machine", said, advice),
  ];
}

async function tools(): Promise<check.Finding[]> {
  const has = new Map<string, boolean>();
  for (const { command } of check.TOOLS) has.set(command, await realProbes.onPath(command));
  return check.checkTools((command) => has.get(command) ?? false);
}

async function accelerator(root: string): Promise<check.Finding[]> {
  const probe = await run(process.execPath, [path.join(root, "tools", "accelerator.mjs")], PROBE_MS);
  return [devKvm(), check.checkKvm(probe.stdout)];
}

function devKvm(): check.Finding {
  const device = "/dev/kvm";
  if (!fs.existsSync(device))
    return check.warn(
      "dev-kvm",
      "there is no /dev/kvm",
      "load the module kvm_intel or kvm_amd; else guests are emulated",
    );
  try {
    fs.accessSync(device, fs.constants.R_OK | fs.constants.W_OK);
    return check.ok("dev-kvm", "may be opened by this user");
  } catch {
    return check.warn(
      "dev-kvm",
      "may not be opened by this user",
      "add the user to the group kvm; a system libvirt does not need it",
    );
  }
}

async function nix(): Promise<check.Finding> {
  const version = await run("nix", ["--version"], ASK_MS);
  if (version.code !== 0) return check.checkNix(undefined, undefined);
  const features = await run(
    "nix",
    ["--extra-experimental-features", "nix-command", "config", "show", "experimental-features"],
    ASK_MS,
  );
  const older = ["--extra-experimental-features", "nix-command", "show-config"];
  const text = features.code === 0 ? features.stdout : (await run("nix", older, ASK_MS)).stdout;
  const line = text.split("\n").find((one) => !one.includes("=") || one.startsWith("experimental-features"));
  return check.checkNix(version.stdout, line);
}

async function ufw(): Promise<check.Finding> {
  const said = await run("ufw", ["status", "verbose"], ASK_MS);
  if (said.code === 0) return check.checkUfw(said.stdout, bridges());
  if (said.failure === "missing") return check.checkUfw(undefined, []);
  // Only root may ask it; whether it is on anybody may read.
  const conf = fs.existsSync("/etc/ufw/ufw.conf") ? fs.readFileSync("/etc/ufw/ufw.conf", "utf8") : "";
  if (!/^ENABLED=yes/m.test(conf)) return check.ok("ufw", "is off");
  return check.warn(
    "ufw",
    "is on, and only root can see its rules",
    "run the doctor as root, or see docs/doctor.md for the four rules",
  );
}

function bridgesHere(): check.Finding {
  const found = bridges();
  return check.ok(
    "bridges",
    found.length > 0 ? found.join(", ") : "none, so VMs here use a network of libvirt or user networking",
  );
}

interface Stack {
  findings: check.Finding[];
  hosts: { name: string; uri: string; pool?: plan.HostPlan["pool"] }[];
  fleet?: plan.Plan;
  vms: FleetVm[];
}

/** What Pulumi and the stack say. Without a stack there is still the libvirt of this machine. */
async function examineStack(context: Context): Promise<Stack> {
  const here = { name: "local", uri: machineDefaults().uri ?? "qemu:///system" };
  const found: Stack = { findings: [...(await pulumi()), passphrase()], hosts: [here], vms: [] };
  try {
    const stack = await context.stack();
    found.findings.push(...lock(stack, locksOf(stack)));
    const fleet = await context.plan();
    found.fleet = fleet;
    found.hosts = [...fleet.hosts];
    found.vms = await context.vms();
    found.findings.push(check.ok("stack", `${stack}: ${fleet.vms.length} VMs on ${fleet.hosts.length} hosts`));
  } catch (error) {
    found.findings.push(stackProblem(error));
  }
  return found;
}

function stackProblem(error: unknown): check.Finding {
  if (error instanceof CliError && error.details.field === "--stack") {
    return check.warn("stack", error.message, "only this machine is looked at");
  }
  const text = error instanceof Error ? error.message : String(error);
  if (/ENOENT/.test(text))
    return check.warn("stack", "cannot be read without pulumi", "only this machine is looked at");
  return check.fail("stack", text, "see docs/stack-file.md; without it only this machine is looked at");
}

async function pulumi(): Promise<check.Finding[]> {
  const version = await run("pulumi", ["version"], ASK_MS);
  // That it is missing is said with the other tools.
  if (version.failure === "missing") return [];
  const said = version.stdout.trim();
  const findings = [
    /^v?3\./.test(said)
      ? check.ok("pulumi", said)
      : check.fail("pulumi", said || version.stderr.trim(), "version 3 is needed: npm run setup"),
  ];
  const backend = process.env.PULUMI_BACKEND_URL ?? "the backend of pulumi login";
  const list = await run("pulumi", ["stack", "ls", "--json", "--non-interactive"], PROBE_MS);
  const why = list.stderr.trim().split("\n").at(-1) ?? "";
  const reached = list.code === 0;
  const shown = backend.replace(/\/\/[^/@]*@/, "//");
  findings.push(
    reached
      ? check.ok("backend", `${shown} answers`)
      : check.fail("backend", `${shown} does not answer: ${why}`, "see PULUMI_BACKEND_URL, or log in: pulumi login"),
  );
  return findings;
}

function passphrase(): check.Finding {
  const name = "passphrase";
  const { PULUMI_CONFIG_PASSPHRASE: plain, PULUMI_CONFIG_PASSPHRASE_FILE: file } = process.env;
  if (plain !== undefined) return check.ok(name, "comes from PULUMI_CONFIG_PASSPHRASE");
  if (!file)
    return check.warn(
      name,
      "none is set",
      "secrets of the stack cannot be read unless its backend keeps them; see npm run env",
    );
  const stat = fs.existsSync(file) ? fs.statSync(file) : undefined;
  if (!stat)
    return check.fail(
      name,
      `${file} does not exist`,
      "without it no secret of the stack can be read: put it back from a backup",
    );
  if (stat.mode & 0o077) return check.warn(name, `${file} can be read by others`, `chmod 600 ${file}`);
  return check.ok(name, "its file is there, and is the user's own");
}

function lock(stack: string, locks: readonly RunLock[] | undefined): check.Finding[] {
  if (locks === undefined) return [];
  const [found] = locks;
  if (!found) return [check.ok("lock", "none: no run goes on")];
  const left = found.hostname === os.hostname() && found.pid !== undefined && !fs.existsSync(`/proc/${found.pid}`);
  return [
    left
      ? check.warn(
          "lock",
          `left behind by ${found.by}, which is gone`,
          `pulumi cancel --stack ${stack}, then pulumi up`,
        )
      : check.ok("lock", `a run goes on: ${found.by}`),
  ];
}

async function examineHost(context: Context, host: Stack["hosts"][number]): Promise<check.Finding[]> {
  const { name, uri, pool } = host;
  const libvirt = `host.${name}.libvirt`;
  const version = await run("virsh", ["-q", "-c", uri, "version"], ASK_MS);
  if (version.failure === "missing") return [];
  if (version.code !== 0) return [unreachable(libvirt, uri, version.failure, version.stderr)];
  const findings = [check.ok(libvirt, `${uri} answers`)];
  if (isTestDriver(uri)) return findings;
  const capabilities = await run("virsh", ["-q", "-c", uri, "capabilities"], ASK_MS);
  findings.push(...check.checkVersions(name, version.stdout));
  if (pool) {
    findings.push(check.checkSpace(name, await space(context, uri, pool.name)));
    findings.push(check.checkAppArmor(name, capabilities.stdout, pool.path));
  }
  return findings;
}

function unreachable(name: string, uri: string, failure: string | undefined, stderr: string): check.Finding {
  const socket = /[?&]socket=([^&]+)/.exec(uri)?.[1];
  const text =
    failure === "timeout"
      ? `no answer in ${ASK_MS / 1000} s`
      : stderr
          .replace(/error:\s*/g, "")
          .trim()
          .split("\n")
          .join(": ");
  if (socket && !fs.existsSync(decodeURIComponent(socket))) {
    return check.fail(name, "the private libvirtd does not run", "npm run setup starts it");
  }
  const advice = isLocal(uri)
    ? "start libvirtd, join the group libvirt, or npm run setup for a private one"
    : "see that ssh works without a question, and that libvirtd runs there";
  return check.fail(name, `${uri} does not answer: ${text}`, advice);
}

async function space(context: Context, uri: string, pool: string) {
  try {
    return await context.libvirt(uri).poolSpace(pool);
  } catch (error) {
    if (error instanceof LibvirtError) return undefined;
    throw error;
  }
}

/** What the next run would be refused for. */
async function examinePlan(fleet: plan.Plan | undefined): Promise<check.Finding[]> {
  if (fleet === undefined) return [];
  const told = new Set(check.TOOLS.map(({ command }) => command));
  const vms = fleet.vms.map((vm) => ({
    name: vm.name,
    domain: vm.domainName,
    host: vm.host,
    ...(vm.network.mode === "user" ? { sshPort: vm.network.sshPort } : {}),
  }));
  const found = (await preflight(preflightHosts(fleet, {}), vms)).filter(({ value }) => !told.has(String(value)));
  // That a host does not answer has been said.
  const problems = found.filter(({ message }) => !/does not answer|refuses the connection/.test(message));
  if (problems.length === 0)
    return [check.ok("preflight", "firmware, accelerator, pools and ports are as the stack needs them")];
  return problems.map(({ path: where, value, message, allowed }) =>
    check.fail("preflight", `${where}: ${JSON.stringify(value)} ${message}`, allowed),
  );
}

/** Clocks of guests that run; one that does not answer is not this check's business. */
async function clocks(context: Context, vms: readonly FleetVm[]): Promise<check.Finding[]> {
  const found = vms.map(async (vm): Promise<check.Finding[]> => {
    try {
      const libvirt = context.libvirt(vm.uri);
      const before = Date.now();
      const nanoseconds = (await libvirt.agent(vm.uuid, { execute: "guest-get-time" })) as number;
      const middle = (before + Date.now()) / 2;
      return [check.checkClock(`vm.${vm.name}.clock`, nanoseconds / 1e9 - middle / 1e3)];
    } catch (error) {
      if (error instanceof LibvirtError) return [];
      throw error;
    }
  });
  return (await Promise.all(found)).flat();
}
