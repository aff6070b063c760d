import { Cancelled, orCancelled } from "./clock";
import {
  checkSnapshot,
  DataError,
  dataSnapshots,
  DataVolume,
  newestUnder,
  restoreSnapshot,
  takeSnapshot,
} from "./dataSnapshot";
import { Deps } from "./gate";
import { GuestInputs, Props } from "./inputs";
import { definedMachine } from "./machine";
import { LastGood } from "./memory";

/** File name of an overlay, as the planner makes it: it has the digest of its image. */
const OVERLAY = /-([0-9a-f]{12})-[0-9A-Za-z]{1,32}\.qcow2$/;

/** The first digits of the digest of the image that an overlay is of, by the overlay's path. */
export const imageOfOverlay = (bootPath: string | undefined): string | undefined => OVERLAY.exec(bootPath ?? "")?.[1];

/** Data that another image is about to get at. */
export interface DataAtRisk extends DataVolume {
  readonly keep: number;
}

/**
 * Asked before the VM is stopped: what has to be kept when it gets the image that is wanted, after a look whether that is possible.
 * Undefined for a VM that has nothing, or stays on its image.
 */
export async function dataAtRisk(
  want: GuestInputs,
  lastGood: LastGood | undefined,
  deps: Deps,
): Promise<DataAtRisk | undefined> {
  const { uuid, persistPath, imageDigest, snapshots: keep = 0 } = want;
  if (keep === 0 || persistPath === undefined) return undefined;
  const { bootPath } = await definedMachine(uuid, deps);
  // A domain that was made anew has no boot disk yet.
  const fromDigest = imageOfOverlay(bootPath) ?? lastGood?.imageDigest;
  if (fromDigest === undefined || fromDigest === imageDigest) return undefined;
  await checkSnapshot(persistPath, deps);
  return { uuid, persistPath, fromDigest, keep };
}

/** Keeps the data of a VM that was just stopped. Where that fails the VM goes on as it was: nothing of it has changed yet. */
export async function keepData(data: DataAtRisk, wasRunning: boolean, deps: Deps): Promise<void> {
  try {
    deps.progress("a snapshot of its data is taken");
    const name = await takeSnapshot(data, deps);
    deps.info(`its data as image ${data.fromDigest} left it is in the snapshot ${name}`);
  } catch (error) {
    if (error instanceof Cancelled) throw error;
    const started = wasRunning && (await restarted(data.uuid, deps));
    const then = started
      ? "is started again on its former image"
      : `stays off${wasRunning ? ", and does not start" : ""}`;
    throw new DataError(`no snapshot of its data can be taken, so it ${then}: ${(error as Error).message}`);
  }
}

async function restarted(uuid: string, { libvirt, signal }: Deps): Promise<boolean> {
  try {
    await orCancelled(libvirt.start(uuid), signal);
    return true;
  } catch (error) {
    if (error instanceof Cancelled) throw error;
    return false;
  }
}

/** Puts back the data that a VM had when it left the image to which it goes back. Says what became of it, for people. */
export async function bringDataBack(want: GuestInputs, to: LastGood, deps: Deps): Promise<string> {
  const { uuid, persistPath, imageDigest } = want;
  if (want.restoreData !== true || persistPath === undefined) return "";
  const name = await newestUnder(to.imageDigest, persistPath, deps);
  if (name === undefined) {
    deps.warn(`there is no snapshot of its data under image ${to.imageDigest}: the data stays as it is`);
    return "";
  }
  deps.progress(`its data goes back to the snapshot ${name}`);
  const kept = await restoreSnapshot({ uuid, persistPath, fromDigest: imageDigest, name }, deps);
  return ` with its data of the snapshot ${name} (what was written since is in ${kept})`;
}

/** What the outputs of a Guest say of its snapshots. Not worth a failure. */
export async function knownSnapshots({ snapshots, persistPath }: GuestInputs, deps: Deps): Promise<Props> {
  if (!snapshots || persistPath === undefined) return {};
  try {
    return { dataSnapshots: await dataSnapshots(persistPath, deps) };
  } catch (error) {
    if (error instanceof Cancelled) throw error;
    return {};
  }
}
