import { Backoff, Clock, orCancelled } from "./clock";
import { parseStatus, StatusRecord } from "./status";
import { firstAddress } from "./parse";
import { Libvirt, LibvirtError } from "./virsh";

/** What a command run in the guest left behind. */
export interface GuestResult {
  code: number;
  out: string;
  err: string;
}

/** The agent's service has a bare PATH on NixOS, and there is no /usr/bin there. */
const guestPath = "PATH=/run/current-system/sw/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH; ";

/** Runs a shell command in the guest through the agent; rejects with kind `agent` when the agent is silent or too slow. */
export async function guestExec(
  libvirt: Libvirt,
  uuid: string,
  script: string,
  clock: Clock,
  signal: AbortSignal,
  limitMs: number,
): Promise<GuestResult> {
  const started = clock.now();
  const begun = (await orCancelled(
    libvirt.agent(uuid, {
      execute: "guest-exec",
      arguments: { path: "/bin/sh", arg: ["-c", guestPath + script], "capture-output": true },
    }),
    signal,
  )) as { pid: number };
  const backoff = new Backoff(clock, signal, 50, 500);
  for (;;) {
    const command = { execute: "guest-exec-status", arguments: { pid: begun.pid } };
    const status = (await orCancelled(libvirt.agent(uuid, command), signal)) as ExecStatus;
    if (status.exited)
      return { code: status.exitcode ?? 255, out: decode(status["out-data"]), err: decode(status["err-data"]) };
    if (clock.now() - started > limitMs) {
      throw new LibvirtError("agent", `a command in the guest did not end within ${limitMs / 1000} s: ${script}`);
    }
    await backoff.pause();
  }
}

interface ExecStatus {
  exited: boolean;
  exitcode?: number;
  "out-data"?: string;
  "err-data"?: string;
}

function decode(data: string | undefined): string {
  return data === undefined ? "" : Buffer.from(data, "base64").toString("utf8");
}

/** What the guest says about itself in one look. */
export interface Look {
  /** Answer of `systemctl is-system-running`: initializing, starting, running, degraded, maintenance, stopping, ... */
  system: string;
  /** The status record; absent while there is none. */
  status?: StatusRecord;
  /** Why a record that is there cannot be used. */
  statusProblem?: string;
}

const marker = "--nixvm--";

/** Asks for system state and status record with one command: each round trip is two virsh processes. */
export async function look(libvirt: Libvirt, uuid: string, clock: Clock, signal: AbortSignal): Promise<Look> {
  const script = `systemctl is-system-running 2>/dev/null; echo ${marker}; cat /run/nixvm/status.json 2>/dev/null; true`;
  const { out } = await guestExec(libvirt, uuid, script, clock, signal, 20_000);
  const at = out.indexOf(marker);
  const system = (at < 0 ? out : out.slice(0, at)).trim() || "unknown";
  const text = at < 0 ? "" : out.slice(at + marker.length).trim();
  if (text === "") return { system };
  const parsed = parseStatus(text);
  return "record" in parsed ? { system, status: parsed.record } : { system, statusProblem: parsed.problem };
}

/** The guest's first IPv4 address, or undefined when it has none or the agent cannot say. */
export async function address(libvirt: Libvirt, uuid: string, signal: AbortSignal): Promise<string | undefined> {
  try {
    return firstAddress(await orCancelled(libvirt.agent(uuid, { execute: "guest-network-get-interfaces" }), signal));
  } catch (error) {
    if (error instanceof LibvirtError) return undefined;
    throw error;
  }
}
