import { Look } from "./agent";
import { runChecks } from "./checks";
import { Cancelled, orCancelled } from "./clock";
import { bringDataBack } from "./data";
import { Deps, Gate } from "./gate";
import { GuestInputs } from "./inputs";
import { defineMachine, machineFor } from "./machine";
import { LastGood } from "./memory";
import { stopGuest } from "./stop";

/** A guest that is not well gets no more than this to stop by itself. */
const stopMs = 30_000;

/**
 * Brings a VM that failed on its new image back to the overlay it was well on before, and waits until it is healthy there. Does not
 * throw: what went wrong first is what people have to hear. `look` is there when it is healthy.
 */
export async function goBack(
  want: GuestInputs,
  to: LastGood,
  limitMs: number,
  deps: Deps,
): Promise<{ said: string; look?: Look }> {
  const begun = deps.clock.now();
  try {
    if (!(await orCancelled(deps.libvirt.hasVolume(to.overlayPath), deps.signal))) {
      return { said: `cannot go back to image ${to.imageDigest}: its overlay is gone` };
    }
    deps.warn(`image ${want.imageDigest} failed, going back to image ${to.imageDigest}`);
    await stopGuest(want.uuid, Math.min(stopMs, want.stopTimeoutSeconds * 1000), deps);
    const data = await bringDataBack(want, to, deps);
    await defineMachine(want.uuid, { ...machineFor(want), bootPath: to.overlayPath }, deps);
    const { imageId: _, ...anyImage } = want;
    const former = to.imageId === undefined ? anyImage : { ...want, imageId: to.imageId };
    const look = await new Gate({ ...former, contract: to.contract }, deps, limitMs).wait();
    await runChecks(to.checks ?? [], want.uuid, deps, limitMs, look);
    const seconds = Math.round((deps.clock.now() - begun) / 1000);
    return {
      said: `is back on image ${to.imageDigest}${data} and healthy there, ${seconds} s after the failure`,
      look,
    };
  } catch (error) {
    if (error instanceof Cancelled) {
      return { said: 'cancelled on the way back to its former image; run "pulumi up" again' };
    }
    return { said: `could not be brought back to its former image: ${(error as Error).message}` };
  }
}
