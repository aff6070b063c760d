import { look, Look } from "./agent";
import { Backoff, orCancelled } from "./clock";
import { Deps, GuestFailure, restartUnits } from "./gate";
import { GuestInputs, shrinkMessage } from "./inputs";
import { formatBytes } from "./parse";

/** Bytes that a file system may leave unused at the end of its disk: rounding, and what is no growth worth a resize. */
const slackBytes = 8 * 2 ** 20;
/** A guest may report space for files instead of blocks: above this share of the wanted size it has followed as well. */
const followed = 0.9;

/**
 * Makes the persistent disk as large as wanted, live when the guest runs. True when it grew. Never shrinks: a disk that
 * is larger than wanted is an error, since a smaller one would cut data off.
 */
export async function growDisk(want: GuestInputs, running: boolean, deps: Deps): Promise<boolean> {
  const { persistPath: path, persistBytes: bytes, uuid } = want;
  if (path === undefined || bytes === undefined) return false;
  const { libvirt, signal } = deps;
  const actual = await orCancelled(libvirt.diskBytes(uuid, path), signal);
  if (actual === bytes) return false;
  if (actual > bytes) throw new GuestFailure(shrinkMessage(actual, bytes));
  deps.progress(`persist grows from ${formatBytes(actual)} to ${formatBytes(bytes)}`);
  const growth = running ? libvirt.blockResize(uuid, path, bytes) : libvirt.volumeResize(path, bytes);
  await orCancelled(growth.catch(explained(path)), signal);
  return true;
}

/** Volumes made before nixvm knew snapshots are of qcow2 version 2. */
function explained(path: string) {
  return (error: Error): never => {
    if (!/v2 image which has snapshots/.test(error.message)) throw error;
    const advice = `with the VM off: qemu-img amend -f qcow2 -o compat=1.1 '${path}'`;
    throw new GuestFailure(`persist.size: ${path} cannot grow: it has snapshots, and is of qcow2 version 2; ${advice}`);
  };
}

/** Lets the file system in a healthy guest follow its disk, and waits until the guest says that it did. */
export async function growFileSystem(want: GuestInputs, seen: Look, grew: boolean, deps: Deps): Promise<Look> {
  const bytes = want.persistBytes;
  if (want.contract === "none") {
    if (grew) deps.info("persist is larger now; the image has no nixvm contract, so grow its file system in the guest");
    return seen;
  }
  const persist = seen.status?.persist;
  if (bytes === undefined || persist === undefined || !["mounted", "formatted"].includes(persist.state)) return seen;
  // An earlier run may have grown the disk and been broken off before the file system.
  if (!grew && persist.sizeBytes >= bytes - slackBytes) return seen;
  deps.progress("file system grows");
  await restartUnits("nixvm-grow nixvm-status", "the file system on persist could not be grown", want.uuid, deps, seen);

  const backoff = new Backoff(deps.clock, deps.signal);
  const begun = deps.clock.now();
  for (;;) {
    const now = await look(deps.libvirt, want.uuid, deps.clock, deps.signal);
    const size = now.status?.persist?.sizeBytes ?? 0;
    // The disk may have grown while the guest booted: then its file system had followed before it was asked.
    if (size > persist.sizeBytes || size >= bytes * followed) return now;
    if (deps.clock.now() - begun > 30_000) {
      throw new GuestFailure(
        `persist has ${formatBytes(bytes)}, but its file system stays at ${formatBytes(size)}`,
        now,
      );
    }
    await backoff.pause();
  }
}
