import { basename } from "node:path";
import { orCancelled } from "./clock";
import { Deps } from "./gate";
import { bootDiskOf, withBootDisk } from "./domainXml";

/** File name of an overlay, as the planner makes it: what it is of, the image's digest, and what tells two of them apart. */
const OVERLAY = /^(?<of>.+)-(?<digest>[0-9a-f]{12})-[0-9A-Za-z]{1,32}\.qcow2$/;

/** An overlay of a VM, by its path. */
export interface Overlay {
  readonly path: string;
  /** What all overlays of the VM are called after. */
  readonly of: string;
  /** First 12 hex digits of the digest of its image. */
  readonly digest: string;
}

function parse(path: string): Overlay | undefined {
  const { of, digest } = OVERLAY.exec(basename(path))?.groups ?? {};
  return of === undefined || digest === undefined ? undefined : { path, of, digest };
}

/** The overlay that the domain boots from; undefined when that is no overlay of ours. */
export async function currentOverlay(uuid: string, { libvirt, signal }: Deps): Promise<Overlay | undefined> {
  const path = bootDiskOf(await orCancelled(libvirt.definition(uuid), signal));
  return path === undefined ? undefined : parse(path);
}

/** Overlays of the same VM, the one that was written to last first. */
async function overlaysBeside(current: Overlay, { libvirt, signal }: Deps): Promise<Overlay[]> {
  const beside = await orCancelled(libvirt.volumesBeside(current.path), signal);
  const overlays = beside.map(parse).filter((found) => found?.of === current.of) as Overlay[];
  const dated = await Promise.all(
    overlays.map(async (overlay) => ({
      overlay,
      modified: await orCancelled(libvirt.volumeModified(overlay.path), signal),
    })),
  );
  return dated.sort((a, b) => b.modified - a.modified).map(({ overlay }) => overlay);
}

/**
 * The overlay that a VM ran on before `current`: the one of another image that was written to last. It is still there, as the engine
 * removes former overlays only at the end of an `up` that went well.
 */
export async function formerOverlay(current: Overlay, deps: Deps): Promise<Overlay | undefined> {
  return (await overlaysBeside(current, deps)).find(({ digest }) => digest !== current.digest);
}

/** The newest overlay of an image for the VM of `current`. */
export async function overlayOf(current: Overlay, digest: string, deps: Deps): Promise<Overlay | undefined> {
  return (await overlaysBeside(current, deps)).find((overlay) => overlay.digest === digest);
}

/** Has a domain that is off boot from another overlay. All else of it stays as it is. */
export async function bootFrom(uuid: string, overlay: Overlay, { libvirt, signal }: Deps): Promise<void> {
  const xml = withBootDisk(await orCancelled(libvirt.definition(uuid), signal), overlay.path);
  if (xml === undefined) throw new Error(`the domain ${uuid} has not exactly one disk with the serial boot`);
  await orCancelled(libvirt.define(xml), signal);
}
