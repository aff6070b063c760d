/**
 * libvirt's test driver plays a host in memory: domains start and stop, volumes are entries in a list. It has no guest agent and
 * takes no uploads.
 */
export function isTestDriver(uri: string): boolean {
  return /^test[:+]/.test(uri);
}

/** A test driver without a daemon is a world of its own in each process: nothing that was made there can be found again. */
export function isOwnWorld(uri: string): boolean {
  return uri.startsWith("test:");
}
