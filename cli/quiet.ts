import { type Clock, systemClock } from "../provider/clock";
import { LibvirtError, type Virsh } from "../provider/virsh";

/** A guest has to write out what it holds in memory before it can keep still; emulated, and with a slow disk, that takes a while. */
const freezeSeconds = 30;
/** A guest that was told to thaw and does not is told again for so long. */
const thawMs = 60_000;

/**
 * How still a guest was: `frozen`: its file systems were written out and kept still by its agent. `paused`: there was no agent to ask, so
 * its processors were halted, and its data is as after a power cut. `still`: it was paused already.
 */
export type Stillness = "frozen" | "paused" | "still";

/** What was done while a guest kept still, and for how many milliseconds it did. */
export interface Quieted<T> {
  result: T;
  how: Stillness;
  ms: number;
}

/**
 * Does something while the data of a running guest keeps still. Whatever happens, the guest goes on afterwards. What a killed run has
 * left frozen is thawed by the next one.
 */
export async function whileQuiet<T>(
  uuid: string,
  libvirt: Pick<Virsh, "agent" | "suspend" | "resume">,
  warn: (line: string) => void,
  use: () => Promise<T>,
  clock: Clock = systemClock,
): Promise<Quieted<T>> {
  const frozen = await freeze(uuid, libvirt, warn, clock);
  const begun = clock.now();
  if (!frozen) await libvirt.suspend(uuid);
  let result: T;
  try {
    result = await use();
  } finally {
    if (frozen) await thaw(uuid, libvirt, clock);
    else await resumed(uuid, libvirt, clock);
  }
  return { result, how: frozen ? "frozen" : "paused", ms: Math.round(clock.now() - begun) };
}

/** False when there is no agent that could do it. */
async function freeze(
  uuid: string,
  libvirt: Pick<Virsh, "agent">,
  warn: (line: string) => void,
  clock: Clock,
): Promise<boolean> {
  const ask = (): Promise<unknown> => libvirt.agent(uuid, { execute: "guest-fsfreeze-freeze" }, freezeSeconds);
  try {
    await ask().catch(async (error: unknown) => {
      if (!(error instanceof LibvirtError) || !/frozen state/.test(error.message)) throw error;
      warn("its file systems are still frozen by a run that was killed: they are thawed");
      await thaw(uuid, libvirt, clock);
      await ask();
    });
    return true;
  } catch (error) {
    if (!(error instanceof LibvirtError) || error.kind !== "agent") {
      // Nobody knows whether the guest has got it.
      await thaw(uuid, libvirt, clock).catch(() => undefined);
      throw error;
    }
    if (!isSilent(error)) await thaw(uuid, libvirt, clock).catch(() => undefined);
    warn(`its agent cannot freeze its file systems (${error.message}): it is paused for a moment instead`);
    return false;
  }
}

const isSilent = (error: LibvirtError): boolean => /not connected|not available|not configured/.test(error.message);

/** Until the guest says so itself: a freeze that was too slow for us may come to its end after all. */
async function thaw(uuid: string, libvirt: Pick<Virsh, "agent">, clock: Clock): Promise<void> {
  await insist(clock, async () => {
    await libvirt.agent(uuid, { execute: "guest-fsfreeze-thaw" }, freezeSeconds);
    const status = await libvirt.agent(uuid, { execute: "guest-fsfreeze-status" });
    if (status !== "thawed") throw new LibvirtError("agent", `its file systems are ${String(status)}`);
  });
}

const resumed = (uuid: string, libvirt: Pick<Virsh, "resume">, clock: Clock): Promise<void> =>
  insist(clock, () =>
    libvirt.resume(uuid).catch((error: unknown) => {
      if (!(error instanceof LibvirtError) || !/already running/.test(error.message)) throw error;
    }),
  );

/** Ctrl-C reaches every process of the terminal, virsh too: a call that it has ended is made again. */
async function insist(clock: Clock, attempt: () => Promise<void>): Promise<void> {
  const begun = clock.now();
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (clock.now() - begun > thawMs) throw error;
      await clock.sleep(300, new AbortController().signal);
    }
  }
}
