import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { withFolder } from "./folder";
import { parseCapacity } from "./parse";
import { Run } from "./run";
import { callVirsh, isMissingVolume, LibvirtError } from "./virsh";

/** All that seeds want of a libvirt. Files are of this machine: virsh streams them, so the host may be another one. */
export interface Volumes {
  /** Bytes in the volume's file as it is now; undefined when there is no such volume or pool. */
  bytes(pool: string, name: string): Promise<number | undefined>;
  path(pool: string, name: string): Promise<string>;
  /** Writes the first bytes of the volume to a file, or all there are. */
  head(pool: string, name: string, file: string, bytes: number): Promise<void>;
  /** Makes an empty volume; a name that is taken is an error. */
  create(pool: string, name: string): Promise<void>;
  upload(pool: string, name: string, file: string): Promise<void>;
  /** Deletes the volume; one that is not there is a success. */
  remove(pool: string, name: string): Promise<void>;
  /** Has libvirt look at the pool's folder again. */
  refresh(pool: string): Promise<void>;
}

/** A pool is asked again this often, and this many times: five minutes are longer than any upload of a seed. */
const BUSY_MS = 250;
const BUSY_TRIES = 1200;

/** {@link Volumes} through `virsh`. */
export class VirshVolumes implements Volumes {
  constructor(
    private readonly uri: string,
    private readonly run: Run,
  ) {}

  async bytes(pool: string, name: string): Promise<number | undefined> {
    const info = await this.unlessMissing(this.call("vol-info", pool, name, "--bytes"));
    if (info === undefined) return undefined;
    const bytes = parseCapacity(info);
    if (bytes === undefined) throw new LibvirtError("failed", `virsh vol-info gives no capacity for ${name}`);
    return bytes;
  }

  async path(pool: string, name: string): Promise<string> {
    return (await this.call("vol-path", pool, name)).trim();
  }

  async head(pool: string, name: string, file: string, bytes: number): Promise<void> {
    await this.call("vol-download", pool, name, "--file", file, "--offset", "0", "--length", String(bytes));
  }

  async create(pool: string, name: string): Promise<void> {
    // The upload makes it longer. One that is broken off then shows by its size, which would be right from the start
    // for a volume of the size of what is to come.
    const args = ["vol-create-as", "--pool", pool, "--name", name, "--capacity", "0", "--format", "raw"];
    await callVirsh(this.run, this.uri, args);
  }

  async upload(pool: string, name: string, file: string): Promise<void> {
    await this.call("vol-upload", pool, name, "--file", file);
  }

  async remove(pool: string, name: string): Promise<void> {
    await this.unlessMissing(this.call("vol-delete", pool, name));
  }

  async refresh(pool: string): Promise<void> {
    // A pool in which another volume is just written refuses, for as long as that takes.
    for (let tries = 1; ; tries++) {
      try {
        return await this.refreshNow(pool);
      } catch (error) {
        const busy = error instanceof LibvirtError && /asynchronous jobs running/.test(error.message);
        if (!busy || tries === BUSY_TRIES) throw error;
        await sleep(BUSY_MS);
      }
    }
  }

  private async refreshNow(pool: string): Promise<void> {
    await callVirsh(this.run, this.uri, ["pool-refresh", pool]);
  }

  /** Name of the pool that the volume at this path is in. */
  async poolOf(path: string): Promise<string> {
    return (await callVirsh(this.run, this.uri, ["vol-pool", path])).trim();
  }

  /** Names of all volumes in a pool, also of files that were put there since the last look. */
  async names(pool: string): Promise<string[]> {
    // A pool in which a volume is being worked on cannot look; what it knows is all that can be had then.
    await this.refreshNow(pool).catch((error: unknown) => {
      if (!(error instanceof LibvirtError) || error.kind !== "failed") throw error;
    });
    const text = await callVirsh(this.run, this.uri, ["vol-list", "--pool", pool]);
    // Name and path; the path ends with the name, whatever spaces are in either.
    return text.split("\n").flatMap((line) => /^\s*(\S.*?)\s+\/(?:.*\/)?\1\s*$/.exec(line)?.[1] ?? []);
  }

  /** All of a small volume. */
  content(pool: string, name: string): Promise<Buffer> {
    return withFolder(async (folder) => {
      const file = join(folder, "content");
      await this.call("vol-download", pool, name, "--file", file);
      return readFile(file);
    });
  }

  /** Makes a volume with this content; a name that is taken is an error. */
  async write(pool: string, name: string, content: Buffer): Promise<void> {
    await withFolder(async (folder) => {
      const file = join(folder, "content");
      await writeFile(file, content, { mode: 0o600 });
      await this.create(pool, name);
      await this.upload(pool, name, file);
    });
  }

  private call(verb: string, pool: string, name: string, ...more: string[]): Promise<string> {
    return callVirsh(this.run, this.uri, [verb, "--pool", pool, "--vol", name, ...more]);
  }

  /** Also covers a file that was removed behind libvirt's back: libvirt looks for it and says the same. */
  private async unlessMissing(answer: Promise<string>): Promise<string | undefined> {
    try {
      return await answer;
    } catch (error) {
      if (error instanceof LibvirtError && isMissingVolume(error)) return undefined;
      throw error;
    }
  }
}

/** True when a volume could not be made because there is one, or a file that libvirt has not seen yet. */
export function isTaken(error: unknown): boolean {
  return error instanceof LibvirtError && /already exists|exists already/.test(error.message);
}
