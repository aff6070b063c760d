import { parseError, parseForwardedPorts } from "./parse";
import { checkPool, isLocal } from "./pool";
import { Probes, realProbes } from "./probes";
import { isTestDriver } from "./testDriver";
import { Virsh, virshError } from "./virsh";

/** One thing that stands in the way; same shape as the planner's problems, so that all are reported alike. */
export interface Problem {
  path: string;
  value: unknown;
  message: string;
  allowed: string;
}

/** What the preflight has to know of a host. */
export interface PreflightHost {
  /** Name in the stack file. */
  name: string;
  uri: string;
  accelerator: "kvm" | "tcg";
  /** Folder of the pool. */
  poolPath: string;
  /** Whether the pool is made by the stack (its folder may then be missing still). */
  poolCreate: boolean;
  /** Bytes that will be written at the least. If unset, space is not checked. */
  needBytes?: number;
  /** A scratch disk will be in this pool: it must not lie in memory (E-37). */
  scratch?: boolean;
}

/** What the preflight has to know of a VM. */
export interface PreflightVm {
  name: string;
  /** Name of its domain. */
  domain: string;
  uuid?: string;
  /** Port of this machine that leads to the guest's sshd; only with user-mode networking. */
  sshPort?: number;
  /** Bridge of its host that it is on; only in network mode bridge. */
  bridge?: string;
  /** Name of its host. */
  host: string;
}

/** Longer than a libvirtd that probes QEMU for the first time takes (12 s were measured). */
const limitMs = 60_000;

/**
 * Finds out before anything is made whether the hosts can run the fleet. All problems at once; none for hosts with a
 * test driver, which runs nothing. All checks of all hosts run at the same time: one virsh call each where all is well.
 */
export async function preflight(
  hosts: readonly PreflightHost[],
  vms: readonly PreflightVm[],
  probes: Partial<Probes> = {},
): Promise<Problem[]> {
  const on: Probes = { ...realProbes, ...probes };
  const real = hosts.filter((host) => !isTestDriver(host.uri));
  if (real.length === 0) return [];
  const found = await Promise.all([
    tools(real, on),
    ...real.map((host) => libvirt(host, on)),
    ...real.filter((host) => isLocal(host.uri)).map((host) => checkPool(host, on)),
    ...real.filter((host) => isLocal(host.uri)).map((host) => ports(host, vms, on)),
    ...real.filter((host) => !isLocal(host.uri)).map((host) => bridges(host, vms, on)),
  ]);
  return found.flat();
}

/** Programs that the providers start on the machine where Pulumi runs. */
async function tools(hosts: readonly PreflightHost[], probes: Probes): Promise<Problem[]> {
  const needed = [
    { name: "virsh", use: "to talk to libvirt", install: "libvirt-clients" },
    { name: "xsltproc", use: "to complete the definition of a domain", install: "xsltproc" },
    { name: "mkisofs", use: "to make the seed medium", install: "genisoimage" },
  ];
  const there = await Promise.all(needed.map(({ name }) => probes.onPath(name)));
  return needed
    .filter((_, index) => !there[index])
    .map(({ name, use, install }) => ({
      path: `hosts.${hosts[0]?.name ?? ""}`,
      value: name,
      message: `is not on the PATH of this machine, and is needed ${use}`,
      allowed: `install the package ${install}`,
    }));
}

/** One call answers four questions: is libvirt there, is QEMU there, is the accelerator offered, is there UEFI. */
async function libvirt(host: PreflightHost, probes: Probes): Promise<Problem[]> {
  const virttype = host.accelerator === "kvm" ? "kvm" : "qemu";
  const args = ["-q", "-c", host.uri, "domcapabilities", "--virttype", virttype, "--machine", "q35"];
  const { code, stdout, stderr, failure } = await probes.run("virsh", args, limitMs);
  const path = `hosts.${host.name}.uri`;
  if (code !== 0) {
    if (failure === "missing") return []; // said by tools()
    const error = virshError(host.uri, "domcapabilities", failure, stderr);
    const text = parseError(stderr);
    if (error.kind !== "failed") return [unreachable(path, host.uri, text || error.message)];
    if (/emulator|QEMU binary/i.test(text) && !/KVM is not supported/i.test(text)) {
      const allowed = "install QEMU on that host (Debian, Ubuntu: qemu-system-x86)";
      return [{ path, value: host.uri, message: `has no QEMU that libvirt can use: ${text}`, allowed }];
    }
    if (virttype === "kvm") return [noKvm(host, text)];
    return [{ path, value: host.uri, message: `cannot run these domains: ${text}`, allowed: "" }];
  }
  const problems: Problem[] = [];
  if (virttype === "kvm" && !/<domain>kvm<\/domain>/.test(stdout)) problems.push(noKvm(host, "it is not offered"));
  if (!hasUefi(stdout)) {
    const allowed = "install it on that host (Debian, Ubuntu: ovmf)";
    problems.push({ path, value: host.uri, message: "has no UEFI firmware for its guests", allowed });
  }
  return problems;
}

/** Refused is not the same as absent: the way out is another one. */
function unreachable(path: string, value: string, text: string): Problem {
  const cause = text.replace(/^failed to connect to the hypervisor:?\s*/, "");
  if (/authenticat|permission denied|access denied|polkit/i.test(cause)) {
    const allowed = "join the group libvirt, use qemu:///session, or run as root";
    return { path, value, message: `refuses the connection: ${cause}`, allowed };
  }
  const allowed = 'a libvirt that runs: start libvirtd, or run "npm run setup" for a private one';
  return { path, value, message: `does not answer: ${cause}`, allowed };
}

function noKvm(host: PreflightHost, text: string): Problem {
  const path = `hosts.${host.name}.accelerator`;
  return { path, value: "kvm", message: `is not possible on ${host.uri}: ${text}`, allowed: "tcg, or a host with KVM" };
}

/** libvirt lists `efi` only when it found firmware descriptors; older ones list the files. */
function hasUefi(xml: string): boolean {
  const os = /<os [^>]*>([\s\S]*?)<\/os>/.exec(xml)?.[1] ?? "";
  return /<value>efi<\/value>/.test(os) || /<value>[^<]*(OVMF|AAVMF|edk2)[^<]*<\/value>/i.test(os);
}

/**
 * Bridges of a host that is another machine, asked of its libvirt; those of this one the planner knows. A libvirt without the driver for
 * interfaces cannot tell, and then nothing is said.
 */
async function bridges(host: PreflightHost, vms: readonly PreflightVm[], probes: Probes): Promise<Problem[]> {
  const here = vms.filter((vm) => vm.host === host.name && vm.bridge !== undefined);
  const found = await Promise.all(
    [...new Set(here.map((vm) => vm.bridge!))].map(async (bridge) => {
      const { code, stdout, stderr } = await probes.run(
        "virsh",
        ["-q", "-c", host.uri, "iface-dumpxml", bridge],
        limitMs,
      );
      const missing = code === 0 ? !/^<interface type='bridge'/m.test(stdout) : /Interface not found/.test(stderr);
      return missing ? here.filter((vm) => vm.bridge === bridge) : [];
    }),
  );
  const allowed = "the name of a bridge of that host; make one first where there is none";
  return found.flat().map(({ name, bridge }) => {
    return {
      path: `fleet.${name}.network.bridge`,
      value: bridge,
      message: `is not a bridge of host ${host.name}`,
      allowed,
    };
  });
}

/** Ports for SSH must be free, or held by the very guests they lead to. */
async function ports(host: PreflightHost, vms: readonly PreflightVm[], probes: Probes): Promise<Problem[]> {
  const here = vms.filter((vm) => vm.host === host.name);
  const wanted = here.filter((vm) => vm.sshPort !== undefined);
  const free = await Promise.all(wanted.map((vm) => probes.portFree(vm.sshPort!)));
  const taken = wanted.filter((_, index) => !free[index]);
  if (taken.length === 0) return [];
  const held = await heldByFleet(host, here, probes);
  return taken
    .filter((vm) => !held.has(vm.sshPort!))
    .map((vm) => ({
      path: `fleet.${vm.name}.network.sshPort`,
      value: vm.sshPort,
      message: "is in use on this machine by something that is not this fleet",
      allowed: "a free port, or stop what listens there",
    }));
}

/** Ports that running domains of this fleet forward. A domain with our name but another UUID is not of this fleet. */
async function heldByFleet(host: PreflightHost, vms: readonly PreflightVm[], probes: Probes): Promise<Set<number>> {
  const virsh = new Virsh(host.uri, probes.run);
  try {
    const domains = await virsh.domains();
    const ours = domains.filter(({ uuid, name }) =>
      vms.some((vm) => (vm.uuid === undefined ? vm.domain === name : vm.uuid === uuid)),
    );
    const ports = await Promise.all(
      ours.map(async ({ uuid }) => {
        const { state } = await virsh.state(uuid);
        return state === "shut off" ? [] : parseForwardedPorts(await virsh.xml(uuid));
      }),
    );
    return new Set(ports.flat());
  } catch {
    // That libvirt does not answer is said by another check; here it means that no port is known to be ours.
    return new Set();
  }
}
