import { z } from "zod";
import { checkInput } from "./checkScript";
import { GuestInputs, Props } from "./inputs";

/** What the state of the stack remembers of a Guest beyond what was last seen: everybody who works with it knows. */

/** An image that a VM did not get healthy on. */
const quarantined = z.object({
  /** First 12 hex digits of the image's digest. */
  digest: z.string(),
  reason: z.string(),
  /** ISO 8601 in UTC. */
  at: z.string(),
});

/** What a VM was last healthy on. */
const lastGood = z.object({
  imageDigest: z.string(),
  imageId: z.string().optional(),
  overlayPath: z.string(),
  contract: z.enum(["nixvm", "none"]),
  /** The health checks that it passed; later ones may ask for what only a later image has. */
  checks: z.array(checkInput).optional(),
});

const memory = z.object({
  quarantined: z.array(quarantined).catch([]).default([]),
  lastGood: lastGood.optional().catch(undefined),
});

export type LastGood = z.infer<typeof lastGood>;
export type Memory = z.infer<typeof memory>;

/** What the outputs of a Guest say; nothing for one that is new. */
export function memoryOf(outputs: Props): Memory {
  return memory.parse({ quarantined: outputs["quarantined"], lastGood: outputs["lastGood"] });
}

/** The memory as outputs. */
export function remembered({ quarantined, lastGood }: Memory): Props {
  return { ...(quarantined.length > 0 ? { quarantined } : {}), ...(lastGood ? { lastGood } : {}) };
}

/** Memory of a VM that is healthy on what is wanted. */
export function afterSuccess({ quarantined }: Memory, want: GuestInputs): Memory {
  const { imageDigest, imageId, overlayPath, contract, checks } = want;
  const optional = { ...(imageId === undefined ? {} : { imageId }), ...(checks === undefined ? {} : { checks }) };
  return {
    quarantined: quarantined.filter(({ digest }) => digest !== imageDigest),
    lastGood: { imageDigest, overlayPath, contract, ...optional },
  };
}

/** Memory of a VM whose image has failed. */
export function afterFailure(memory: Memory, digest: string, reason: string, at: Date): Memory {
  const others = memory.quarantined.filter((entry) => entry.digest !== digest);
  return { ...memory, quarantined: [...others, { digest, reason, at: at.toISOString() }] };
}

/** Why the image that is asked for may not be tried again; undefined when it may. */
export function refusal(outputs: Props, news: Props): string | undefined {
  const found = memoryOf(outputs).quarantined.find(({ digest }) => digest === news["imageDigest"]);
  if (found === undefined || news["retry"] === true) return undefined;
  return (
    `${String(news["vm"])}: image ${found.digest} is quarantined: it failed here at ${found.at} (${found.reason}); ` +
    `allowed: another image, or this one again with "${found.digest}" in nixvm:rollout.retry`
  );
}
