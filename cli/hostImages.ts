import type * as plan from "../components/plan";
import { isMissingVolume, LibvirtError, type Virsh } from "../provider/virsh";
import type { Context } from "./context";
import type { StateResource } from "./fleet";

/** A volume of a base image on a host. */
export interface BaseVolume {
  host: string;
  name: string;
  path: string;
  /** First 12 digits of the image's digest. */
  digest: string;
  /** Bytes that it takes up. */
  bytes: number;
  /** Overlays and domains that stand on it. */
  usedBy: string[];
}

/** What there is on a host, or why nobody knows. */
export interface HostImages {
  host: string;
  bases: BaseVolume[];
  problem?: string;
}

/** File names of base images of one stack; those of another whose name begins the same have something else before `-base-`. */
function basePattern(prefix: string): RegExp {
  return new RegExp(`^${prefix.replace(/[.]/g, "\\.")}-base-([0-9a-f]{12})\\.(qcow2|raw)$`);
}

/** Base images of this stack on its hosts, with what stands on them. */
export async function hostImages(context: Context, fleet: plan.Plan): Promise<HostImages[]> {
  return Promise.all(
    fleet.hosts.map(async ({ name: host, uri, pool }): Promise<HostImages> => {
      try {
        return { host, bases: await basesOf(context, fleet.prefix, { host, uri, pool: pool.name }) };
      } catch (error) {
        if (!(error instanceof LibvirtError)) throw error;
        // Before the first run there is no pool yet.
        if (/Storage pool not found/.test(error.message)) return { host, bases: [] };
        return { host, bases: [], problem: error.message };
      }
    }),
  );
}

async function basesOf(
  context: Context,
  prefix: string,
  on: { host: string; uri: string; pool: string },
): Promise<BaseVolume[]> {
  const libvirt = context.libvirt(on.uri);
  const volumes = await libvirt.volumes(on.pool);
  const pattern = basePattern(prefix);
  const bases = volumes.flatMap(({ name, path }) => {
    const digest = pattern.exec(name)?.[1];
    return digest === undefined ? [] : [{ name, path, digest }];
  });
  if (bases.length === 0) return [];
  const others = volumes.filter(({ path }) => !bases.some((base) => base.path === path));
  // Whoever it belongs to: an overlay without its base is lost.
  const texts = await Promise.all([
    ...others.map(async ({ name, path }) => ({ who: name, xml: await xmlIfThere(libvirt, path) })),
    ...(await libvirt.domains()).map(async ({ name, uuid }) => ({ who: name, xml: await libvirt.xml(uuid) })),
  ]);
  return Promise.all(
    bases.map(async ({ name, path, digest }) => {
      const { allocation } = await libvirt.volumeSizes(path);
      const usedBy = texts.filter(({ xml }) => mentions(xml, path)).map(({ who }) => who);
      return { host: on.host, name, path, digest, bytes: allocation, usedBy: [...new Set(usedBy)].sort() };
    }),
  );
}

/** A list may have volumes that are gone by now: their users are, too. */
async function xmlIfThere(libvirt: Virsh, path: string): Promise<string> {
  try {
    return await libvirt.volumeXml(path);
  } catch (error) {
    if (error instanceof LibvirtError && isMissingVolume(error)) return "";
    throw error;
  }
}

const ENTITIES: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&apos;", '"': "&quot;" };

/** Whether a definition names a path, in whichever of its elements. */
function mentions(xml: string, path: string): boolean {
  const escaped = path.replace(/[&<>'"]/g, (one) => ENTITIES[one] ?? one);
  return [path, escaped, path.replace(/&/g, "&amp;")].some((text) =>
    [`>${text}<`, `'${text}'`, `"${text}"`].some((quoted) => xml.includes(quoted)),
  );
}

/** What may be removed of the base images on hosts, and why the others may not. */
export function unusedBases(
  hosts: readonly HostImages[],
  resources: readonly StateResource[],
  history: readonly plan.KnownImage[],
): { unused: BaseVolume[]; kept: { base: BaseVolume; why: string }[] } {
  const managed = new Map(resources.filter(({ type }) => type.endsWith(":Volume")).map((one) => [one.id, one]));
  const unused: BaseVolume[] = [];
  const kept: { base: BaseVolume; why: string }[] = [];
  for (const base of hosts.flatMap(({ bases }) => bases)) {
    const resource = managed.get(base.path);
    const why =
      base.usedBy.length > 0
        ? `used by ${base.usedBy.join(", ")}`
        : resource?.delete
          ? "the next run removes it"
          : resource
            ? "in the stack's state"
            : history.some(({ digest }) => digest.startsWith(base.digest))
              ? "kept by rollout.keepImages"
              : undefined;
    if (why === undefined) unused.push(base);
    else kept.push({ base, why });
  }
  return { unused, kept };
}
