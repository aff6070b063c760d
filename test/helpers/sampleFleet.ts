import { type FleetVm } from "../../cli/fleet";
import { type Graph, type GraphVm } from "../../cli/graphFacts";
import { rowOf } from "../../cli/statusRow";
import { type Survey } from "../../cli/survey";
import { type VmFacts } from "../../cli/vmFacts";
import { type Machine } from "../../provider/domainXml";

export const AT = Date.parse("2026-03-02T10:00:00Z");
export const DIGEST = { v1: "1f3a9c0d2b11", v2: "9b2ec4d7705a" } as const;
const MIB = 2 ** 20;

/** A VM as the state has it. */
export function stateVm(name: string, more: Partial<FleetVm> = {}): FleetVm {
  const digest = more.imageDigest ?? DIGEST.v2;
  const host = more.host ?? "rack-1";
  const pool = "/var/lib/libvirt/images/nixvm-prod";
  return {
    name,
    host,
    uri: `qemu+ssh://root@${host}/system`,
    domain: `nixvm-prod-${name}`,
    uuid: `00000000-0000-4000-8000-${Buffer.from(name).toString("hex").padEnd(12, "0").slice(0, 12)}`,
    accelerator: "kvm",
    running: true,
    memoryMiB: 2048,
    vcpus: 2,
    network: "bridge br0",
    imageDigest: digest,
    imageId: "nixos-server-25.11.2",
    imageVersion: "25.11.2",
    contract: "nixvm",
    overlayPath: `${pool}/nixvm-prod-${name}-${digest}-0a1b2c3d.qcow2`,
    persistPath: `${pool}/nixvm-prod-${name}-persist`,
    seedPath: `${pool}/nixvm-prod-${name}-seed.iso`,
    quarantined: [],
    ...more,
  };
}

export const machine = (vm: FleetVm, more: Partial<Machine> = {}): Machine => ({
  bootPath: vm.overlayPath,
  memoryMiB: vm.memoryMiB,
  memoryMaximumMiB: vm.memoryMiB,
  vcpus: vm.vcpus,
  vcpusMaximum: vm.vcpus,
  balloon: false,
  nic: undefined,
  ...more,
});

/** What a guest says that is well. */
export function guestOf(vm: FleetVm, more: Partial<Survey> = {}, status: object = {}): Survey {
  const record = {
    ...{
      schema: 1 as const,
      imageId: vm.imageId ?? "",
      imageVersion: vm.imageVersion ?? "",
      bootId: "b",
      bootedAt: "",
    },
    ...{ machineId: "m", healthy: true, reasons: [] as string[], sshHostKey: "", rebootPending: false },
    persist: { state: "mounted", mount: "/var", sizeBytes: 8000 * MIB, reason: "" },
    scratch: { state: "none", reason: "", sizeBytes: 0 },
  };
  return {
    system: "running",
    status: { ...record, ...status },
    uptimeSeconds: 283_000,
    memoryBytes: 1970 * MIB,
    memoryUsedBytes: 730 * MIB,
    disks: [
      { mount: "/", sizeBytes: 2000 * MIB, usedBytes: 1200 * MIB },
      { mount: "/var", sizeBytes: 8000 * MIB, usedBytes: 2720 * MIB },
    ],
    ip: "192.168.10.21",
    ...more,
  };
}

/** A VM that is as it should be, and what is different about it. */
export function factsOf(vm: FleetVm, more: Partial<VmFacts> = {}): VmFacts {
  const whole = {
    ...{ vm, at: AT, imageSince: "2026-02-27T03:10:00Z" },
    domain: { state: "running", reason: "booted", now: machine(vm), next: machine(vm) },
    guest: guestOf(vm),
    ...more,
  };
  return Object.fromEntries(Object.entries(whole).filter(([, value]) => value !== undefined)) as unknown as VmFacts;
}

/** Twelve VMs on three hosts, of two groups, of which some need a look. */
export function sampleFacts(): VmFacts[] {
  const member = (group: string, n: number, host: string, more: Partial<FleetVm> = {}): FleetVm =>
    stateVm(`${group}-${n}`, { host, ...more });
  const web = [1, 2, 3, 4, 5].map((n) => {
    const vm = member("web", n, n < 4 ? "rack-1" : "rack-2", { network: `network front, 192.168.10.${20 + n}` });
    const busy = { mount: "/var", sizeBytes: 8000 * MIB, usedBytes: (900 + n * 430) * MIB };
    return factsOf(vm, {
      group: "web",
      guest: guestOf(vm, { disks: [busy], uptimeSeconds: 283_000 - n * 300, ip: `192.168.10.${20 + n}` }),
    });
  });
  const work = [1, 2, 3].map((n) => {
    const vm = member("worker", n, "rack-2", {
      memoryMiB: 8192,
      vcpus: 8,
      imageDigest: DIGEST.v1,
      imageVersion: "25.11.1",
      imageId: "i1",
      scratchPath: "/s",
    });
    const guest = guestOf(vm, {
      memoryUsedBytes: (3100 + n * 900) * MIB,
      uptimeSeconds: 1_900_000,
      ip: `192.168.10.${40 + n}`,
    });
    return factsOf(vm, { group: "worker", guest, imageSince: "2026-02-08T03:00:00Z" });
  });
  const db = stateVm("db", { memoryMiB: 4096, vcpus: 4, quarantined: [DIGEST.v1] });
  const git = stateVm("git", { imageId: "nixos-server-25.11.2" });
  const old = stateVm("mail", { host: "rack-2", running: false });
  const far = stateVm("backup", { host: "attic" });
  const [w2, w3] = [work[1] as VmFacts, work[2] as VmFacts];
  work[1] = factsOf(w2.vm, {
    group: "worker",
    imageSince: w2.imageSince as string,
    guest: guestOf(
      w2.vm,
      { system: "degraded" },
      { healthy: false, reasons: ["unit queue-runner.service failed", "unit nginx.service failed"] },
    ),
  });
  const { guest: _, ...silent } = w3;
  work[2] = { ...silent, guestProblem: "Guest agent is not responding: QEMU guest agent is not connected" };
  return [
    { vm: far, at: AT, hostProblem: "ssh: connect to host attic port 22: No route to host" },
    factsOf(db, {
      domain: { state: "running", reason: "booted", now: machine(db, { memoryMiB: 3072 }), next: machine(db) },
      guest: guestOf(db, { ip: "192.168.10.11" }),
    }),
    factsOf(git, { guest: guestOf(git, { ip: "192.168.10.12" }, { rebootPending: true }) }),
    factsOf(old, { domain: { state: "shut off", reason: "shutdown", next: machine(old) }, guest: undefined as never }),
    ...web,
    ...work,
  ];
}

/** The page's data of VMs, with sizes that differ. */
export function graphOf(facts: readonly VmFacts[], more: Partial<Graph> = {}): Graph {
  const pool = "/var/lib/libvirt/images/nixvm-prod/nixvm-prod-base-";
  const vms = facts.map((one, index): GraphVm => {
    const { vm, hostProblem } = one;
    const size = (usedBytes: number, diskBytes: number) => (hostProblem === undefined ? { usedBytes, diskBytes } : {});
    return {
      row: rowOf(one),
      base: `${pool}${vm.imageDigest}.qcow2`,
      overlay: { path: vm.overlayPath, ...size((14 + ((index * 37) % 90)) * MIB, 4096 * MIB) },
      persist: { path: vm.persistPath ?? "", ...size((700 + ((index * 613) % 2900)) * MIB, 8192 * MIB) },
      seed: { path: vm.seedPath, ...size(372 * 1024, 372 * 1024) },
      ...(vm.scratchPath === undefined ? {} : { scratch: { path: vm.scratchPath, ...size(1900 * MIB, 20480 * MIB) } }),
    };
  });
  const bases = new Map(
    facts.map(({ vm, hostProblem }) => [
      `${vm.host} ${vm.imageDigest}`,
      {
        ...{ path: `${pool}${vm.imageDigest}.qcow2`, host: vm.host, digest: vm.imageDigest },
        ...(vm.imageVersion === undefined ? {} : { version: vm.imageVersion }),
        ...(hostProblem === undefined ? { usedBytes: 1384 * MIB, diskBytes: 4096 * MIB } : {}),
      },
    ]),
  );
  const pending = {
    waves: [
      { kind: "canary" as const, group: "worker", vms: ["worker-1"], lanes: 1 },
      { kind: "batch" as const, group: "worker", vms: ["worker-3"], lanes: 2 },
      { kind: "unhealthy" as const, group: "worker", vms: ["worker-2"], lanes: 2 },
    ],
  };
  return { stack: "prod", at: AT, vms, bases: [...bases.values()], pending, ...more };
}
