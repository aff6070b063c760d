import * as fs from "node:fs";
import * as path from "node:path";
import { DOMParser, type Element, onErrorStopParsing } from "@xmldom/xmldom";
import { Cancelled } from "../provider/clock";
import { LibvirtError, type Virsh } from "../provider/virsh";
import type { Journal } from "./backupJournal";
import { CliError, wrongState } from "./errors";

/**
 * A copy of a running VM's volume as it was at one moment. libvirt makes it (QEMU's push backup): nothing but the moment itself is felt
 * by the guest, and once it is made nothing in the domain is ours. Reading through QEMU's NBD server instead needs no copy, but was
 * four times slower, and a backup that is broken off could not be gone on with, as its moment would be gone.
 */

const OURS = ".nixvm-backup-";

/** Name of the copy of a volume, beside it. */
export const copyPath = (volume: string, at: Date): string =>
  `${volume}${OURS}${at.toISOString().replace(/[-:]|\.\d+/g, "")}`;

/** Copies of a volume that a run before has left. */
export function copiesOf(volume: string): string[] {
  const folder = path.dirname(volume);
  const begin = `${path.basename(volume)}${OURS}`;
  if (!fs.existsSync(folder)) return [];
  const names = fs
    .readdirSync(folder)
    .filter((name) => name.startsWith(begin) && /^\d{8}T\d{6}Z$/.test(name.slice(begin.length)));
  return names.map((name) => path.join(folder, name));
}

const disksOf = (xml: string): Element[] =>
  [
    ...new DOMParser({ onError: onErrorStopParsing }).parseFromString(xml, "text/xml").getElementsByTagName("disk"),
  ].filter((disk) => (disk.getAttribute("device") ?? "disk") === "disk");

const attribute = (disk: Element, tag: string, name: string): string =>
  disk.getElementsByTagName(tag)[0]?.getAttribute(name) ?? "";

/** What to copy: of all disks of a domain the one with the data, and nothing else. Undefined when it is none of them. */
export function backupXml(domain: string, volume: string, copy: string): string | undefined {
  const disks = disksOf(domain);
  if (!disks.some((disk) => attribute(disk, "source", "file") === volume)) return undefined;
  const lines = disks.map((disk) => {
    const name = escape(attribute(disk, "target", "dev"));
    if (attribute(disk, "source", "file") !== volume) return `<disk name="${name}" backup="no"/>`;
    return `<disk name="${name}" backup="yes" type="file"><target file="${escape(copy)}"/><driver type="qcow2"/></disk>`;
  });
  return `<domainbackup mode="push"><disks>${lines.join("")}</disks></domainbackup>`;
}

/** File of a domain's UEFI variables; undefined when there is none that can be seen. */
export function firmwareOf(domain: string, uri: string): string | undefined {
  const document = new DOMParser({ onError: onErrorStopParsing }).parseFromString(domain, "text/xml");
  const file = document.getElementsByTagName("nvram")[0]?.textContent?.trim();
  if (!file) return undefined;
  return [`${viewOf(uri)}${file}`, file].find((one) => fs.existsSync(one));
}

/** A private libvirtd sees folders of its own where others see the system's (decision 0007): what is before a path of that view. */
function viewOf(uri: string): string {
  const socket = /[?&]socket=([^&]+)/.exec(uri)?.[1];
  if (socket === undefined) return "";
  try {
    const pid = fs.readFileSync(path.join(path.dirname(decodeURIComponent(socket)), "libvirtd.pid"), "utf8").trim();
    return /^\d+$/.test(pid) ? `/proc/${pid}/root` : "";
  } catch {
    // It is somebody else's, who has no other view of the machine than we.
    return "";
  }
}

const escape = (text: string): string =>
  text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c] ?? "&quot;");

/** A VM whose domain is worked on. */
export interface Subject {
  name: string;
  uuid: string;
  /** Path of its persistent volume. */
  volume: string;
  virsh: Virsh;
  journal: Journal;
  note: (line: string) => void;
}

/** Puts right what a run that was killed has left in the domain: a guest that is held, a job, copies. */
export async function recover(subject: Subject, keep?: string): Promise<void> {
  const { virsh, uuid, journal, volume, name, note } = subject;
  const { still } = journal.before;
  const running = await virsh.backupXml(uuid).catch((error: unknown) => {
    // No domain, no job.
    if (error instanceof LibvirtError && error.kind === "failed") return undefined;
    throw error;
  });
  if (running !== undefined) {
    const ours = disksOf(`<all>${running.replace(/^<\?xml.*?\?>/, "")}</all>`).some((disk) =>
      attribute(disk, "target", "file").startsWith(`${volume}${OURS}`),
    );
    if (!ours) throw wrongState(`${name}: a backup that is none of nixvm's is running in its domain`);
    note(`${name}: the job of a backup that was killed is ended`);
    await endJob(virsh, uuid);
  }
  if (still !== undefined) {
    note(`${name}: was left ${still === "agent" ? "frozen" : "paused"} by a backup that was killed, and goes on`);
    await release(subject, still);
  }
  for (const copy of copiesOf(volume).filter((one) => one !== keep)) fs.rmSync(copy, { force: true });
}

/** Holds the guest still for as long as `use` takes, whatever becomes of it. */
export async function heldStill<T>(
  subject: Subject,
  use: () => Promise<T>,
): Promise<{ how: "agent" | "paused"; result: T }> {
  const { virsh, uuid, journal } = subject;
  if ((await virsh.state(uuid)).state === "paused") return { how: "paused", result: await use() };
  let how: "agent" | "paused" = "paused";
  if (await answers(virsh, uuid)) {
    journal.set({ still: "agent" });
    try {
      await virsh.freeze(uuid);
      how = "agent";
    } catch (error) {
      if (!(error instanceof LibvirtError)) throw error;
      // It may have been frozen after all, only too late.
      await release(subject, "agent");
      subject.note(`${subject.name}: is paused for a moment, as its agent cannot freeze it: ${error.message}`);
    }
  }
  try {
    if (how === "paused") {
      journal.set({ still: "paused" });
      await virsh.suspend(uuid);
    }
    return { how, result: await use() };
  } finally {
    await release(subject, how);
  }
}

async function answers(virsh: Virsh, uuid: string): Promise<boolean> {
  try {
    await virsh.agent(uuid, { execute: "guest-ping" });
    return true;
  } catch (error) {
    if (error instanceof LibvirtError && error.kind === "agent") return false;
    throw error;
  }
}

/** A guest must not stay held: this is tried until nothing more can be done. */
async function release({ virsh, uuid, journal, name }: Subject, how: "agent" | "paused"): Promise<void> {
  for (let left = 5; ; left--) {
    try {
      const { state } = await virsh.state(uuid);
      // A guest that is off, or anew, is not held.
      if (how === "paused" && state === "paused") await virsh.resume(uuid);
      if (how === "agent" && state === "running") await virsh.thaw(uuid);
      return journal.set({ still: undefined });
    } catch (error) {
      if (!(error instanceof LibvirtError)) throw error;
      if (left === 0) {
        const command = how === "agent" ? "domfsthaw" : "resume";
        throw new CliError(
          `${name} is still ${how === "agent" ? "frozen" : "paused"} ("virsh ${command}"): ${error.message}`,
        );
      }
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

/**
 * Copies the volume of a domain that is on. `meanwhile` is what else belongs to the same moment. Nothing of it is left when it fails
 * or is broken off.
 */
export async function copyRunning(
  subject: Subject,
  copy: string,
  meanwhile: () => void,
  watch: { signal: AbortSignal; progress: (processed: number, total: number) => void },
): Promise<"agent" | "paused"> {
  const { virsh, uuid, volume, name } = subject;
  const xml = backupXml(await virsh.xml(uuid), volume, copy);
  if (xml === undefined) throw wrongState(`${name}: its domain has no disk ${volume}; "pulumi up" puts that right`);
  subject.journal.set({ copy });
  let ended = false;
  try {
    const { how } = await heldStill(subject, async () => {
      await virsh.backupBegin(uuid, xml);
      meanwhile();
    });
    for (;;) {
      if (watch.signal.aborted) throw new Cancelled();
      const { type, processedBytes, totalBytes } = await virsh.job(uuid, "now");
      if (type === "None") break;
      watch.progress(processedBytes, totalBytes);
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    ended = true;
    const { type } = await virsh.job(uuid, "completed");
    if (type !== "Completed") throw new CliError(`${name}: libvirt did not finish the copy of its volume (${type})`);
    return how;
  } catch (error) {
    // What stands in the way of cleaning up is worth less than what went wrong.
    if (!ended) await endJob(virsh, uuid).catch(() => undefined);
    fs.rmSync(copy, { force: true });
    subject.journal.set({ copy: undefined });
    throw error;
  }
}

/** Ends the job of ours, if there is one, and waits until it is over. */
async function endJob(virsh: Virsh, uuid: string): Promise<void> {
  if ((await virsh.backupXml(uuid)) === undefined) return;
  await virsh.abortJob(uuid).catch(() => undefined);
  for (let left = 100; left > 0 && (await virsh.backupXml(uuid)) !== undefined; left--) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
