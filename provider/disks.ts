import { createHash } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { withFolder } from "./folder";
import { holderXml, snapshotXml } from "./holderXml";
import { Extent } from "./qcow2";
import { Run } from "./run";
import { callVirsh, LibvirtError } from "./virsh";

/** Bytes of a volume and of the pool that it is in. */
export interface Space {
  /** Name of the pool, and where it is. */
  readonly pool: string;
  /** What the volume takes up now, snapshots included. */
  readonly usedBytes: number;
  readonly freeBytes: number;
}

/** What can be done with the snapshots inside a volume that no running domain uses. */
export interface Holder {
  take(name: string): Promise<void>;
  /** Puts the content, and the size, of that time back; what is there now is gone. */
  restore(name: string): Promise<void>;
  remove(name: string): Promise<void>;
}

/** Data volumes, by their paths on the host. */
export interface Disks {
  /** Part of the volume's file as it lies in the pool, less where the file ends. */
  read(path: string, part: Extent): Promise<Buffer>;
  space(path: string): Promise<Space>;
  /** `definition` is the one of the domain that the volume is a disk of. */
  hold<T>(definition: string, path: string, use: (holder: Holder) => Promise<T>): Promise<T>;
}

/**
 * {@link Disks} through `virsh`. libvirt has snapshots of domains, not of volumes, and refuses those inside a qcow2 file for a domain
 * with UEFI. So a domain without firmware, of this disk alone and never started, is defined for as long as it takes (decision 0011).
 */
export class VirshDisks implements Disks {
  constructor(
    private readonly uri: string,
    private readonly run: Run,
  ) {}

  read(path: string, { offset, bytes }: Extent): Promise<Buffer> {
    return withFolder(async (folder) => {
      const file = join(folder, "part");
      await this.call("vol-download", path, file, "--offset", String(offset), "--length", String(bytes));
      return readFile(file);
    });
  }

  async space(path: string): Promise<Space> {
    const pool = (await this.call("vol-pool", path)).trim();
    // libvirt knows what is free from its last look at the pool. One that is at work on a volume there cannot look.
    await this.call("pool-refresh", pool).catch((error: unknown) => {
      if (!(error instanceof LibvirtError) || error.kind !== "failed") throw error;
    });
    const [volume, free] = [
      await this.call("vol-info", path, "--bytes"),
      await this.call("pool-info", pool, "--bytes"),
    ];
    return {
      pool: `${pool} of ${this.uri}`,
      usedBytes: bytesOf("Allocation", volume),
      freeBytes: bytesOf("Available", free),
    };
  }

  async hold<T>(definition: string, path: string, use: (holder: Holder) => Promise<T>): Promise<T> {
    // Of the path alone: what a run that was broken off has left is taken over, and a domain of somebody else is refused.
    const hash = createHash("sha256").update(`nixvm data ${path}`).digest("hex");
    const uuid = hash.replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12}).*$/, "$1-$2-8$3-8$4-$5");
    const domain = holderXml(definition, path, `nixvm-data-${hash.slice(0, 12)}`, uuid);
    await this.withXml(domain, (file) => this.call("define", file));
    // Snapshots that libvirt was not told of are told to it before anything is done with them.
    const known = (name: string) =>
      this.withXml(snapshotXml(name, domain), (file) => this.call("snapshot-create", uuid, file, "--redefine"));
    const undefine = () => this.call("undefine", uuid, "--snapshots-metadata");
    let result: T;
    try {
      result = await use({
        take: async (name) => void (await this.call("snapshot-create-as", uuid, name, "--no-metadata")),
        restore: async (name) => {
          await known(name);
          await this.call("snapshot-revert", uuid, name);
        },
        remove: async (name) => {
          await known(name);
          await this.call("snapshot-delete", uuid, name);
        },
      });
    } catch (error) {
      await undefine().catch(() => undefined);
      throw error;
    }
    await undefine();
    return result;
  }

  private call(...args: string[]): Promise<string> {
    return callVirsh(this.run, this.uri, args);
  }

  private withXml(xml: string, use: (file: string) => Promise<string>): Promise<string> {
    return withFolder(async (folder) => {
      const file = join(folder, "document.xml");
      await writeFile(file, xml, { mode: 0o600 });
      return use(file);
    });
  }
}

function bytesOf(label: string, text: string): number {
  const found = new RegExp(`^\\s*${label}:\\s*(\\d+)`, "m").exec(text)?.[1];
  if (found === undefined) throw new LibvirtError("failed", `virsh gives no ${label.toLowerCase()}: ${text.trim()}`);
  return Number(found);
}
