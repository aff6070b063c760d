import { guestExec, Look, look } from "./agent";
import { Check, Fault, faultOf, quote, scriptOf } from "./checkScript";
import { Backoff, orCancelled } from "./clock";
import { Deps, GuestFailure } from "./gate";
import { LibvirtError } from "./virsh";

/** What starting a command in a guest may take on top of the command, also under emulation. */
const agentMs = 20_000;

/**
 * Carries out all checks inside the guest, in turns, each again and again until it has passed or its time is over; times
 * count from the call. Rejects with {@link GuestFailure} at the first one that is not going to pass. `seen` is what the
 * guest said before, for the report.
 */
export async function runChecks(
  checks: readonly Check[],
  uuid: string,
  deps: Deps,
  limitMs: number,
  seen?: Look,
): Promise<void> {
  const { clock, signal } = deps;
  const begun = clock.now();
  const backoff = new Backoff(clock, signal, 500, 5000);
  let waiting = [...checks];
  for (let tries = 1; waiting.length > 0; tries++) {
    const failed: Check[] = [];
    for (const check of waiting) {
      if (tries === 1) deps.progress(`check ${check.name}`);
      const fault = await tryOnce(check, uuid, deps).catch(awayForNow);
      if (fault === undefined) continue;
      const elapsed = clock.now() - begun;
      if (fault.final || elapsed >= Math.min(check.withinSeconds * 1000, limitMs)) {
        const after = `${tries} ${tries === 1 ? "try" : "tries"} in ${Math.round(elapsed / 1000)} s`;
        throw new GuestFailure(`health check "${check.name}" failed: ${fault.why} (${after})`, seen);
      }
      deps.progress(`check ${check.name}: ${fault.why}, try ${tries}`);
      failed.push(check);
    }
    waiting = failed;
    if (waiting.length > 0) await backoff.pause();
  }
}

async function tryOnce(check: Check, uuid: string, deps: Deps): Promise<Fault | undefined> {
  const { libvirt, clock, signal } = deps;
  try {
    const limitMs = check.timeoutSeconds * 1000 + agentMs;
    return faultOf(check, await guestExec(libvirt, uuid, scriptOf(check), clock, signal, limitMs));
  } catch (error) {
    return silence(error, uuid, deps);
  }
}

/** libvirt not answering for a moment is no verdict about the guest. */
function awayForNow(error: unknown): Fault {
  if (error instanceof LibvirtError && error.kind === "unreachable") return { why: error.message, final: false };
  throw error;
}

/** What it means that a guest could not be asked: it may be restarting, but one that is off stays off. */
async function silence(error: unknown, uuid: string, { libvirt, signal }: Deps): Promise<Fault> {
  if (!(error instanceof LibvirtError) || error.kind !== "agent") throw error;
  const { state, reason } = await orCancelled(libvirt.state(uuid), signal);
  if (state === "running") return { why: "the guest agent does not answer", final: false };
  const off = state === "shut off" || state === "crashed";
  return { why: `the VM is ${state}${reason ? ` (${reason})` : ""}`, final: off };
}

/** The program that a command begins with; undefined where only a shell can tell. */
function programOf(command: string): string | undefined {
  return /^\s*(?:[A-Za-z_]\w*=[\w./:,@%+-]*\s+)*([\w./+[][\w./+-]*)(?=[\s;|&]|$)/.exec(command)?.[1];
}

/**
 * Warns, while the guest still runs the former image, of checks whose command it does not have: a mistyped one would cost
 * a restart. No more than a warning, since the new image may bring the command.
 */
export async function probeChecks(checks: readonly Check[], uuid: string, deps: Deps): Promise<void> {
  const programs = checks.flatMap((check) => {
    const program = check.kind === "command" ? programOf(check.command) : undefined;
    return program === undefined ? [] : [{ name: check.name, program }];
  });
  if (programs.length === 0) return;
  const script = programs
    .map(({ program }, index) => `command -v ${quote(program)} >/dev/null || echo ${index}`)
    .join("; ");
  let missing: string;
  try {
    missing = (await guestExec(deps.libvirt, uuid, script, deps.clock, deps.signal, agentMs)).out;
  } catch (error) {
    // A guest that cannot be asked is about to be stopped all the same.
    if (error instanceof LibvirtError && error.kind === "agent") return;
    throw error;
  }
  for (const index of missing.split("\n").filter((line) => line !== "")) {
    const found = programs[Number(index)];
    if (found === undefined) continue;
    deps.warn(
      `health check "${found.name}": ${found.program} is not in the guest as it is now; unless the new image has it, the check will fail`,
    );
  }
}

/** How a guest is before it is touched. */
export interface Condition {
  healthy: boolean;
  /** Why it is not. */
  why?: string;
}

/**
 * Whether a guest is well before an upgrade stops it: what was broken before is no fault of the new image. `checks` are
 * those it passed when it was brought up, not new ones, which the new image may be the first to pass.
 */
export async function wasHealthy(
  uuid: string,
  deps: Deps,
  contract: "nixvm" | "none" = "nixvm",
  checks: readonly Check[] = [],
): Promise<Condition> {
  const { libvirt, clock, signal } = deps;
  try {
    const why = faultOfLook(await look(libvirt, uuid, clock, signal), contract);
    if (why !== undefined) return { healthy: false, why };
  } catch (error) {
    return { healthy: false, why: (await silence(error, uuid, deps)).why };
  }
  for (const check of checks) {
    const fault = await tryOnce(check, uuid, deps);
    if (fault) return { healthy: false, why: `health check "${check.name}": ${fault.why}` };
  }
  return { healthy: true };
}

function faultOfLook(seen: Look, contract: "nixvm" | "none"): string | undefined {
  if (contract === "none") {
    return seen.system === "running" || seen.system === "degraded" ? undefined : `its system is ${seen.system}`;
  }
  const { status } = seen;
  if (status === undefined) return seen.statusProblem ?? `it has no status record, its system is ${seen.system}`;
  if (status.healthy) return undefined;
  return status.reasons.length > 0 ? status.reasons.join("; ") : "it says so and gives no reason";
}
