import { forEach } from "../provider/parallel";
import { LibvirtError } from "../provider/virsh";
import { type FleetVm, type StateResource } from "./fleet";
import { type FleetLook } from "./fleetLook";
import { type Pending } from "./pending";
import { type StatusRow } from "./statusRow";
import { bootPathOf } from "./vmFacts";

/** A volume of a pool, in bytes; without them where its host did not say. */
export interface Layer {
  path: string;
  /** As a guest sees it. */
  diskBytes?: number;
  /** What it takes of the pool. */
  usedBytes?: number;
}

/** A VM with what it stands on. */
export interface GraphVm {
  row: StatusRow;
  /** Path of its base image, which others may stand on as well; absent when the state does not know it. */
  base?: string;
  overlay?: Layer;
  persist?: Layer;
  scratch?: Layer;
  seed?: Layer;
}

/** A base image on a host. */
export interface GraphBase extends Layer {
  host: string;
  digest?: string;
  version?: string;
}

/** All that the page shows. */
export interface Graph {
  stack: string;
  /** Epoch milliseconds. */
  at: number;
  vms: GraphVm[];
  bases: GraphBase[];
  pending: Pending;
}

/** How a volume is asked for; undefined when there is none. */
export type Sizes = (uri: string, path: string) => Promise<{ diskBytes: number; usedBytes: number } | undefined>;

/** Base images below overlays, by the paths of both, and what the names of their resources say. */
export function basesOf(resources: readonly StateResource[]): {
  below: Map<string, string>;
  digests: Map<string, string>;
} {
  const volumes = resources.filter(({ type, id }) => type === "libvirt:index/volume:Volume" && id !== undefined);
  const below = volumes.flatMap(({ id, inputs }) =>
    typeof inputs?.["baseVolumeId"] === "string" ? [[id ?? "", inputs["baseVolumeId"]] as const] : [],
  );
  const digests = volumes.flatMap(({ id, urn }) => {
    const digest = /::base-.+-([0-9a-f]{12})-volume$/.exec(urn)?.[1];
    return digest === undefined ? [] : [[id ?? "", digest] as const];
  });
  return { below: new Map(below), digests: new Map(digests) };
}

/** The layers of each VM with their sizes; each base image is asked for once. */
export async function layersOf(
  { facts, rows }: FleetLook,
  resources: readonly StateResource[],
  versions: ReadonlyMap<string, string>,
  sizes: Sizes,
): Promise<Pick<Graph, "vms" | "bases">> {
  const { below, digests } = basesOf(resources);
  const known = async (vm: FleetVm, path: string, ask: boolean): Promise<Layer> => {
    // A host that has just not answered would not do so for each of its volumes either.
    const found = ask ? await sizes(vm.uri, path).catch(unknown) : undefined;
    return { path, ...found };
  };
  const bases = new Map<string, { base: GraphBase; vm: FleetVm; ask: boolean }>();
  const vms = await forEach([...facts.entries()], async ([index, one]): Promise<GraphVm> => {
    const { vm, hostProblem } = one;
    const ask = hostProblem === undefined;
    const overlay = bootPathOf(one) ?? vm.overlayPath;
    const base = below.get(overlay);
    if (base !== undefined) {
      const digest = digests.get(base);
      const version = versions.get(digest ?? "");
      const made = { path: base, host: vm.host, ...(digest && { digest }), ...(version && { version }) };
      bases.set(`${vm.uri} ${base}`, { base: made, vm, ask });
    }
    const layer = async <Name extends string>(name: Name, path: string | undefined) =>
      path ? ({ [name]: await known(vm, path, ask) } as Record<Name, Layer>) : {};
    return {
      row: rows[index] as StatusRow,
      ...(base === undefined ? {} : { base }),
      ...(await layer("overlay", overlay)),
      ...(await layer("persist", vm.persistPath)),
      ...(await layer("scratch", vm.scratchPath)),
      ...(await layer("seed", vm.seedPath)),
    };
  });
  const sized = await forEach([...bases.values()], async ({ base, vm, ask }) => ({
    ...base,
    ...(await known(vm, base.path, ask)),
  }));
  return { vms, bases: sized };
}

function unknown(error: unknown): undefined {
  if (!(error instanceof LibvirtError)) throw error;
  return undefined;
}

/** What is on disk, each base image once. Without sharing each VM would have a copy of its own. */
export function totals({ vms, bases }: Pick<Graph, "vms" | "bases">): {
  shared: number;
  own: number;
  unshared: number;
} {
  const used = (layer: Layer | undefined): number => layer?.usedBytes ?? 0;
  const own = vms.reduce((sum, vm) => sum + used(vm.overlay) + used(vm.persist) + used(vm.scratch) + used(vm.seed), 0);
  const shared = bases.reduce((sum, base) => sum + used(base), 0);
  const copies = vms.reduce(
    (sum, vm) => sum + used(bases.find(({ path, host }) => path === vm.base && host === vm.row.host)),
    0,
  );
  return { shared, own, unshared: own + copies };
}
