import { z } from "zod";
import { Props } from "./inputs";

/** An image that a VM did not get healthy on. It is in the state of the stack, so that everybody who works with it knows. */
const entry = z.object({
  /** First 12 hex digits of the image's digest. */
  digest: z.string(),
  reason: z.string(),
  /** ISO 8601 in UTC. */
  at: z.string(),
});

export type Quarantined = z.infer<typeof entry>;

/** What the outputs of a Guest say. */
export function quarantinedOf(outputs: Props): Quarantined[] {
  return z.array(entry).catch([]).parse(outputs["quarantined"]);
}

/** Why the image that is asked for may not be tried again; undefined when it may. */
export function refusal(outputs: Props, news: Props): string | undefined {
  const found = quarantinedOf(outputs).find(({ digest }) => digest === news["imageDigest"]);
  if (found === undefined || news["retry"] === true) return undefined;
  return (
    `${String(news["vm"])}: image ${found.digest} is quarantined: it failed here at ${found.at} (${found.reason}); ` +
    `allowed: another image, or this one again with "${found.digest}" in nixvm:rollout.retry`
  );
}
