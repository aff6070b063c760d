import { LibvirtError, type Virsh } from "../provider/virsh";
import type { Context } from "./context";
import { type CliError, wrongState } from "./errors";
import type { FleetVm } from "./fleet";

/** What the libvirt of its host says of a VM: a state in libvirt's words, or `gone` when it does not know the domain. */
export async function powerOf(libvirt: Virsh, uuid: string): Promise<string> {
  try {
    return (await libvirt.state(uuid)).state;
  } catch (error) {
    if (!(error instanceof LibvirtError) || error.kind !== "failed") throw error;
    if ((await libvirt.domains()).some((domain) => domain.uuid === uuid)) throw error;
    return "gone";
  }
}

/** A domain that somebody has removed behind the stack's back. */
export function gone({ name, uri }: FleetVm): CliError {
  return wrongState(`${name}: its domain is gone from ${uri}; "pulumi up --refresh" makes it again`, { field: name });
}

/** States in which a guest's processors run, in libvirt's words. */
const ON = new Set(["running", "idle", "blocked", "no state"]);

/** Whether a state is that of a VM that runs. */
export const isOn = (state: string): boolean => ON.has(state);

/** What is to be done about a VM that does not run, for whoever needs it to. */
export function notRunning(vm: FleetVm, state: string): CliError {
  if (state === "gone") return gone(vm);
  const what = state === "paused" ? "resume" : "start";
  return wrongState(`${vm.name}: is ${state}; "nixvm ${what} ${vm.name}" first`, { field: vm.name, value: state });
}

/** @throws CliError unless the VM runs. */
export async function mustRun(context: Context, vm: FleetVm): Promise<Virsh> {
  const libvirt = context.libvirt(vm.uri);
  const state = await powerOf(libvirt, vm.uuid);
  if (!isOn(state)) throw notRunning(vm, state);
  return libvirt;
}
