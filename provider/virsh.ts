import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { withFolder } from "./folder";
import {
  DomainRef,
  DomainState,
  JobState,
  parseBalloon,
  parseBytes,
  parseCapacity,
  parseDomains,
  parseError,
  parseJob,
  parseState,
  parseVolumes,
} from "./parse";
import { Run, run as realRun } from "./run";
import { isTestDriver } from "./testDriver";

/**
 * Why a call failed: `unreachable` (no libvirt behind the URI), `missing` (no virsh), `timeout` (libvirt did not answer
 * in time), `agent` (the guest agent did not do it), `failed` (libvirt refused).
 */
export type LibvirtErrorKind = "unreachable" | "missing" | "timeout" | "agent" | "failed";

export class LibvirtError extends Error {
  constructor(
    readonly kind: LibvirtErrorKind,
    message: string,
  ) {
    super(message);
    this.name = "LibvirtError";
  }
}

/**
 * All that a Guest wants from libvirt. Domains are named by UUID only: a domain that merely carries our name can
 * then never be stopped by mistake.
 */
export interface Libvirt {
  /** Every domain, running or not. */
  domains(): Promise<DomainRef[]>;
  state(uuid: string): Promise<DomainState>;
  start(uuid: string): Promise<void>;
  resume(uuid: string): Promise<void>;
  /** Asks the guest to power off; returns once asked. */
  shutdown(uuid: string, mode: "agent" | "acpi"): Promise<void>;
  /** Pulls the plug. */
  destroy(uuid: string): Promise<void>;
  /** Sends one command to the guest agent and gives its `return` value. */
  agent(uuid: string, command: AgentCommand): Promise<unknown>;
  /** Size of a disk of the domain as the guest sees it, in bytes. */
  diskBytes(uuid: string, path: string): Promise<number>;
  /** Live growth of a disk of a running domain. */
  blockResize(uuid: string, path: string, bytes: number): Promise<void>;
  /** Growth of a volume that no running domain uses. */
  volumeResize(path: string, bytes: number): Promise<void>;
  /** Puts the file that is now at `path` into the CD-ROM drive of a running domain. */
  changeMedium(uuid: string, path: string): Promise<void>;
  ejectMedium(uuid: string): Promise<void>;
  xml(uuid: string): Promise<string>;
  /** The definition that the next start goes by. */
  definition(uuid: string): Promise<string>;
  /** Replaces the definition that the next start goes by. */
  define(xml: string): Promise<void>;
  /** Whether there is a volume at a path. */
  hasVolume(path: string): Promise<boolean>;
  /** Whether the host starts the domain when it starts itself. */
  autostart(uuid: string, on: boolean): Promise<void>;
  /** Asks a running guest to make do with, or to take, this much memory. */
  setMemory(uuid: string, mebibytes: number): Promise<void>;
  /** What a running guest has of its memory now, in MiB; undefined when its balloon does not say. */
  memory(uuid: string): Promise<number | undefined>;
  /** Gives a running guest more processors. */
  setVcpus(uuid: string, count: number): Promise<void>;
  /** Changes a device of a running domain, of which the XML says which. */
  updateDevice(uuid: string, xml: string): Promise<void>;
}

/** The drive that holds the seed, as libvirt names it. */
export const SEED_DRIVE = "sda";

/** A guest agent command, as QEMU's protocol has it. */
export interface AgentCommand {
  execute: string;
  arguments?: Record<string, unknown>;
}

/** Seconds libvirt waits for the agent. libvirt, not we, must give up: a dropped client leaves a request pending. */
const agentSeconds = 5;
/** Longer than any healthy call, 143 s being the worst seen when libvirtd probes QEMU anew (design D8). */
const callMs = 180_000;

/** {@link Libvirt} through `virsh`, which knows every transport and keeps its output stable. */
export class Virsh implements Libvirt {
  constructor(
    private readonly uri: string,
    private readonly run: Run = realRun,
  ) {}

  async domains(): Promise<DomainRef[]> {
    return parseDomains(await this.call("list", "--all", "--uuid", "--name"));
  }

  async state(uuid: string): Promise<DomainState> {
    return parseState(await this.call("domstate", uuid, "--reason"));
  }

  async start(uuid: string): Promise<void> {
    await this.call("start", uuid);
  }

  async resume(uuid: string): Promise<void> {
    await this.call("resume", uuid);
  }

  /** Stops the processors of a running guest, which goes on later as if nothing had been. */
  async suspend(uuid: string): Promise<void> {
    await this.call("suspend", uuid);
  }

  /** What `virsh domifaddr` prints of a running domain. `agent` asks the guest, the others know it of its network. */
  addresses(uuid: string, source: "agent" | "lease" | "arp"): Promise<string> {
    return this.call("domifaddr", uuid, "--full", "--source", source);
  }

  /** Sends one command to the monitor of a domain's QEMU and gives its `return` value: for what libvirt has no call for. */
  async monitor(uuid: string, command: AgentCommand): Promise<unknown> {
    const reply = await this.call("qemu-monitor-command", uuid, JSON.stringify(command));
    const answer = JSON.parse(reply) as { return?: unknown; error?: { desc?: string } };
    if (answer.error) throw new LibvirtError("failed", `QEMU ${command.execute}: ${answer.error.desc ?? "failed"}`);
    return answer.return;
  }

  async shutdown(uuid: string, mode: "agent" | "acpi"): Promise<void> {
    // The test driver knows no ways.
    await this.call("shutdown", uuid, ...(isTestDriver(this.uri) ? [] : ["--mode", mode]));
  }

  async destroy(uuid: string): Promise<void> {
    await this.call("destroy", uuid);
  }

  /** `seconds`: how long libvirt waits for the answer, where the guest has more to do than to look something up. */
  async agent(uuid: string, command: AgentCommand, seconds = agentSeconds): Promise<unknown> {
    const text = JSON.stringify(command);
    let reply: string;
    try {
      reply = await this.call("qemu-agent-command", uuid, "--timeout", String(seconds), text);
    } catch (error) {
      if (error instanceof LibvirtError && error.kind === "failed") throw new LibvirtError("agent", error.message);
      throw error;
    }
    try {
      return (JSON.parse(reply) as { return: unknown }).return;
    } catch {
      throw new LibvirtError("agent", `the guest agent's answer to ${command.execute} is not JSON: ${reply.trim()}`);
    }
  }

  async diskBytes(uuid: string, path: string): Promise<number> {
    const bytes = parseCapacity(await this.call("domblkinfo", uuid, path));
    if (bytes === undefined) throw new LibvirtError("failed", `virsh domblkinfo gives no capacity for ${path}`);
    return bytes;
  }

  async blockResize(uuid: string, path: string, bytes: number): Promise<void> {
    await this.call("blockresize", uuid, path, `${bytes}b`);
  }

  async volumeResize(path: string, bytes: number): Promise<void> {
    await this.call("vol-resize", path, `${bytes}b`);
  }

  async ejectMedium(uuid: string): Promise<void> {
    // Forced, because a guest that has it mounted locks the drive.
    try {
      await this.call("change-media", uuid, SEED_DRIVE, "--eject", "--live", "--force");
    } catch (error) {
      // It has been taken out already.
      if (!(error instanceof LibvirtError) || !/doesn't have media/.test(error.message)) throw error;
    }
  }

  async changeMedium(uuid: string, path: string): Promise<void> {
    // Out and in again: for a path that is the same libvirt would keep the old file open.
    await this.ejectMedium(uuid);
    await this.call("change-media", uuid, SEED_DRIVE, path, "--insert", "--live");
  }

  xml(uuid: string): Promise<string> {
    return this.call("dumpxml", uuid);
  }

  definition(uuid: string): Promise<string> {
    return this.call("dumpxml", "--inactive", "--security-info", uuid);
  }

  /** The command line that a domain of this definition would be started with. */
  commandLine(xml: string): Promise<string> {
    return withXml(xml, (file) => this.call("domxml-to-native", "qemu-argv", "--xml", file));
  }

  async define(xml: string): Promise<void> {
    await withXml(xml, (file) => this.call("define", file));
  }

  async hasVolume(path: string): Promise<boolean> {
    try {
      await this.call("vol-info", path);
      return true;
    } catch (error) {
      if (error instanceof LibvirtError && isMissingVolume(error)) return false;
      throw error;
    }
  }

  /** Volumes of a pool. */
  async volumes(pool: string): Promise<{ name: string; path: string }[]> {
    return parseVolumes(await this.call("vol-list", pool));
  }

  /** Sizes of a volume in bytes: as a guest sees it, and as it takes up space. */
  async volumeSizes(path: string): Promise<{ capacity: number; allocation: number }> {
    const text = await this.call("vol-info", "--bytes", path);
    return { capacity: parseBytes(text, "Capacity") ?? 0, allocation: parseBytes(text, "Allocation") ?? 0 };
  }

  volumeXml(path: string): Promise<string> {
    return this.call("vol-dumpxml", path);
  }

  async deleteVolume(path: string): Promise<void> {
    await this.call("vol-delete", path);
  }

  /** Space of a pool in bytes; undefined when it does not run. */
  async poolSpace(pool: string): Promise<{ capacity: number; available: number } | undefined> {
    const text = await this.call("pool-info", "--bytes", pool);
    const available = parseBytes(text, "Available");
    return available === undefined ? undefined : { capacity: parseBytes(text, "Capacity") ?? 0, available };
  }

  /** Size of a volume as a guest sees it, and what it takes of its pool; undefined when there is none. */
  async volume(path: string): Promise<{ diskBytes: number; usedBytes: number } | undefined> {
    try {
      const { capacity, allocation } = await this.volumeSizes(path);
      return { diskBytes: capacity, usedBytes: allocation };
    } catch (error) {
      if (error instanceof LibvirtError && isMissingVolume(error)) return undefined;
      throw error;
    }
  }

  async autostart(uuid: string, on: boolean): Promise<void> {
    await this.call("autostart", uuid, ...(on ? [] : ["--disable"]));
  }

  async setMemory(uuid: string, mebibytes: number): Promise<void> {
    await this.call("setmem", uuid, `${mebibytes}MiB`, "--live");
  }

  async memory(uuid: string): Promise<number | undefined> {
    return parseBalloon(await this.call("dommemstat", uuid));
  }

  async setVcpus(uuid: string, count: number): Promise<void> {
    await this.call("setvcpus", uuid, String(count), "--live");
  }

  async updateDevice(uuid: string, xml: string): Promise<void> {
    await withXml(xml, (file) => this.call("update-device", uuid, file, "--live"));
  }

  /** Has the guest write everything to its disks and hold back what comes after it, until {@link thaw}. */
  async freeze(uuid: string): Promise<void> {
    await this.call("domfsfreeze", uuid);
  }

  /** A guest that is not frozen is a success. */
  async thaw(uuid: string): Promise<void> {
    await this.call("domfsthaw", uuid);
  }

  /** Begins to copy disks as they are at this moment; returns at once. */
  async backupBegin(uuid: string, xml: string): Promise<void> {
    await withXml(xml, (file) => this.call("backup-begin", uuid, file));
  }

  /** What the backup that runs copies, and where to; undefined when none runs. */
  async backupXml(uuid: string): Promise<string | undefined> {
    try {
      return await this.call("backup-dumpxml", uuid);
    } catch (error) {
      if (error instanceof LibvirtError && /no domain backup job|domain is not running/.test(error.message))
        return undefined;
      throw error;
    }
  }

  /** The job that runs in a domain, or, once, the one that ended last. */
  async job(uuid: string, which: "now" | "completed"): Promise<JobState> {
    return parseJob(await this.call("domjobinfo", uuid, ...(which === "now" ? [] : ["--completed"])));
  }

  async abortJob(uuid: string): Promise<void> {
    await this.call("domjobabort", uuid);
  }

  /** Has libvirt look again at the folder that a volume is in. */
  async refreshPoolOf(path: string): Promise<void> {
    await this.call("pool-refresh", (await this.call("vol-pool", path)).trim());
  }

  private call(...args: string[]): Promise<string> {
    return callVirsh(this.run, this.uri, args);
  }
}

/** A document in a file that nobody else can read, for as long as `use` takes. */
export function withXml<Result>(xml: string, use: (file: string) => Promise<Result>): Promise<Result> {
  return withFolder(async (folder) => {
    const file = join(folder, "libvirt.xml");
    await writeFile(file, xml, { mode: 0o600 });
    return use(file);
  });
}

/** libvirt's word for a volume that is not there, also for one that was removed behind its back: it looks for the file. */
export function isMissingVolume(error: LibvirtError): boolean {
  return /Storage (volume|pool) not found/.test(error.message);
}

/** What virsh prints; rejects with a {@link LibvirtError}. `limitMs`: for calls that move data, which take as long as they take. */
export async function callVirsh(run: Run, uri: string, args: readonly string[], limitMs = callMs): Promise<string> {
  const result = await run("virsh", ["-q", "-c", uri, ...args], limitMs);
  if (result.code === 0) return result.stdout;
  throw virshError(uri, args[0] ?? "", result.failure, result.stderr, limitMs);
}

/** One line that says what failed where; shared with the preflight so that both speak alike. */
export function virshError(
  uri: string,
  verb: string,
  failure: string | undefined,
  stderr: string,
  limitMs = callMs,
): LibvirtError {
  const text = parseError(stderr);
  if (failure === "missing") {
    return new LibvirtError("missing", "virsh is not on PATH; install the package libvirt-clients");
  }
  if (failure === "timeout") {
    return new LibvirtError("timeout", `libvirt at ${uri} did not answer "virsh ${verb}" in ${limitMs / 1000} s`);
  }
  if (
    /failed to connect to the hypervisor|cannot connect|connection (refused|reset)|client socket is closed/i.test(text)
  ) {
    const cause = text.replace(/^failed to connect to the hypervisor:?\s*/, "");
    return new LibvirtError("unreachable", `libvirt at ${uri} does not answer: ${cause || text}`);
  }
  return new LibvirtError("failed", `virsh ${verb}: ${text || "failed without a message"}`);
}
