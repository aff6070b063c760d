import { createHash } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { DOMParser, onErrorStopParsing } from "@xmldom/xmldom";
import { type Clock, systemClock } from "../provider/clock";
import { withFolder } from "../provider/folder";
import { run as realRun, type Run } from "../provider/run";
import { callVirsh, isMissingVolume, LibvirtError, type Virsh } from "../provider/virsh";

/** Another verb has the folder open for less than a second; what is there longer was left by a killed one. */
const patienceMs = 5000;

/**
 * Path of the UEFI variable store of a domain; undefined for one without. The definition of a domain whose firmware libvirt chooses says
 * nothing of it before it runs: then libvirt is asked what it would start.
 */
export async function nvramPath(xml: string, libvirt: Pick<Virsh, "commandLine">): Promise<string | undefined> {
  const document = new DOMParser({ onError: onErrorStopParsing }).parseFromString(xml, "text/xml");
  const named = document.getElementsByTagName("nvram")[0]?.textContent?.trim();
  if (named) return named;
  const chosen = [...document.getElementsByTagName("os")].some((os) => os.getAttribute("firmware") === "efi");
  return chosen ? nvramOf(await libvirt.commandLine(xml)) : undefined;
}

/** The second flash chip of a command line, which is the one that is written to. */
export function nvramOf(commandLine: string): string | undefined {
  const path = /"filename":("(?:[^"\\]|\\.)*"),"node-name":"libvirt-pflash1-storage"/.exec(commandLine)?.[1];
  return path === undefined ? undefined : (JSON.parse(path) as string);
}

/**
 * UEFI variable stores. libvirt keeps them outside of all pools, on a host that may be another one, as files of root. So their folder
 * is made a pool for as long as a look takes: then libvirt itself reads and writes them. The pool is gone afterwards, its files are not.
 */
export class Nvram {
  private readonly never = new AbortController().signal;

  constructor(
    private readonly uri: string,
    private readonly run: Run = realRun,
    private readonly clock: Clock = systemClock,
  ) {}

  /** Undefined when there is none, as before the first start of a VM. */
  read(path: string): Promise<Buffer | undefined> {
    return this.opened(path, (there) =>
      there
        ? withFolder(async (folder) => {
            const file = join(folder, "variables");
            await this.call("vol-download", path, file);
            return readFile(file);
          })
        : Promise.resolve(undefined),
    );
  }

  /** Of a VM that is off. */
  async write(path: string, content: Buffer): Promise<void> {
    await this.opened(path, async (there, pool) => {
      if (!there) {
        const size = ["--capacity", String(content.length), "--format", "raw"];
        await this.call("vol-create-as", "--pool", pool, "--name", path.slice(dirname(path).length + 1), ...size);
      }
      await withFolder(async (folder) => {
        const file = join(folder, "variables");
        await writeFile(file, content, { mode: 0o600 });
        await this.call("vol-upload", path, file);
      });
    });
  }

  private async opened<T>(path: string, use: (there: boolean, pool: string) => Promise<T>): Promise<T> {
    const folder = dirname(path);
    const name = `nixvm-nvram-${createHash("sha256").update(folder).digest("hex").slice(0, 12)}`;
    const begun = this.clock.now();
    for (;;) {
      const pool = await this.poolOf(path);
      if (pool !== undefined && pool !== name) return use(true, pool);
      try {
        await this.create(name, folder);
        break;
      } catch (error) {
        if (!(error instanceof LibvirtError) || error.kind !== "failed") throw error;
        if (/cannot open|No such file/.test(error.message)) return use(false, "");
        if (!/already|conflict/.test(error.message)) throw error;
        const other = /conflict with pool: '(.*)'/.exec(error.message)?.[1];
        if (other !== undefined && other !== name) {
          // Somebody has a pool there, which has not looked at its folder for a while.
          await this.call("pool-refresh", other);
          return use((await this.poolOf(path)) !== undefined, other);
        }
        if (this.clock.now() - begun > patienceMs) break;
        await this.clock.sleep(200, this.never);
      }
    }
    try {
      return await use((await this.poolOf(path)) !== undefined, name);
    } finally {
      // Should this fail the next verb takes it over.
      await this.call("pool-destroy", name).catch(() => undefined);
    }
  }

  private create(name: string, folder: string): Promise<string> {
    const escaped = folder.replace(/&/g, "&amp;").replace(/</g, "&lt;");
    return withFolder(async (temporary) => {
      const file = join(temporary, "pool.xml");
      await writeFile(file, `<pool type="dir"><name>${name}</name><target><path>${escaped}</path></target></pool>`);
      return this.call("pool-create", file);
    });
  }

  private async poolOf(path: string): Promise<string | undefined> {
    try {
      return (await this.call("vol-pool", path)).trim();
    } catch (error) {
      if (error instanceof LibvirtError && isMissingVolume(error)) return undefined;
      throw error;
    }
  }

  private call(...args: string[]): Promise<string> {
    return callVirsh(this.run, this.uri, args);
  }
}
