import { Backoff, orCancelled } from "./clock";
import { Deps } from "./gate";
import { parseError } from "./parse";
import { LibvirtError } from "./virsh";

/** The agent's way gets this long before the power button is tried too. */
const agentMs = 20_000;
/** A power button pressed before the guest listens for it is lost: it is pressed again. */
const pressMs = 5000;

/** How a stop ended. */
export type Stopped = "was off" | "clean" | "power-off";

/**
 * Stops a guest cleanly: through its agent, then by the power button, pressed again and again, and only past the limit
 * by pulling the plug, with a warning. The caller made sure that the domain exists and is ours.
 */
export async function stopGuest(uuid: string, limitMs: number, deps: Deps): Promise<Stopped> {
  const { libvirt, clock, signal } = deps;
  const begun = clock.now();
  const backoff = new Backoff(clock, signal);
  let agentAt: number | undefined;
  let pressedAt: number | undefined;
  let resumed = false;
  let asked = false;
  let lastError = "";
  let shown = "";

  for (;;) {
    const state = await currentState(uuid, deps);
    const elapsed = clock.now() - begun;
    if (state === "gone" || state === "shut off") return asked ? "clean" : "was off";
    if (state === "crashed") {
      await pull(uuid, deps);
      return "power-off";
    }
    if (elapsed >= limitMs) {
      const why = lastError ? ` (last answer: ${lastError})` : "";
      deps.warn(`did not stop within ${Math.round(limitMs / 1000)} s${why}; it is powered off`);
      await pull(uuid, deps);
      return "power-off";
    }
    if (state === "paused" && !resumed) {
      // A paused guest hears nothing; were it paused by a full pool, it pauses again and the limit ends it.
      resumed = true;
      await tolerated(libvirt.resume(uuid));
    } else if (!asked) {
      asked = true;
      if (await tolerated(libvirt.shutdown(uuid, "agent"))) agentAt = clock.now();
    } else if (agentAt === undefined || clock.now() - agentAt >= Math.min(agentMs, limitMs / 3)) {
      if (pressedAt === undefined || clock.now() - pressedAt >= pressMs) {
        await tolerated(libvirt.shutdown(uuid, "acpi"));
        pressedAt = clock.now();
      }
    }
    const line = `stopping (${Math.round(elapsed / 1000)} s)`;
    if (line !== shown) deps.progress(line);
    shown = line;
    await backoff.pause();
  }

  /** True when libvirt took the request; a guest that cannot be asked this way is asked another way. */
  async function tolerated(request: Promise<void>): Promise<boolean> {
    try {
      await orCancelled(request, signal);
      return true;
    } catch (error) {
      if (!(error instanceof LibvirtError) || error.kind === "unreachable" || error.kind === "missing") throw error;
      lastError = parseError(error.message);
      return false;
    }
  }
}

/** State of the domain; "gone" when libvirt no longer lists it, as happens to a domain that lived only while it ran. */
async function currentState(uuid: string, deps: Deps): Promise<string> {
  try {
    return (await orCancelled(deps.libvirt.state(uuid), deps.signal)).state;
  } catch (error) {
    if (!(error instanceof LibvirtError) || error.kind !== "failed") throw error;
    const domains = await orCancelled(deps.libvirt.domains(), deps.signal);
    if (!domains.some((domain) => domain.uuid === uuid)) return "gone";
    throw error;
  }
}

/** Power-off; a guest that stopped by itself in that very moment is no error. */
async function pull(uuid: string, deps: Deps): Promise<void> {
  try {
    await orCancelled(deps.libvirt.destroy(uuid), deps.signal);
  } catch (error) {
    const state = await currentState(uuid, deps);
    if (state !== "shut off" && state !== "gone") throw error;
  }
}
