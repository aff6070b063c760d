/**
 * One mistake in a stack file. All mistakes are collected before anything is reported, because a newcomer who fixes one
 * at a time needs one `pulumi preview` for each (G-4).
 */
export interface Problem {
  /** Where it is written, as a path below the `nixvm` namespace, such as `fleet.web.persist.size`. Never empty. */
  readonly path: string;
  /** The value found there; `undefined` when it is missing, `"[secret]"` for fields that hold secrets (G-5). */
  readonly value: unknown;
  /** What is wrong with it, as the rest of a sentence that starts with the value: `is not a size`. */
  readonly message: string;
  /** What would be accepted, in words. Empty when the message says it all. */
  readonly allowed: string;
}

/** One segment of a path: a key of a map, or an index of a list. */
export type Segment = string | number;

/** Shown in place of a value that must not appear in a terminal or log. */
export const SECRET = "[secret]";

/** Separates what is wrong from what is allowed in messages of the zod model; `splitAllowed` takes it apart again. */
const ALLOWED = "; allowed: ";

const PLAIN_KEY = /^[A-Za-z_][A-Za-z0-9_-]*$/;

/** Fields whose values are secrets wherever they stand, and the names under which people mistype or misplace them. */
const SECRET_KEY = /(hash|password|passwd|secret|private)/i;

/** Values that are secrets by their look, whatever field they were put in: crypt hashes and private keys. */
const SECRET_VALUE = /^\$[a-z0-9-]+\$|-----BEGIN/i;

/** Builds the text of a message of the model: `is not <what>; allowed: <allowed>`. */
export function wrong(what: string, allowed: string): string {
  return `is not ${what}${ALLOWED}${allowed}`;
}

/** Takes a message of the model apart into what is wrong and what is allowed. */
export function splitAllowed(text: string): { message: string; allowed: string } {
  const at = text.indexOf(ALLOWED);
  return at < 0
    ? { message: text, allowed: "" }
    : { message: text.slice(0, at), allowed: text.slice(at + ALLOWED.length) };
}

/** Writes a path the way it reads in messages: `fleet.web.accounts[0].name`; keys with other characters are quoted. */
export function formatPath(segments: readonly Segment[]): string {
  let text = "";
  for (const segment of segments) {
    if (typeof segment === "number") text += `[${segment}]`;
    else if (!PLAIN_KEY.test(segment)) text += `[${JSON.stringify(segment)}]`;
    else text += text === "" ? segment : `.${segment}`;
  }
  // The root of the config is called by its namespace, so that no problem ever has an empty path.
  return text === "" ? "nixvm" : text;
}

/** Replaces a value by `[secret]` when its field or its look says that it is one. */
export function redact(segments: readonly Segment[], value: unknown): unknown {
  if (value === undefined) return undefined;
  const field = segments.filter((segment) => typeof segment === "string").at(-1);
  if (field !== undefined && SECRET_KEY.test(field)) return SECRET;
  return typeof value === "string" && SECRET_VALUE.test(value) ? SECRET : value;
}

/** Writes a value for a message: short, on one line, and never the inside of a map (it could hold a secret). */
export function showValue(value: unknown): string {
  if (value === undefined) return "";
  if (value === SECRET) return SECRET;
  if (value === null) return "null (nothing after the colon)";
  if (Array.isArray(value)) return value.length === 0 ? "the empty list" : "this list";
  if (typeof value === "object") return "this map";
  const text = JSON.stringify(value);
  return text.length > 80 ? `${text.slice(0, 76)}…"` : text;
}

/** Renders one problem on one line: `fleet.web.persist.size: "2GB" is not a size; allowed: …`. */
export function formatProblem(problem: Problem): string {
  const shown = showValue(problem.value);
  const allowed = problem.allowed === "" ? "" : `${ALLOWED}${problem.allowed}`;
  return `${problem.path}: ${shown === "" ? "" : `${shown} `}${problem.message}${allowed}`;
}

/** Renders all problems as one block that can be read top to bottom. */
export function formatProblems(problems: readonly Problem[]): string {
  if (problems.length === 0) return "";
  const head =
    problems.length === 1
      ? "The stack file has 1 mistake; nothing was changed:"
      : `The stack file has ${problems.length} mistakes; nothing was changed:`;
  return [head, ...problems.map((problem) => `  - ${formatProblem(problem)}`)].join("\n");
}

/** Number of single-character edits between two words; more than `limit` edits count as `limit + 1`. */
function editDistance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) > limit) return limit + 1;
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitute = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substitute, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? limit + 1;
}

/** The known word nearest to a mistyped one, if any is near enough to be what was meant. */
export function didYouMean(word: string, known: Iterable<string>): string | undefined {
  const limit = Math.max(1, Math.min(3, Math.floor(word.length / 3)));
  const lower = word.toLowerCase();
  let best: string | undefined;
  let bestDistance = limit + 1;
  for (const candidate of known) {
    const distance = editDistance(lower, candidate.toLowerCase(), limit);
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best;
}

/** `, did you mean x?` or nothing: goes between what is wrong and what is allowed. */
export function hint(word: unknown, known: Iterable<string>): string {
  const near = typeof word === "string" ? didYouMean(word, known) : undefined;
  return near === undefined ? "" : `, did you mean ${near}?`;
}

/** Lists names for the "allowed" part of a message; a long list is cut, an empty one said to be empty. */
export function listNames(names: Iterable<string>, none: string): string {
  const all = [...names].sort();
  if (all.length === 0) return none;
  return all.length > 40 ? `${all.slice(0, 40).join(", ")} and ${all.length - 40} more` : all.join(", ");
}

/** Collects problems; the first one of a path wins, since later ones are mostly consequences of it. */
export class Problems {
  private readonly byPath = new Map<string, Problem>();

  add(segments: readonly Segment[], value: unknown, message: string, allowed = ""): void {
    const path = formatPath(segments);
    if (!this.byPath.has(path)) this.byPath.set(path, { path, value: redact(segments, value), message, allowed });
  }

  /** In the order found, which is the order of the stack file's sections. */
  get all(): Problem[] {
    return [...this.byPath.values()];
  }
}
