import { z } from "zod";
import { checkInput } from "./checkScript";
import { rolloutInput } from "./admit";
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
const uri = z.string().regex(/^[a-z][a-z0-9+.-]*:/, 'must be a libvirt URI such as "qemu:///system"');

/** Every input of a Guest; documented for users in guest.ts. */
export const guestInputs = z.strictObject({
  uri,
  vm: text,
  domain: text,
  uuid: z.string().regex(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/, "must be a UUID in lower case"),
  domainId: text,
  imageId: text.optional(),
  imageDigest: text,
  overlayPath: z.string().startsWith("/", "must be an absolute path"),
  memoryMiB: count,
  memoryMaximumMiB: count.optional(),
  vcpus: count,
  vcpusMaximum: count.optional(),
  network: z.string(),
  nic: z.strictObject({ type: z.enum(["bridge", "network"]), source: text, mac: text }).optional(),
  lease: z.strictObject({ address: text, names: z.array(text).min(1), of: text.optional() }).optional(),
  egress: z.strictObject({ allow: z.array(text), dns: z.array(text), dhcp: text.optional() }).optional(),
  accelerator: z.enum(["kvm", "tcg"]),
  seedDigest: text.optional(),
  seedPath: z.string().startsWith("/", "must be an absolute path").optional(),
  ejectSeed: z.boolean().optional(),
  persistPath: z.string().startsWith("/", "must be an absolute path").optional(),
  persistBytes: count.optional(),
  running: z.boolean(),
  contract: z.enum(["nixvm", "none"]),
  stopTimeoutSeconds: z.number().positive(),
  consoleLog: z.string().startsWith("/", "must be an absolute path").optional(),
  checks: z.array(checkInput).optional(),
  goBack: z.boolean().optional(),
  retry: z.boolean().optional(),
  snapshots: z.int().min(0).optional(),
  restoreData: z.boolean().optional(),
  rollout: rolloutInput.optional(),
});

export type GuestInputs = z.infer<typeof guestInputs>;

/** Every input of a SeedVolume; documented for users in seed.ts. */
export const seedInputs = z.strictObject({
  uri,
  pool: text,
  name: z.string().regex(/^[^/-][^/]*$/, "must be the name of a volume, not a path"),
  userData: z.string(),
  metaData: z.string(),
  networkConfig: z.string(),
});

export type SeedInputs = z.infer<typeof seedInputs>;

/** Never shown, not even when they are wrong. */
export const seedSecrets = ["userData", "metaData", "networkConfig"] as const;

/** One refused input. */
export interface Failure {
  property: string;
  reason: string;
}

/** Checks what can be checked before anything runs; a value not known yet is left for later. */
export function checkInputs(schema: z.ZodObject, news: Props, secret: readonly string[] = []): Failure[] {
  const known = given(news);
  const failures: Failure[] = [];
  for (const issue of schema.safeParse(known).error?.issues ?? []) {
    const property = String(issue.path[0] ?? "");
    if (isUnknown(known[property])) continue;
    const shown = property in known && !secret.includes(property) ? `, not ${JSON.stringify(known[property])}` : "";
    failures.push({ property, reason: `${property || "inputs"}: ${issue.message}${shown}` });
  }
  return failures;
}

/** {@link checkInputs} for a Guest, whose disk must not shrink either. */
export function checkGuest(olds: Props | undefined, news: Props): Failure[] {
  const failures = checkInputs(guestInputs, news);
  const before = olds?.["persistBytes"];
  const after = news["persistBytes"];
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
export function readInputs<Inputs>(type: string, schema: z.ZodObject & z.ZodType<Inputs>, props: Props): Inputs {
  // State also holds outputs under other names, and an output may share a name with an optional input.
  const names = new Set(Object.keys(schema.shape));
  const known = Object.fromEntries(Object.entries(given(props)).filter(([name]) => names.has(name)));
  const result = schema.safeParse(known);
  if (result.success) return result.data;
  const lines = result.error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`);
  throw new Error(`nixvm:index:${type}: ${lines.join("; ")}`);
}

/** Without what is null, which is how an absent value may travel. */
function given(props: Props): Props {
  return Object.fromEntries(Object.entries(props).filter(([, value]) => value !== null && value !== undefined));
}
