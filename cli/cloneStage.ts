import type { VirshVolumes } from "../provider/volumes";

/**
 * How far a clone is. `new`: its volume is blank, or not there yet. `write`: data is on its way into it. `start`: all data is there.
 */
export type Stage = "new" | "write" | "start";

const STAGES: readonly Stage[] = ["new", "write", "start"];

/** A clone that is being made, or was broken off. */
export interface Begun {
  readonly stage: Stage;
  readonly source: string;
}

/** Reads what is written down of a clone beside its volume, of the names of all volumes of the pool; the furthest counts. */
export function begunOf(volume: string, names: readonly string[]): Begun | undefined {
  const found = names.flatMap((name) => {
    const match = name.startsWith(`${volume}.clone-`)
      ? /^(new|write|start)-(.+)$/.exec(name.slice(volume.length + 7))
      : null;
    return match ? [{ stage: match[1] as Stage, source: match[2]! }] : [];
  });
  return found.sort((a, b) => STAGES.indexOf(b.stage) - STAGES.indexOf(a.stage))[0];
}

const nameOf = (volume: string, { stage, source }: Begun): string => `${volume}.clone-${stage}-${source}`;

/**
 * What a second run goes by: empty volumes beside the one of the clone, whose names say it all. They are made and deleted as a whole, so
 * that a run which is killed leaves the one or the other.
 */
export class CloneMark {
  constructor(
    private readonly volumes: Pick<VirshVolumes, "names" | "create" | "remove">,
    private readonly pool: string,
    private readonly volume: string,
  ) {}

  async read(): Promise<Begun | undefined> {
    return begunOf(this.volume, await this.volumes.names(this.pool));
  }

  async write(begun: Begun): Promise<void> {
    const names = await this.volumes.names(this.pool);
    const name = nameOf(this.volume, begun);
    if (!names.includes(name)) await this.volumes.create(this.pool, name);
    await this.drop(names.filter((other) => other !== name));
  }

  async clear(): Promise<void> {
    await this.drop(await this.volumes.names(this.pool));
  }

  private async drop(names: readonly string[]): Promise<void> {
    for (const name of names.filter((one) => begunOf(this.volume, [one]))) await this.volumes.remove(this.pool, name);
  }
}
