import type { GuestArgs } from "../provider/guest";
import { isTestDriver } from "../provider/testDriver";
import { describeNetwork, egressOf } from "./attachment";
import type { DomainSpec } from "./domainXslt";
import type { ResolvedImage } from "./images";
import * as plan from "./plan";

/**
 * What a VM's plan makes of its domain and its guest, without Pulumi: the component registers it, and `nixvm plan` compares it with
 * what is there.
 */

/** Identity of a VM: derived of the fleet's key, where the stack file does not say otherwise. */
export function vmIdentity(vm: plan.VmPlan, fleetKey: string): plan.Identity {
  return plan.identityOf(fleetKey, vm.name, { ...vm.identity, mac: vm.network.mac ?? vm.identity.mac });
}

/** Text of a VM's seed. */
export function vmSeed(vm: plan.VmPlan, identity: plan.Identity, fleetKey: string): plan.SeedFiles {
  const hostKey = vm.identity.sshHostKey === "stack" ? plan.hostKeyOf(fleetKey, vm.name) : undefined;
  return plan.seedFiles(vm, identity, hostKey);
}

/** Path of a VM's seed on its host. */
export function seedPathOf(vm: plan.VmPlan, host: plan.HostPlan, prefix: string): string {
  return `${host.pool.path}/${plan.seedVolumeName(prefix, vm.name)}`;
}

/** Log of a VM's serial console; none with a test driver. */
function consoleLogOf(vm: plan.VmPlan, host: plan.HostPlan): { consoleLog?: string } {
  return isTestDriver(host.uri) ? {} : { consoleLog: plan.consoleLogPath(host.consoleDir, vm.domainName) };
}

/** libvirt's type of a domain on a host. */
export function domainType(host: plan.HostPlan): DomainSpec["type"] {
  return isTestDriver(host.uri) ? "test" : host.accelerator === "kvm" ? "kvm" : "qemu";
}

/** What the libvirt provider has no field for. Disks: those that stay, in their order. */
export function domainSpecOf(
  vm: plan.VmPlan,
  host: plan.HostPlan,
  known: { uuid: string; mac: string; disks: DomainSpec["disks"]; seedPath: string },
): DomainSpec {
  return {
    type: domainType(host),
    uuid: known.uuid,
    disks: known.disks,
    seedPath: known.seedPath,
    nic:
      vm.network.mode === "user" ? { mode: "user", mac: known.mac, sshPort: vm.network.sshPort } : { mode: "libvirt" },
    noCoreDump: vm.scratch !== null,
    ...consoleLogOf(vm, host),
    ...(vm.firmware === null ? {} : { firmware: vm.firmware }),
    ...(vm.cpuModel === null ? {} : { cpuModel: vm.cpuModel }),
  };
}

type MadeInputs = "uuid" | "domainId" | "overlayPath" | "seedDigest" | "nic" | "persistPath";

/** Inputs of a VM's Guest but for those that come of other resources, or of the key. */
export function guestShape(vm: plan.VmPlan, host: plan.HostPlan, image: ResolvedImage, prefix: string) {
  const digest = plan.digest12(image.digest);
  const shape = {
    uri: host.uri,
    vm: vm.name,
    domain: vm.domainName,
    imageDigest: digest,
    memoryMiB: vm.memoryMiB,
    vcpus: vm.vcpus,
    ...(vm.memoryMaximumMiB === null ? {} : { memoryMaximumMiB: vm.memoryMaximumMiB }),
    ...(vm.vcpusMaximum === null ? {} : { vcpusMaximum: vm.vcpusMaximum }),
    network: describeNetwork(vm.network),
    ...egressOf(vm.egress),
    accelerator: host.accelerator,
    seedPath: seedPathOf(vm, host, prefix),
    ...(vm.ejectSeed ? { ejectSeed: true } : {}),
    running: vm.running,
    contract: image.id === undefined ? ("none" as const) : ("nixvm" as const),
    stopTimeoutSeconds: vm.stopTimeoutSeconds,
    ...(image.id === undefined ? {} : { imageId: image.id }),
    // Defaults are left out, so that stacks from before have nothing to do.
    ...(vm.goBack ? { goBack: true } : {}),
    ...(vm.retry.includes(digest) ? { retry: true } : {}),
    ...(vm.persist?.snapshots ? { snapshots: vm.persist.snapshots } : {}),
    ...(vm.restoreData ? { restoreData: true } : {}),
    ...(seesToSomething(vm.rollout) ? { rollout: vm.rollout } : {}),
    ...(vm.persist ? { persistBytes: vm.persist.sizeBytes } : {}),
    ...consoleLogOf(vm, host),
    ...(vm.health.length > 0 ? { checks: [...vm.health] } : {}),
  };
  return shape satisfies Omit<GuestArgs, MadeInputs>;
}

/** Without that its place in the rollout is said by what it depends on, and another VM more is no other input. */
function seesToSomething(rollout: plan.RolloutContext | null): rollout is plan.RolloutContext {
  if (rollout === null) return false;
  const { pause, before, windows, timeLimitSeconds } = rollout;
  return pause || before.length > 0 || windows.length > 0 || timeLimitSeconds !== undefined;
}
