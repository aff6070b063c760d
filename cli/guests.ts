import Table from "cli-table3";
import type { VmSummary } from "../components/VirtualMachine";
import { guestExec, look } from "../provider/agent";
import { systemClock } from "../provider/clock";
import type { StatusRecord } from "../provider/status";
import { LibvirtError, Virsh } from "../provider/virsh";

/** What stays the same for a VM's life. */
export interface Identity {
  uuid: string;
  mac: string;
  machineId: string;
  sshHostKey: string;
}

const never = new AbortController().signal;

/** A running VM, seen through libvirt and its guest agent. */
export class LiveVm {
  private readonly virsh: Virsh;

  constructor(
    readonly name: string,
    readonly vm: VmSummary,
  ) {
    this.virsh = new Virsh(vm.uri);
  }

  async exec(script: string): Promise<string> {
    const { code, out, err } = await guestExec(this.virsh, this.vm.uuid, script, systemClock, never, 60_000);
    if (code !== 0) {
      throw new Error(`${this.name}: "${script}" ended with ${code} in the guest: ${err.trim()}`);
    }
    return out;
  }

  async status(): Promise<StatusRecord> {
    const { status, statusProblem } = await look(this.virsh, this.vm.uuid, systemClock, never);
    if (!status) {
      throw new Error(`${this.name}: the guest has no status record${statusProblem ? `: ${statusProblem}` : ""}`);
    }
    return status;
  }

  /** Identity as libvirt and the guest have it now, not as it was once planned. */
  async identity(): Promise<Identity> {
    const xml = await this.virsh.xml(this.vm.uuid);
    const { machineId, sshHostKey } = await this.status();
    const uuid = /<uuid>([^<]+)<\/uuid>/.exec(xml)?.[1] ?? "";
    const mac = /mac(?: address)?=['"]?([0-9a-f:]{17})/i.exec(xml)?.[1] ?? "";
    return { uuid, mac: mac.toLowerCase(), machineId, sshHostKey };
  }

  /** Seconds of a clean stop and a start until the agent answers, by plain libvirt calls: what any tool has to pay. */
  async restartPlainly(): Promise<number> {
    const began = performance.now();
    await this.virsh.shutdown(this.vm.uuid, "agent");
    while ((await this.virsh.state(this.vm.uuid)).state !== "shut off") {
      await systemClock.sleep(100, never);
    }
    await this.virsh.start(this.vm.uuid);
    for (;;) {
      try {
        await this.virsh.agent(this.vm.uuid, { execute: "guest-ping" });
        break;
      } catch (error) {
        if (!(error instanceof LibvirtError) || error.kind !== "agent") {
          throw error;
        }
        await systemClock.sleep(100, never);
      }
    }
    return (performance.now() - began) / 1000;
  }

  /** Waits until the guest has nothing left to start. */
  async settled(): Promise<void> {
    await this.exec("systemctl is-system-running --wait");
  }
}

/** The fleet as a table: what runs now, and how to get in. */
export async function fleetTable(vms: LiveVm[]): Promise<string> {
  const table = new Table({ head: ["name", "image", "state", "up since", "access"], style: { head: [], border: [] } });
  for (const vm of vms) {
    const status = await vm.status();
    const state = status.healthy ? "healthy" : `not healthy: ${status.reasons.join("; ")}`;
    table.push([vm.name, status.imageVersion || status.imageId, state, status.bootedAt, vm.vm.access]);
  }
  return table.toString();
}
