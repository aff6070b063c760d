import * as fs from "node:fs";
import * as path from "node:path";
import { isDeepStrictEqual } from "node:util";
import {
  type Document,
  isCollection,
  isMap,
  isScalar,
  parseDocument,
  type ParsedNode,
  stringify,
  type YAMLMap,
} from "yaml";
import { CliError, EXIT, wrongInput } from "./errors";
import { replaceFile } from "./wholeFile";

const CONFLICT = /^(<{7}|={7}|>{7})( |$)/m;

type Where = readonly (string | number)[];

/**
 * A stack file that is edited as a person would edit it: comments, order and all that is not changed stay as they are. Nothing is
 * written before `save`.
 */
export class StackFile {
  private document: Document.Parsed;
  /** What the file holds. */
  private written: string;

  private constructor(
    readonly file: string,
    private readonly before: string,
    private now: string,
  ) {
    this.document = parseDocument(now);
    this.written = before;
  }

  /** @throws CliError when there is none, or it cannot be edited without guessing. */
  static open(file: string): StackFile {
    let text: string;
    try {
      text = fs.readFileSync(file, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
      throw wrongInput(
        "--stack",
        path.basename(file),
        "does not exist",
        `a stack with a file in ${path.dirname(file)}`,
      );
    }
    const conflict = CONFLICT.exec(text);
    if (conflict) {
      const line = text.slice(0, conflict.index).split("\n").length;
      throw new CliError(`${file}:${line}: has a merge conflict in it; resolve it first`, EXIT.input, { field: file });
    }
    const made = new StackFile(file, text, text);
    const [mistake] = made.document.errors;
    if (mistake) throw new CliError(`${file}: ${mistake.message}`, EXIT.input, { field: file });
    return made;
  }

  /** A value below `config`, such as `["nixvm:fleet", "web", "memory"]`; undefined when it is not written. */
  get(where: Where): unknown {
    const found = this.document.getIn(["config", ...where], true) as ParsedNode | undefined;
    return found?.toJS(this.document) as unknown;
  }

  /** Whether something is written there, be it nothing behind a colon. */
  has(where: Where): boolean {
    return this.document.hasIn(["config", ...where]);
  }

  /** Names in a section, in the order in which they stand there. */
  keys(where: Where): string[] {
    const found = this.document.getIn(["config", ...where]);
    return isMap(found) ? found.items.map(({ key }) => String(isScalar(key) ? key.value : key)) : [];
  }

  set(where: Where, value: unknown): void {
    const full = ["config", ...where];
    const wanted = parseDocument(this.now);
    for (let length = 1; length < full.length; length++) {
      // What has nothing behind its colon is an empty map; setIn does not know that.
      const above = full.slice(0, length);
      if (wanted.getIn(above) === null) wanted.setIn(above, wanted.createNode({}));
    }
    const plain = typeof value !== "object" || value === null;
    wanted.setIn(full, plain ? value : wanted.createNode(value));
    this.become(this.spliced(full, value), wanted);
  }

  /** Takes away what is written there; nothing happens when nothing is. */
  delete(where: Where): void {
    const full = ["config", ...where];
    const wanted = parseDocument(this.now);
    // Asked to delete below something that is not there, the library throws.
    if (!wanted.hasIn(full)) return;
    wanted.deleteIn(full);
    this.become(this.without(full), wanted);
  }

  /** The text as it would be written. */
  text(): string {
    return this.now;
  }

  /** Takes over the text of another one. */
  replace(text: string): void {
    this.now = text;
    this.document = parseDocument(text);
  }

  /** Whether it would say something else than when it was opened. */
  get changed(): boolean {
    return this.now !== this.before;
  }

  /** Writes what was changed, all or nothing. The file's mode stays. */
  save(): void {
    if (this.now !== this.written) this.write(this.now);
  }

  /** Puts back what was there when it was opened. */
  restore(): void {
    this.write(this.before);
  }

  private write(text: string): void {
    // Behind a link, which is to stay one.
    const file = fs.realpathSync(this.file);
    replaceFile(file, text, fs.statSync(file).mode);
    this.written = text;
  }

  /** The text that was cut and pasted if it says what is wanted, else what the library makes, which may move comments. */
  private become(spliced: string | undefined, wanted: Document.Parsed): void {
    const same = (text: string): boolean => {
      const made = parseDocument(text);
      return made.errors.length === 0 && isDeepStrictEqual(withoutNulls(made.toJS()), withoutNulls(wanted.toJS()));
    };
    this.now = spliced !== undefined && same(spliced) ? spliced : wanted.toString({ lineWidth: 0 });
    this.document = parseDocument(this.now);
  }

  private spliced(full: Where, value: unknown): string | undefined {
    for (let length = full.length; length > 0; length--) {
      const node = this.document.getIn(full.slice(0, length), true) as ParsedNode | undefined;
      if (node === undefined) continue;
      const rest = full.slice(length);
      if (rest.length === 0) return this.replaced(node, value);
      const added = rest.reduceRight<unknown>((inner, key) => ({ [key]: inner }), value);
      return this.added(full.slice(0, length), node, added);
    }
    return undefined;
  }

  private replaced(node: ParsedNode, value: unknown): string | undefined {
    if (!isScalar(node) || (typeof value === "object" && value !== null) || node.value === null) return undefined;
    const [from, to] = node.range;
    return node.value === value ? this.now : this.now.slice(0, from) + stringify(value).trimEnd() + this.now.slice(to);
  }

  /** `added` at the end of a map, each line as far in as its siblings. */
  private added(where: Where, node: ParsedNode, added: unknown): string | undefined {
    const block = (indent: number): string =>
      stringify(added, { lineWidth: 0 }).trimEnd().replace(/^/gm, " ".repeat(indent));
    if (isMap(node) && node.flow !== true) {
      const indent = this.column(firstOf(node));
      const end = this.lineEnd(this.contentEnd(node));
      return `${this.now.slice(0, end)}\n${block(indent)}${this.now.slice(end)}`;
    }
    const parent = this.document.getIn(where.slice(0, -1), true);
    const pair = isMap(parent)
      ? parent.items.find(({ key }) => isScalar(key) && String(key.value) === where.at(-1))
      : undefined;
    const key = pair?.key as ParsedNode | undefined;
    const empty = isScalar(node) ? node.value === null : isMap(node) && node.items.length === 0;
    if (key === undefined || !empty) return undefined;
    const [from, to] = node.range;
    const cleared = isMap(node) ? this.now.slice(0, from).trimEnd() + this.now.slice(to) : this.now;
    const end = this.lineEnd(key.range[1], cleared);
    return `${cleared.slice(0, end)}\n${block(this.column(key.range[0]) + 2)}${cleared.slice(end)}`;
  }

  private without(full: Where): string | undefined {
    const parent = this.document.getIn(full.slice(0, -1), true);
    if (!isMap(parent) || parent.flow === true) return undefined;
    const pair = parent.items.find(({ key }) => isScalar(key) && String(key.value) === String(full.at(-1)));
    if (pair === undefined) return undefined;
    const key = pair.key as ParsedNode;
    const value = pair.value as ParsedNode | null;
    const from = this.now.lastIndexOf("\n", key.range[0]) + 1;
    const to = this.lineEnd(value && isCollection(value) ? this.contentEnd(value) : (value?.range[1] ?? key.range[1]));
    return this.now.slice(0, from) + this.now.slice(to + 1);
  }

  /** End of what is written in a node, without the comments and empty lines behind it. */
  private contentEnd(node: ParsedNode): number {
    if (!isCollection(node) || node.flow === true || node.items.length === 0) return node.range[1];
    const last = node.items.at(-1) as ParsedNode | { key: ParsedNode; value: ParsedNode | null };
    if (!("key" in last)) return this.contentEnd(last);
    return last.value === null || (isScalar(last.value) && last.value.value === null && last.value.source === "")
      ? last.key.range[1] + 1
      : this.contentEnd(last.value);
  }

  private lineEnd(at: number, text = this.now): number {
    const end = text.indexOf("\n", at);
    return end < 0 ? text.length : end;
  }

  private column(at: number): number {
    return at - (this.now.lastIndexOf("\n", at - 1) + 1);
  }
}

function firstOf(map: YAMLMap.Parsed): number {
  return map.items[0]?.key?.range[0] ?? map.range[0];
}

/** `web:` and `web: {}` are the same to everybody who reads a stack file, and so is a section that is not there. */
function withoutNulls(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutNulls);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [key, isEmpty(inner) ? null : withoutNulls(inner)] as const),
  );
}

const isEmpty = (value: unknown): boolean =>
  value === null || (typeof value === "object" && Object.keys(value).length === 0);
