import type { Problem } from "./errors";
import { digest12 } from "./names";
import type { Plan } from "./types";

/** An image that all of the fleet was healthy on, as the stack's output `images` has it. */
export interface KnownImage {
  /** SHA-256 of the unpacked image. */
  readonly digest: string;
  readonly format: "qcow2" | "raw";
  /** Names of the hosts whose pools have it. */
  readonly hosts: readonly string[];
  readonly id?: string;
  readonly version?: string;
  readonly contract?: number;
  readonly rootModes?: readonly string[];
}

/** What a former run's output says, the newest first; what is no image is left out, as another release may have written it. */
export function readHistory(output: unknown): KnownImage[] {
  if (!Array.isArray(output)) return [];
  return output.filter(
    (entry: Partial<KnownImage> | null) =>
      /^[0-9a-f]{64}$/.test(entry?.digest ?? "") &&
      /^(qcow2|raw)$/.test(entry?.format ?? "") &&
      Array.isArray(entry?.hosts),
  ) as KnownImage[];
}

/** The images of this run, then those of former ones that are to be kept. */
export function nextHistory(former: readonly KnownImage[], current: readonly KnownImage[], keep: number): KnownImage[] {
  const used = new Set(current.map(({ digest }) => digest));
  const kept = former.filter(({ digest }) => !used.has(digest)).slice(0, keep);
  // One that is used on one host may still be kept on another.
  const hostsOf = ({ digest, hosts }: KnownImage): string[] => {
    const before = keep > 0 ? (former.find((one) => one.digest === digest)?.hosts ?? []) : [];
    return [...new Set([...hosts, ...before])].sort();
  };
  return [...current.map((image) => ({ ...image, hosts: hostsOf(image) })), ...kept];
}

/** The image that a stack file names by its digest, or the beginning of it. */
export function findKnown(history: readonly KnownImage[], digest: string): KnownImage | undefined {
  return history.find((image) => image.digest.startsWith(digest));
}

/** VMs on hosts that do not have the image that is named by its digest: it can be taken from nowhere. */
export function missingOnHosts(
  plan: Plan,
  named: Readonly<Record<string, string>>,
  history: readonly KnownImage[],
): Problem[] {
  return plan.images.flatMap(({ name, host }) => {
    const known = named[name] === undefined ? undefined : findKnown(history, named[name]);
    if (known === undefined || known.hosts.includes(host)) return [];
    const has = known.hosts.join(", ");
    return [
      {
        path: `images.${name}.digest`,
        value: digest12(known.digest),
        message: `is not on host ${host}, where VMs are to run it`,
        allowed: `VMs on ${has}, or path or url of the image`,
      },
    ];
  });
}
