import { readFile, truncate } from "node:fs/promises";
import { join } from "node:path";
import { seedDigest } from "../components/plan/seed";
import { ResourceDiff } from "./diff";
import * as inputs from "./inputs";
import type { Failure, Props, SeedInputs } from "./inputs";
import { Found, InitFailed } from "./lifecycle";
import { block, headBytes, isSeed, Medium, withMedium } from "./medium";
import { ResourceType, Target } from "./resources";
import { Run } from "./run";
import { isTestDriver } from "./testDriver";
import { isTaken, Volumes } from "./volumes";

/** What seeds need from the outside; replaced in tests. */
export interface SeedWorld {
  volumes(uri: string): Volumes;
  run: Run;
}

/** Where the medium is; these make it another one. */
const place = ["uri", "pool", "name"] as const;

/** The ISO image of a seed in a volume that has one name for life (docs/decisions/0006). */
export class SeedVolumeType implements ResourceType {
  constructor(private readonly world: SeedWorld) {}

  check(_urn: string, _olds: Props | undefined, news: Props): Failure[] {
    return inputs.checkInputs(inputs.seedInputs, news, inputs.seedSecrets);
  }

  diff(_target: Target, oldInputs: Props, olds: Props, news: Props): ResourceDiff {
    // The libvirt provider's CloudInitDisk, which a SeedVolume takes over, has no URI among its inputs.
    const replaces = place.filter((key) => typeof oldInputs[key] === "string" && oldInputs[key] !== news[key]);
    const updates = inputs.seedSecrets.filter((key) => oldInputs[key] !== news[key]);
    // The digest is of what was really written in full: not there after a failure, a take-over, or a read that found less.
    const whole = updates.length > 0 || olds["digest"] === digestOf(news);
    return { replaces, updates, drift: whole ? [] : ["digest"], reasons: [] };
  }

  async create(_urn: string, news: Props, _timeout: number, preview: boolean): Promise<Created> {
    if (preview) return { id: "", properties: outputs(news, { ...unwritten(news), volumeId: inputs.UNKNOWN }) };
    const properties = await this.write(decode(news));
    return { id: String(properties["volumeId"]), properties };
  }

  async update({ id }: Target, olds: Props, news: Props, _timeout: number, preview: boolean): Promise<Props> {
    if (preview) return outputs(news, { ...unwritten(news), volumeId: olds["volumeId"] ?? inputs.UNKNOWN });
    const want = decode(news);
    try {
      return await this.write(want, olds["bytes"]);
    } catch (error) {
      // The former medium may be gone. A plain failure would keep its inputs in the state, and going back to them would
      // look like no change.
      const properties = outputs(want, { volumeId: olds["volumeId"], digest: "" });
      throw new InitFailed((error as Error).message, id, properties);
    }
  }

  async read(_target: Target, oldInputs: Props, olds: Props): Promise<Found | undefined> {
    if (Object.keys(oldInputs).length === 0) {
      throw new Error("nixvm:index:SeedVolume cannot be imported: declare it and run pulumi up, which writes it anew");
    }
    const { uri, pool, name } = decode(oldInputs);
    if (isTestDriver(uri)) return { inputs: oldInputs, outputs: olds };
    const bytes = await this.world.volumes(uri).bytes(pool, name);
    if (bytes === undefined) return undefined;
    return { inputs: oldInputs, outputs: bytes === olds["bytes"] ? olds : { ...olds, digest: "" } };
  }

  async delete(_target: Target, oldInputs: Props): Promise<void> {
    const { uri, pool, name } = decode(oldInputs);
    if (!isTestDriver(uri)) await this.world.volumes(uri).remove(pool, name);
  }

  /**
   * Writes the medium, whatever is there of it. A running guest keeps the former file, which it has open: writing into
   * that one would show it half a seed. Not broken off by a cancel, since it takes a moment and half of it helps nobody.
   *
   * Its size is never the one before (`former`): were this run killed before the engine knows, a refresh finds that the medium is
   * another one, although it reads nothing of it.
   */
  private async write(want: SeedInputs, former?: unknown): Promise<Props> {
    const { uri, pool, name } = want;
    const digest = seedDigest(want);
    if (isTestDriver(uri)) return outputs(want, { volumeId: name, digest });
    const volumes = this.world.volumes(uri);
    try {
      return await withMedium(want, this.world.run, async (medium) => {
        const bytes = medium.bytes + (medium.bytes === former ? block : 0);
        await truncate(medium.file, bytes);
        await makeRoom(volumes, want, medium);
        await volumes.create(pool, name).catch(async (error: unknown) => {
          if (!isTaken(error)) throw error;
          await volumes.refresh(pool);
          await makeRoom(volumes, want, medium);
          await volumes.create(pool, name);
        });
        await volumes.upload(pool, name, medium.file).catch(async (error: unknown) => {
          await volumes.remove(pool, name).catch(() => undefined);
          throw error;
        });
        return outputs(want, { volumeId: await volumes.path(pool, name), digest, bytes });
      });
    } catch (error) {
      const { message } = error as Error;
      throw new Error(`seed volume "${name}" in pool "${pool}" of ${uri}: ${message}`, { cause: error });
    }
  }
}

interface Created {
  id: string;
  properties: Props;
}

function decode(props: Props): SeedInputs {
  return inputs.readInputs("SeedVolume", inputs.seedInputs, props);
}

/** The secrets stay in the inputs: what nobody reads need not be in the state twice. */
function outputs({ uri, pool, name }: Props, medium: Props): Props {
  return { uri, pool, name, ...medium };
}

/** What a preview knows of a medium. */
function unwritten(news: Props): Props {
  const known = !inputs.seedSecrets.some((key) => inputs.isUnknown(news[key]));
  return { digest: known ? digestOf(news) : inputs.UNKNOWN, bytes: inputs.UNKNOWN };
}

function digestOf({ userData, metaData, networkConfig }: Props): string {
  return seedDigest({ userData, metaData, networkConfig } as SeedInputs);
}

/** Deletes the former medium. What is there under our name and is none stays. */
async function makeRoom(volumes: Volumes, { pool, name }: SeedInputs, { folder }: Medium): Promise<void> {
  const bytes = await volumes.bytes(pool, name);
  if (bytes === undefined) return;
  const file = join(folder, "there");
  await volumes.head(pool, name, file, headBytes);
  if (!isSeed(await readFile(file), bytes)) {
    throw new Error(
      'a volume of that name is there and is left as it is, since it is no seed (an ISO image labelled "cidata"): rename it or remove it',
    );
  }
  await volumes.remove(pool, name);
}
