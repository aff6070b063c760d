/** Text that is HTML already. */
export class Html {
  constructor(readonly text: string) {}
}

export type Part = Html | string | number | undefined | readonly Part[];

const ENTITIES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

/** Good between tags and in quoted attributes. */
export const escaped = (text: string): string =>
  text.replace(/\p{Cc}+/gu, " ").replace(/[&<>"']/g, (sign) => ENTITIES[sign] ?? "");

/**
 * A template of HTML: all that is put into it is escaped, unless it was made by a template itself. Undefined is nothing.
 *
 * Not called html: prettier takes what has that name for its own, and adds spaces where each one counts.
 */
export function markup(texts: TemplateStringsArray, ...parts: readonly Part[]): Html {
  return new Html(texts.map((text, index) => text + textOf(parts[index])).join(""));
}

function textOf(part: Part): string {
  if (part === undefined) return "";
  if (part instanceof Html) return part.text;
  if (typeof part === "string" || typeof part === "number") return escaped(String(part));
  return part.map(textOf).join("");
}
