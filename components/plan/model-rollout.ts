import { z } from "zod";
import { wrong } from "./errors";
import * as leaf from "./leaf";
import { DAYS, isZone } from "./windows";

/** Some of the VMs: a number, or a part of those that are there. */
const amount = (min: number, what: string) => {
  const error = wrong(what, `a whole number from ${min} to 1000, or a part such as "25%", up to "100%"`);
  return z.union(
    [
      z.int({ error }).min(min, { error }).max(1000, { error }),
      z.string({ error }).regex(/^([1-9][0-9]?|100)%$/, { error }),
    ],
    { error },
  );
};

const TIME = 'a time on that clock, in quotes, such as "22:00"';

const window = leaf.keys(
  {
    days: leaf
      .list(leaf.choice(DAYS, "a day"), `days: ${DAYS.join(", ")}`)
      .min(1, { error: wrong("a window that ever opens", `at least one of ${DAYS.join(", ")}; left out: every day`) })
      .optional()
      .describe("Days on which the window begins: mon, tue, wed, thu, fri, sat, sun. Default: every day."),
    from: leaf
      .word(/^([01][0-9]|2[0-3]):[0-5][0-9]$/, "a time", `${TIME}, up to "23:59"`)
      .describe('When it begins, such as "22:00".'),
    to: leaf
      .word(/^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$/, "a time", `${TIME}, up to "24:00"`)
      .describe('When it ends, such as "04:00"; before `from` it is on the next day. "24:00" is the end of the day.'),
    zone: leaf
      .word(/^[A-Za-z][A-Za-z0-9_+/-]*$/, "a time zone", "an IANA name such as Europe/Berlin, or UTC", isZone)
      .optional()
      .describe(
        "Time zone of these times, by its IANA name. Default UTC. Changes of the clock are taken into account.",
      ),
  },
  "days, from, to and zone",
);

/** How VMs that are there already are brought to something new. For the fleet, and again for a group of it. */
export const policyShape = {
  canary: amount(0, "a number of VMs or a part")
    .optional()
    .describe(
      "VMs that are changed first and one by one; the others wait until they are healthy. Default 1; 0 for none.",
    ),
  batches: leaf
    .list(amount(1, "a number of VMs or a part"), 'sizes such as [1, 5, "25%"]')
    .min(1, {
      error: wrong("a list of sizes", 'at least one size, such as ["25%"]; left out: all others in one batch'),
    })
    .optional()
    .describe("Sizes of the batches after the canary; the last one repeats. Default: all others in one batch."),
  maxUnavailable: amount(1, "a number of VMs or a part")
    .optional()
    .describe("How many VMs may be down for a change at the same time. Default 1: one after the other."),
  order: leaf
    .list(
      leaf.word(/^\S+$/, "the name of a VM or group", "names from nixvm:fleet and nixvm:groups"),
      "names of VMs and groups",
    )
    .optional()
    .describe("VMs and groups that come first, in this order. The others follow by name."),
  soak: leaf
    .duration()
    .optional()
    .describe(
      "How long a canary or batch must have been healthy before the next one begins. Default: no longer than that.",
    ),
  windows: leaf
    .list(window, "windows")
    .min(1, { error: wrong("a list of windows", "at least one window; left out: at any time") })
    .optional()
    .describe("When VMs that run may be restarted for a change. Default: at any time."),
  pause: leaf
    .bool()
    .optional()
    .describe(
      "true: no VM that runs is restarted for a change; up stops with an error before the first one. Default false.",
    ),
};

export const POLICY_KEYS = Object.keys(policyShape).join(", ");

/** A group's own. */
export const groupRollout = leaf.keys(policyShape, POLICY_KEYS);
export type PolicyConfig = z.infer<typeof groupRollout>;
