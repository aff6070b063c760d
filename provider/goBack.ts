import { Look } from "./agent";
import { Cancelled } from "./clock";
import { Deps, Gate, GuestFailure } from "./gate";
import { GuestInputs } from "./inputs";
import { bootFrom, currentOverlay, formerOverlay, overlayOf } from "./overlay";
import { stopGuest } from "./stop";

/** A guest that is not well gets no more than this to stop by itself. */
const stopMs = 30_000;

/**
 * Brings a VM that failed on its new image back to the overlay it ran on before, and waits until it is healthy there. Does not throw:
 * what went wrong first is what people have to hear. `look` is there when it is healthy.
 */
export async function goBack(want: GuestInputs, limitMs: number, deps: Deps): Promise<{ said: string; look?: Look }> {
  const begun = deps.clock.now();
  try {
    const current = await currentOverlay(want.uuid, deps);
    const former = current && (await formerOverlay(current, deps));
    if (former === undefined) return { said: "has no former overlay that it could go back to" };
    deps.warn(`image ${want.imageDigest} failed, going back to image ${former.digest}`);
    await stopGuest(want.uuid, Math.min(stopMs, want.stopTimeoutSeconds * 1000), deps);
    await bootFrom(want.uuid, former, deps);
    const { imageId: _, ...anyImage } = want;
    const look = await new Gate(anyImage, deps, limitMs).wait();
    const seconds = Math.round((deps.clock.now() - begun) / 1000);
    return { said: `is back on image ${former.digest} and healthy there, ${seconds} s after the failure`, look };
  } catch (error) {
    if (error instanceof Cancelled)
      return { said: 'cancelled on the way back to its former image; run "pulumi up" again' };
    return { said: `could not be brought back to its former image: ${(error as Error).message}` };
  }
}

/** For an image that is tried again: has the VM boot from its overlay, from which it was brought back. True when it had to. */
export async function goForward(want: GuestInputs, deps: Deps): Promise<boolean> {
  const current = await currentOverlay(want.uuid, deps);
  if (current === undefined || current.digest === want.imageDigest) return false;
  const wanted = await overlayOf(current, want.imageDigest, deps);
  if (wanted === undefined) {
    throw new GuestFailure(`boots from image ${current.digest}, and there is no overlay of ${want.imageDigest}`);
  }
  await stopGuest(want.uuid, want.stopTimeoutSeconds * 1000, deps);
  await bootFrom(want.uuid, wanted, deps);
  return true;
}
