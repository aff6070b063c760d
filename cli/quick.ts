import { type Run, run } from "../provider/run";
import { LibvirtError, Virsh } from "../provider/virsh";
import { VirshDisks } from "../provider/disks";

/** Longer than libvirt itself waits for a silent agent. Looks are repeated, so one that takes long is given up. */
export const QUICK_SECONDS = 15;

const within =
  (seconds: number): Run =>
  (command, args, timeoutMs) =>
    run(command, args, Math.min(timeoutMs, seconds * 1000));

/** A libvirt that is only looked at: it has to answer soon, or it counts as one that does not. */
export const quickLibvirt = (uri: string, seconds = QUICK_SECONDS): Virsh => new Virsh(uri, within(seconds));

export const quickDisks = (uri: string): VirshDisks => new VirshDisks(uri, within(QUICK_SECONDS));

/** Why a host could not be asked, without its URI and in one line. */
export function causeOf(error: LibvirtError): string {
  if (error.kind === "timeout") return `no answer within ${QUICK_SECONDS} s`;
  return error.message.replace(/^libvirt at \S.* does not answer: /, "").replace(/\s+/g, " ");
}
