import { hint, listNames, Problems, type Segment } from "./errors";
import { isPrefix, prefixOf } from "./names";
import { isBroken, type Parsed } from "./parse";
import type { PlanContext } from "./types";

/** Name of the host that stands in when the stack file names none. */
export const LOCAL_HOST = "local";

/** What every check needs: the config, what is known besides it, and where to put problems. */
export class Scope {
  readonly prefix: string;

  constructor(
    readonly parsed: Parsed,
    readonly context: PlanContext,
    readonly problems: Problems,
    readonly warnings: Problems,
  ) {
    this.prefix = prefixOf(context.project, context.stack);
    if (!isPrefix(this.prefix)) {
      const allowed = "up to 100 letters, digits, dots, _ and - in all";
      problems.add(["project and stack"], this.prefix, "cannot begin the names of files and domains", allowed);
    }
  }

  /** The same, but that warnings go nowhere. */
  unwarned(): Scope {
    return new Scope(this.parsed, this.context, this.problems, new Problems());
  }

  get config(): Parsed["config"] {
    return this.parsed.config;
  }

  /** Names of a section, also of entries that are wrong: a reference to those is not a second mistake. */
  names(section: "hosts" | "images" | "networks"): Set<string> {
    const names = new Set(Object.keys(this.config[section] ?? {}));
    for (const path of this.parsed.broken) {
      const [first, second] = path.split("\0");
      if (first === section && second !== undefined) names.add(second);
    }
    if (section === "hosts" && names.size === 0) names.add(LOCAL_HOST);
    return names;
  }

  /** Whether a section could not be read at all, so that nothing can be said about references to it. */
  unreadable(section: "hosts" | "images" | "networks"): boolean {
    return isBroken(this.parsed, section);
  }

  /** Reports a reference to nothing. */
  checkReference(
    section: "hosts" | "images" | "networks",
    path: readonly Segment[],
    name: string,
    extra: string[] = [],
  ): void {
    const known = [...this.names(section), ...extra];
    if (known.includes(name) || this.unreadable(section)) return;
    const what = section.slice(0, -1);
    const allowed = listNames(known, `none yet: add it to nixvm:${section}`);
    this.problems.add(
      path,
      name,
      `is not ${what === "image" ? "an" : "a"} ${what} of nixvm:${section}${hint(name, known)}`,
      allowed,
    );
  }

  /** The host of a VM or network: as written, or the only one there is. `undefined`, and reported, when it is open. */
  hostOf(path: readonly Segment[], written: string | undefined): string | undefined {
    if (written !== undefined) {
      this.checkReference("hosts", path, written);
      return written;
    }
    const names = [...this.names("hosts")];
    if (names.length === 1 || this.unreadable("hosts")) return names[0];
    this.problems.add(path, undefined, "is missing, and there is more than one host", listNames(names, ""));
    return undefined;
  }
}
