import type { Segment } from "./errors";
import { lookup } from "./infrastructure";
import type { LayeredVm } from "./layers";
import { IPV4_PATTERN, parseIpv4, parseSubnet, refuseAddress, usableRange } from "./network";
import type { VmConfig } from "./model-vm";
import type { VmPlan } from "./types";
import type { Surroundings } from "./vm";

/** Fields of `network` that only one mode reads. In another mode they are mistakes: nothing would come of them. */
const ONLY: Readonly<Record<string, VmPlan["network"]["mode"]>> = {
  network: "nat",
  address: "nat",
  bridge: "bridge",
  sshPort: "user",
};

/** Checks how one VM is connected. */
export function checkNetwork(vm: LayeredVm, plan: VmPlan, around: Surroundings): void {
  if (vm.bad("network")) return;
  const written = vm.fields.network ?? {};
  const refuse = (field: string, value: unknown, message: string, allowed: string): void => {
    const path: Segment[] = vm.where("network", field);
    around.scope.problems.add(path, value, `${message}${vm.remark(path)}`, allowed);
  };
  const { mode } = plan.network;
  for (const [field, needed] of Object.entries(ONLY)) {
    const value = written[field as keyof typeof written];
    if (value === undefined || mode === needed) continue;
    refuse(field, value, `is for network mode ${needed}, and the mode is ${mode}`, `mode: ${needed}, or leave it out`);
  }
  checkEgress(vm, plan, around);
  if (plan.network.mode === "bridge") checkBridge(written, plan, around, refuse);
  if (plan.network.mode === "nat") checkNat(vm, written, plan, around, refuse);
}

type Refuse = (field: string, value: unknown, message: string, allowed: string) => void;
type Written = Exclude<NonNullable<VmConfig["network"]>, string>;

function checkEgress(vm: LayeredVm, plan: VmPlan, { scope }: Surroundings): void {
  const { egress } = vm.fields;
  if (egress === undefined || vm.bad("egress")) return;
  const say = (field: string, value: unknown, message: string, allowed: string): void => {
    const path: Segment[] = vm.where("egress", field);
    scope.problems.add(path, value, `${message}${vm.remark(path)}`, allowed);
  };
  if (egress.blockPrivateNetworks === true && plan.network.mode === "user") {
    const why =
      "cannot be kept up in network mode user, where QEMU itself sends for the VM and no filter of the host sees which VM it was";
    say("blockPrivateNetworks", undefined, why, "network mode nat or bridge, or false");
  }
  if (egress.blockPrivateNetworks !== true && egress.allow !== undefined) {
    say(
      "allow",
      egress.allow,
      "allows nothing more: nothing is kept back",
      "blockPrivateNetworks: true beside it, or no allow",
    );
  }
}

function checkBridge(written: Written, plan: VmPlan, around: Surroundings, refuse: Refuse): void {
  const there = lookup(around.scope.context.hosts, plan.host)?.bridges;
  if (written.bridge === undefined) {
    refuse(
      "bridge",
      undefined,
      "is missing, and needed in mode bridge",
      there?.join(", ") || "the name of a bridge of the host, such as br0",
    );
  } else if (there !== undefined && !there.includes(written.bridge)) {
    refuse(
      "bridge",
      written.bridge,
      `is not a bridge of host ${plan.host}`,
      there.join(", ") || "the host has none: make one first",
    );
  }
}

function checkNat(vm: LayeredVm, written: Written, plan: VmPlan, around: Surroundings, refuse: Refuse): void {
  const { scope, networks } = around;
  const name = written.network ?? "default";
  scope.checkReference("networks", vm.where("network", "network"), name, ["default"]);
  const entry = networks.get(name);
  if (written.address !== undefined && !IPV4_PATTERN.test(written.address)) {
    return refuse("address", written.address, "is not an IPv4 address", "an address such as 192.168.77.10");
  }
  if (entry === undefined) {
    const unknown = name !== "default" || scope.names("networks").has("default");
    if (written.address === undefined || unknown) return;
    const allowed = "declare it: nixvm:networks with default: { create: false, subnet: 192.168.122.0/24 }";
    return refuse("address", written.address, "cannot be used: the subnet of network default is not known", allowed);
  }
  if (entry.host !== plan.host && !vm.bad("host")) {
    return refuse(
      "network",
      name,
      `is a network of host ${entry.host}, and the VM is on ${plan.host}`,
      "a network of the same host",
    );
  }
  const subnet = parseSubnet(entry.subnet?.cidr);
  const address = parseIpv4(written.address);
  if (written.address === undefined || address === undefined) {
    if (entry.dhcp) return;
    const allowed = subnet === undefined ? "an address of that network" : usableRange(subnet);
    return refuse("address", undefined, `is missing, and network ${name} has no DHCP`, allowed);
  }
  if (subnet === undefined) {
    if (entry.create) return;
    return refuse(
      "address",
      written.address,
      `cannot be used: the subnet of network ${name} is not known`,
      `a subnet in networks.${name}`,
    );
  }
  const refusal = refuseAddress(address, subnet);
  if (refusal !== undefined) refuse("address", written.address, refusal, usableRange(subnet));
}
