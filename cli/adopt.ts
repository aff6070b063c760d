import { createReadStream } from "node:fs";
import { open, rm, stat } from "node:fs/promises";
import * as path from "node:path";
import type { HostPlan, VmPlan } from "../components/plan";
import { callVirsh, LibvirtError, type Virsh } from "../provider/virsh";
import type { Run } from "../provider/run";
import { VirshVolumes } from "../provider/volumes";
import { CliError, wrongState } from "./errors";
import { unlimited } from "./hostTool";
import { roughSize } from "./output";

/** The pool of a host, as far as a volume is to be put into it. */
export class PoolOf {
  private readonly run: Run;
  private readonly volumes: VirshVolumes;

  constructor(
    private readonly host: HostPlan,
    signal: AbortSignal,
    private readonly runOf: (signal: AbortSignal) => Run = unlimited,
  ) {
    this.run = runOf(signal);
    this.volumes = new VirshVolumes(host.uri, this.run);
  }

  /** Free bytes; undefined when there is no such pool. */
  async free(): Promise<number | undefined> {
    const { name, path: folder } = this.host.pool;
    let info: string;
    try {
      info = await this.virsh("pool-info", name, "--bytes");
    } catch (error) {
      if (error instanceof LibvirtError && /pool not found/i.test(error.message)) return undefined;
      throw error;
    }
    if (!/^State:\s*running$/m.test(info)) {
      throw wrongState(`the pool ${name} of ${this.host.uri} is not active: start it with "virsh pool-start ${name}"`);
    }
    const xml = await this.virsh("pool-dumpxml", name);
    const at = /<path>([^<]*)<\/path>/.exec(xml)?.[1];
    if (at !== undefined && path.resolve(unescaped(at)) !== path.resolve(folder)) {
      throw wrongState(`the pool ${name} of ${this.host.uri} is in ${at}, not in ${folder}: it is not the stack's`);
    }
    return Number(/^Available:\s*(\d+)/m.exec(info)?.[1] ?? 0);
  }

  async has(volume: string): Promise<boolean> {
    await this.volumes.refresh(this.host.pool.name);
    return (await this.volumes.bytes(this.host.pool.name, volume)) !== undefined;
  }

  /**
   * Puts a qcow2 file into a new volume. What is there under that name is never written to, and a volume that did not become whole is
   * removed again.
   */
  async place(volume: string, file: string, diskBytes: number): Promise<void> {
    const pool = this.host.pool.name;
    // Not to be broken off: nobody could tell then whether it was made. What is taken is an error, and stays.
    await this.toEnd().create(pool, volume);
    try {
      await this.volumes.upload(pool, volume, file);
      // What was made as an empty raw file is known for what it is only then.
      await this.volumes.refresh(pool);
      const bytes = await this.volumes.bytes(pool, volume);
      if (bytes !== diskBytes)
        throw new CliError(`the volume ${volume} has ${bytes} bytes after its upload, not ${diskBytes}`);
    } catch (error) {
      await this.remove(volume);
      throw error;
    }
  }

  /** Also after Ctrl-C, which has ended all other calls. */
  async remove(volume: string): Promise<void> {
    await this.toEnd().remove(this.host.pool.name, volume);
  }

  private toEnd(): VirshVolumes {
    return new VirshVolumes(this.host.uri, this.runOf(new AbortController().signal));
  }

  /** Whether a volume holds the beginning of a file and nothing else: all of it that was uploaded before the upload was broken off. */
  async isBeginningOf(volume: string, file: string): Promise<boolean> {
    const local = await stat(file).catch(() => undefined);
    if (!local?.isFile()) return false;
    const read = `${file}.there`;
    try {
      // One byte more, to see what is longer.
      await this.volumes.head(this.host.pool.name, volume, read, local.size + 1);
      return (await stat(read)).size <= local.size && (await sameBeginning(read, file));
    } finally {
      await rm(read, { force: true });
    }
  }

  private virsh(...args: string[]): Promise<string> {
    return callVirsh(this.run, this.host.uri, args);
  }
}

const unescaped = (xml: string): string =>
  xml
    .replaceAll("&lt;", "<")
    .replaceAll("&gt;", ">")
    .replaceAll("&apos;", "'")
    .replaceAll("&quot;", '"')
    .replaceAll("&amp;", "&");

async function sameBeginning(short: string, long: string): Promise<boolean> {
  const other = await open(long);
  try {
    let at = 0;
    for await (const part of createReadStream(short, { highWaterMark: 2 ** 20 }) as AsyncIterable<Buffer>) {
      const expected = Buffer.alloc(part.length);
      const { bytesRead } = await other.read(expected, 0, part.length, at);
      if (bytesRead !== part.length || !expected.equals(part)) return false;
      at += part.length;
    }
    return true;
  } finally {
    await other.close();
  }
}

/** @throws CliError when there is too little room for two copies in `work`, or one in the pool. */
export function mustHaveRoom(
  needed: number,
  work: { folder: string; free: number },
  pool: { name: string; free?: number },
): void {
  const lacks = (where: string, free: number, wanted: number): CliError =>
    wrongState(
      `${where} has too little space: ${roughSize(free)} are free, ${roughSize(wanted)} are needed for the copy`,
    );
  // The copy that is worked on, and the qcow2 file made of it.
  if (work.free < 2 * needed) throw lacks(work.folder, work.free, 2 * needed);
  if (pool.free !== undefined && pool.free < needed) throw lacks(`the pool ${pool.name}`, pool.free, needed);
}

/** @throws CliError when a domain of the host has the name, UUID or MAC address that the VM is to have: libvirt would refuse it half-way. */
export async function mustBeFree(libvirt: Virsh, vm: VmPlan, uri: string): Promise<void> {
  const { uuid, mac } = vm.identity;
  const domains = await libvirt.domains();
  for (const domain of domains) {
    const same =
      domain.uuid === uuid
        ? `UUID ${uuid}`
        : domain.name === vm.domainName
          ? `name ${vm.domainName}`
          : mac !== null && (await macsOf(libvirt, domain.uuid)).includes(mac)
            ? `MAC address ${mac}`
            : undefined;
    if (same === undefined) continue;
    const { state } = await libvirt.state(domain.uuid);
    const off = state === "shut off" ? "" : `shut it down cleanly (virsh -c ${uri} shutdown ${domain.name}), then `;
    throw wrongState(
      `the domain ${domain.name} on ${uri} has the ${same}: ${off}undefine it with ` +
        `"virsh -c ${uri} undefine --nvram ${domain.name}", which keeps its disks` +
        (same.startsWith("name") ? "" : "; or import with --new-identity, as a VM of its own"),
    );
  }
}

/** MAC addresses of a domain, by its definition: what it has while it runs comes from there. */
export async function macsOf(libvirt: Virsh, uuid: string): Promise<string[]> {
  try {
    const xml = await libvirt.definition(uuid);
    return [...xml.matchAll(/(?:<mac address|[,;]mac)=['"]?([0-9a-f:]{17})/gi)].map((match) => match[1]!.toLowerCase());
  } catch (error) {
    // It was undefined in the meantime.
    if (error instanceof LibvirtError && error.kind === "failed") return [];
    throw error;
  }
}
