/**
 * Names of what we make in libvirt. All carry the stack's prefix, so that two stacks share a host without meeting, and
 * everything of one stack is found by one glob.
 */

const PREFIX_PATTERN = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$/;

/** Whether a prefix can begin libvirt names and file names; the limit leaves room for the longest suffix (255 bytes). */
export function isPrefix(prefix: string): boolean {
  return PREFIX_PATTERN.test(prefix);
}

/** `<project>-<stack>`: both are known before any resource is made, and neither changes during a stack's life. */
export function prefixOf(project: string, stack: string): string {
  return `${project}-${stack}`;
}

/** Name of a VM's libvirt domain. */
export function domainName(prefix: string, vm: string): string {
  return `${prefix}-${vm}`;
}

/** Name of a libvirt network made by us. */
export function networkName(prefix: string, network: string): string {
  return `${prefix}-${network}`;
}

/**
 * Volume of a base image; it carries the digest, so that a new image is a new volume next to the old one (D4). The name
 * in the stack file is not part of it: renaming an image must not upload it again and replace every overlay.
 */
export function baseVolumeName(prefix: string, digest: string): string {
  return `${prefix}-base-${digest12(digest)}`;
}

/** File name of that volume. */
export function baseVolumeFile(prefix: string, image: { digest: string; format: "qcow2" | "raw" }): string {
  return `${baseVolumeName(prefix, image.digest)}.${image.format}`;
}

/**
 * Volume of an overlay. The nonce must differ at every creation: after a failed upgrade the pending deletes of the old
 * overlays would otherwise remove files that a return to the old image had just made again (D4).
 */
export function overlayVolumeName(prefix: string, vm: string, digest: string, nonce: string): string {
  if (!/^[A-Za-z0-9]{1,32}$/.test(nonce)) throw new Error("overlay name: the nonce must be 1 to 32 letters and digits");
  return `${prefix}-${vm}-${digest12(digest)}-${nonce}`;
}

/** Volume of the persistent disk. A raised generation is a new name, so that a retained old volume stays as it is (T-50). */
export function persistVolumeName(prefix: string, vm: string, generation = 0): string {
  return generation === 0 ? `${prefix}-${vm}-persist` : `${prefix}-${vm}-persist-g${generation}`;
}

/** Volume of the scratch disk. */
export function scratchVolumeName(prefix: string, vm: string): string {
  return `${prefix}-${vm}-scratch`;
}

/** Volume of the seed medium: one name for the VM's life, so that a changed seed is a swapped medium and no changed domain (D5). */
export function seedVolumeName(prefix: string, vm: string): string {
  return `${prefix}-${vm}-seed.iso`;
}

/** File that a VM's serial console is logged to. */
export function consoleLogPath(consoleDir: string, domain: string): string {
  return `${consoleDir.replace(/\/+$/, "")}/${domain}.log`;
}

/** The first 12 hex digits of a digest: enough to tell images apart, short enough to read. */
export function digest12(digest: string): string {
  const hex = digest.replace(/^sha256:/, "");
  if (!/^[0-9a-f]{12,}$/.test(hex)) throw new Error("name: a digest must be at least 12 lower-case hex digits");
  return hex.slice(0, 12);
}
