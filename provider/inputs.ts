import { z } from "zod";
import { formatBytes } from "./parse";

/** What the engine sends instead of a value that is not known before the deployment. */
export const UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9";

/** A bag of property values as the engine sends it. */
export type Props = Record<string, unknown>;

/** True for the sentinel anywhere in a value. */
export function isUnknown(value: unknown): boolean {
  return value === UNKNOWN;
}

const text = z.string().min(1, "must not be empty");
const count = z.int().positive();

/** Every input of a Guest; documented for users in guest.ts. */
export const guestInputs = z.strictObject({
  uri: z.string().regex(/^[a-z][a-z0-9+.-]*:/, 'must be a libvirt URI such as "qemu:///system"'),
  vm: text,
  domain: text,
  uuid: z.string().regex(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/, "must be a UUID in lower case"),
  domainId: text,
  imageId: text.optional(),
  imageDigest: text,
  memoryMiB: count,
  vcpus: count,
  network: z.string(),
  accelerator: z.enum(["kvm", "tcg"]),
  seedDigest: text.optional(),
  seedPath: z.string().startsWith("/", "must be an absolute path").optional(),
  persistPath: z.string().startsWith("/", "must be an absolute path").optional(),
  persistBytes: count.optional(),
  running: z.boolean(),
  contract: z.enum(["nixvm", "none"]),
  stopTimeoutSeconds: z.number().positive(),
  consoleLog: z.string().startsWith("/", "must be an absolute path").optional(),
});

export type GuestInputs = z.infer<typeof guestInputs>;

/** One refused input. */
export interface Failure {
  property: string;
  reason: string;
}

/** Checks what can be checked before anything runs; a value not known yet is left for later. */
export function checkGuest(olds: Props | undefined, news: Props): Failure[] {
  const known = Object.fromEntries(Object.entries(news).filter(([, value]) => value !== null && value !== undefined));
  const result = guestInputs.safeParse(known);
  const failures: Failure[] = [];
  for (const issue of result.error?.issues ?? []) {
    const property = String(issue.path[0] ?? "");
    if (isUnknown(known[property])) continue;
    const shown = property in known ? `, not ${JSON.stringify(known[property])}` : "";
    failures.push({ property, reason: `${property || "inputs"}: ${issue.message}${shown}` });
  }
  const before = olds?.["persistBytes"];
  const after = known["persistBytes"];
  if (typeof before === "number" && typeof after === "number" && after < before) {
    failures.push({ property: "persistBytes", reason: shrinkMessage(before, after) });
  }
  return failures;
}

/** The one wording for a refused shrink (row T-62), at preview and when the disk itself turns out to be larger. */
export function shrinkMessage(from: number, to: number): string {
  return `persist.size: cannot shrink from ${formatBytes(from)} to ${formatBytes(to)}; allowed: ${formatBytes(from)} or more`;
}

/** Inputs with all values known; throws with every problem in one message. */
export function readGuest(props: Props): GuestInputs {
  const known: Props = {};
  // State also holds outputs under other names, and an output may share a name with an optional input.
  for (const key of Object.keys(guestInputs.shape)) {
    if (props[key] !== null && props[key] !== undefined) known[key] = props[key];
  }
  const result = guestInputs.safeParse(known);
  if (result.success) return result.data;
  const lines = result.error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`);
  throw new Error(`nixvm:index:Guest: ${lines.join("; ")}`);
}
