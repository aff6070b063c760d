import { mergedEntry } from "../components/plan";

type Entry = Record<string, unknown>;

/** What makes a VM that VM, or says which of its volumes it is on. Another one has its own. */
const OWN = ["hostname", "generation"] as const;
const OWN_OF_IDENTITY = ["uuid", "machineId", "mac"] as const;
const OWN_OF_NETWORK = ["address", "mac", "sshPort"] as const;

/**
 * The entry of a clone: what is written of the source, the nearest first (an entry of the fleet alone; a member's own and its
 * group's), without what no two VMs can share. It is off until its data is there.
 */
export function cloneEntry(written: readonly Entry[]): Entry {
  const [only, group] = written;
  const long: Entry = { ...mergedEntry(written) };
  // The short forms of an entry that is copied alone stay as they are.
  const entry: Entry = group === undefined ? { ...only } : long;
  if (typeof entry["network"] === "object") entry["network"] = without(long["network"] as Entry, OWN_OF_NETWORK);
  if (entry["identity"] !== undefined) entry["identity"] = without(entry["identity"] as Entry, OWN_OF_IDENTITY);
  for (const key of ["network", "identity"]) if (isEmpty(entry[key])) delete entry[key];
  return { ...without(entry, OWN), running: false };
}

/** A group's own fields are no fields of its members. */
export function memberFields(group: Entry): Entry {
  return without(group, ["count", "members", "rollout"]);
}

function without(entry: Entry, keys: readonly string[]): Entry {
  return Object.fromEntries(Object.entries(entry).filter(([key]) => !keys.includes(key)));
}

const isEmpty = (value: unknown): boolean =>
  typeof value === "object" && value !== null && Object.keys(value).length === 0;
