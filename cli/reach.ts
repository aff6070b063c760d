import { guestExec } from "../provider/agent";
import { systemClock } from "../provider/clock";
import { parseStatus } from "../provider/status";
import { LibvirtError, type Virsh } from "../provider/virsh";
import { bestAddress, declaredEndpoint, type Endpoint, endpointAt, macsOf, parseAddresses } from "./address";
import type { Context } from "./context";
import type { FleetVm } from "./fleet";
import { isOn, powerOf } from "./power";
import { publicKey } from "./ssh";

/** How long the guest may take to say its key. */
const agentMs = 20_000;

/** Where the SSH server of a VM answers, or why that is not known. What is declared needs no running VM. */
export async function endpointOf(context: Context, vm: FleetVm): Promise<Endpoint | { why: string }> {
  const declared = declaredEndpoint(vm);
  if (declared) return declared;
  const libvirt = context.libvirt(vm.uri);
  const state = await powerOf(libvirt, vm.uuid);
  if (!isOn(state)) return { why: `no address is known: it is ${state}` };
  const macs = macsOf(await libvirt.xml(vm.uuid));
  // The guest itself knows best; libvirt's own DHCP knows its leases; the host's neighbours are the last resort.
  for (const source of ["agent", "lease", "arp"] as const) {
    const text = await silently(libvirt.addresses(vm.uuid, source));
    const address = bestAddress(parseAddresses(text ?? ""), macs);
    if (address !== undefined) return endpointAt(vm, address);
  }
  return { why: "no address is known, neither to its agent nor to its network; it may still be starting" };
}

/**
 * The host key of a VM, as its guest said it through its agent, which no network is in between: in the last run, or just now where
 * it is another one with each boot or was never said. Undefined when nobody knows.
 */
export async function hostKey(context: Context, vm: FleetVm): Promise<string | undefined> {
  const known = publicKey(vm.sshHostKey);
  if (known !== undefined && vm.persistPath !== undefined) return known;
  return (await silently(saidKey(context.libvirt(vm.uri), vm))) ?? known;
}

async function saidKey(libvirt: Virsh, vm: FleetVm): Promise<string | undefined> {
  const file = vm.contract === "none" ? "/etc/ssh/ssh_host_ed25519_key.pub" : "/run/nixvm/status.json";
  const never = new AbortController().signal;
  const { out } = await guestExec(libvirt, vm.uuid, `cat ${file}`, systemClock, never, agentMs);
  if (vm.contract === "none") return publicKey(out);
  const status = parseStatus(out);
  return "record" in status ? publicKey(status.record.sshHostKey) : undefined;
}

/** Undefined where libvirt or the agent does not know it. That libvirt is not there is another matter. */
async function silently<T>(asked: Promise<T>): Promise<T | undefined> {
  try {
    return await asked;
  } catch (error) {
    if (error instanceof LibvirtError && (error.kind === "agent" || error.kind === "failed")) return undefined;
    throw error;
  }
}
