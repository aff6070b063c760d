import { z } from "zod";
import { hint, listNames, type Problems, type Segment, splitAllowed } from "./errors";
import { type Config, configSchema } from "./model";

/** What reading the config gave. */
export interface Parsed {
  /** The config without the parts that are wrong, so that the rest can still be checked. */
  readonly config: Config;
  /** Paths of the parts left out, as formatted segments joined by NUL; see `isBroken`. */
  readonly broken: ReadonlySet<string>;
}

const key = (segments: readonly Segment[]): string => segments.join("\0");

/** Whether a value at this path was written, but wrong: what depends on it must not be reported a second time. */
export function isBroken(parsed: Parsed, ...segments: readonly Segment[]): boolean {
  return parsed.broken.has(key(segments));
}

/**
 * Reads the config by the model. Every mistake is reported; the parts that carry one are left out and the rest is read
 * again, because a typo in one field must not hide a refused combination elsewhere.
 */
export function parseConfig(input: unknown, problems: Problems): Parsed {
  const first = configSchema.safeParse(input);
  if (first.success) return { config: first.data, broken: new Set() };
  const broken = new Set<string>();
  let rest = clone(input);
  let issues = first.error.issues;
  // Leaving a part out can lay bare no new mistake but a missing field, so two rounds do; the limit is for safety.
  for (let round = 0; round < 4; round++) {
    for (const issue of issues) report(issue, [], input, problems);
    for (const path of issues.flatMap((issue) => partsToLeaveOut(issue))) {
      broken.add(key(path));
      rest = without(rest, path);
    }
    const again = configSchema.safeParse(rest);
    if (again.success) return { config: again.data, broken };
    issues = again.error.issues;
  }
  return { config: {}, broken };
}

type Issue = z.core.$ZodIssue;

/** Turns one issue of zod into problems; `base` is the path of the union that it comes from. */
function report(issue: Issue, base: readonly Segment[], input: unknown, problems: Problems): void {
  const path = [...base, ...segmentsOf(issue)];
  const value = valueAt(input, path);
  if (issue.code === "unrecognized_keys") {
    const known = knownKeys(path);
    for (const unknown of issue.keys) {
      // The value is not shown: what was mistyped may be the name of a secret.
      problems.add(
        [...path, unknown],
        undefined,
        `is not a known key${hint(unknown, known)}`,
        listNames(known, "no keys"),
      );
    }
    return;
  }
  if (issue.code === "invalid_key") {
    const { message, allowed } = splitAllowed(issue.issues[0]?.message ?? issue.message);
    problems.add(path, path.at(-1), message, allowed);
    return;
  }
  if (issue.code === "invalid_union") {
    const fitting = issue.errors.filter((branch) => !branch.some(isAboutTheWhole));
    if (fitting.length === 1) {
      for (const inner of fitting[0] ?? []) report(inner, path, input, problems);
      return;
    }
  }
  const { message, allowed } = splitAllowed(issue.message);
  problems.add(path, value, value === undefined ? "is missing" : message, allowed);
}

/** Whether an issue of a union's branch says that the branch was not meant at all, rather than filled in wrongly. */
function isAboutTheWhole(issue: Issue): boolean {
  return issue.path.length === 0 && issue.code !== "unrecognized_keys";
}

function segmentsOf(issue: Issue): Segment[] {
  return issue.path.map((segment) => (typeof segment === "number" ? segment : String(segment)));
}

/** Depth of the smallest part that can be left out: a field of a VM, but a host, image or network as a whole. */
const DEPTH: Readonly<Record<string, number>> = { fleet: 3, groups: 3, defaults: 2, rollout: 2 };

function partsToLeaveOut(issue: Issue): Segment[][] {
  const path = segmentsOf(issue);
  const paths = issue.code === "unrecognized_keys" ? issue.keys.map((unknown) => [...path, unknown]) : [path];
  return paths.map((full) => {
    const part = full.slice(0, DEPTH[String(full[0])] ?? 2);
    // Without its count a group is nothing.
    return part[0] === "groups" && part[2] === "count" ? part.slice(0, 2) : part;
  });
}

function valueAt(input: unknown, path: readonly Segment[]): unknown {
  let value = input;
  for (const segment of path) {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, segment)) return undefined;
    value = (value as Record<Segment, unknown>)[segment];
  }
  return value;
}

function without(input: unknown, path: readonly Segment[]): unknown {
  const [first, ...rest] = path;
  if (first === undefined || typeof input !== "object" || input === null || Array.isArray(input)) return {};
  const entries = Object.entries(input).filter(([name]) => rest.length > 0 || name !== first);
  return record(entries.map(([name, value]) => [name, name === first ? without(value, rest) : value]));
}

function clone(input: unknown): unknown {
  return typeof input === "object" && input !== null && !Array.isArray(input) ? record(Object.entries(input)) : {};
}

// Not Object.fromEntries on its own: a key `__proto__` in junk must stay a key.
function record(entries: readonly (readonly [string, unknown])[]): unknown {
  const result: Record<string, unknown> = {};
  for (const [name, value] of entries) {
    Object.defineProperty(result, name, { value, enumerable: true, configurable: true, writable: true });
  }
  return result;
}

interface JsonSchema {
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly additionalProperties?: JsonSchema | boolean;
  readonly items?: JsonSchema;
  readonly anyOf?: readonly JsonSchema[];
}

let jsonSchema: JsonSchema | undefined;

/** Keys that the model knows at a path, found in the same JSON Schema that editors get. */
function knownKeys(path: readonly Segment[]): string[] {
  jsonSchema ??= z.toJSONSchema(configSchema, { io: "input" }) as JsonSchema;
  let nodes: JsonSchema[] = [jsonSchema];
  for (const segment of path) nodes = nodes.flatMap((node) => children(node, segment));
  return [...new Set(nodes.flatMap(spread).flatMap((node) => Object.keys(node.properties ?? {})))];
}

function spread(node: JsonSchema): JsonSchema[] {
  return node.anyOf === undefined ? [node] : node.anyOf.flatMap(spread);
}

function children(parent: JsonSchema, segment: Segment): JsonSchema[] {
  return spread(parent).flatMap((node) => {
    if (typeof segment === "number") return node.items === undefined ? [] : [node.items];
    if (node.properties !== undefined && Object.hasOwn(node.properties, segment))
      return [node.properties[segment] ?? {}];
    return typeof node.additionalProperties === "object" ? [node.additionalProperties] : [];
  });
}
