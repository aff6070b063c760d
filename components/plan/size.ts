/** What is said when a size is not one. */
export const SIZE_ALLOWED = "a whole number with KiB, MiB, GiB or TiB, such as 2GiB";

const KIB = 1024;
/** Bytes in one MiB. */
export const MIB = KIB * KIB;
/** Bytes in one GiB. */
export const GIB = KIB * MIB;
const TIB = KIB * GIB;

// The one-letter forms are those of the template seed (T-34: `20G`), and binary as in qemu-img.
const UNITS: ReadonlyMap<string, number> = new Map([
  ["KiB", KIB],
  ["MiB", MIB],
  ["GiB", GIB],
  ["TiB", TIB],
  ["K", KIB],
  ["M", MIB],
  ["G", GIB],
  ["T", TIB],
]);

/** A size as text. Exported as a pattern for the JSON Schema; `parseSize` also checks that it fits a safe integer. */
export const SIZE_PATTERN = /^[1-9][0-9]*(KiB|MiB|GiB|TiB|K|M|G|T)$/;

/** A memory size as text: like a size, or a bare number of MiB (T-33: 4096 means 4 GiB). */
export const MEMORY_PATTERN = /^[1-9][0-9]*(KiB|MiB|GiB|TiB|K|M|G|T)?$/;

/**
 * Bytes of a size such as `2GiB` (or `20G`, T-34); `undefined` when it is not one. Zero, negative numbers, fractions, bare
 * numbers and decimal units (`2GB`) are not sizes: each of them has been read in two ways by somebody.
 */
export function parseSize(text: unknown): number | undefined {
  if (typeof text !== "string" || !SIZE_PATTERN.test(text)) return undefined;
  const digits = /^[0-9]+/.exec(text)?.[0] ?? "";
  const bytes = Number(digits) * (UNITS.get(text.slice(digits.length)) ?? NaN);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** Bytes of a memory size: as `parseSize`, and a bare whole number (or its text) is MiB (T-33). */
export function parseMemory(value: unknown): number | undefined {
  if (typeof value === "number") {
    const bytes = value * MIB;
    return Number.isInteger(value) && value > 0 && Number.isSafeInteger(bytes) ? bytes : undefined;
  }
  if (typeof value === "string" && /^[1-9][0-9]*$/.test(value)) return parseMemory(Number(value));
  return parseSize(value);
}

/** The shortest exact text of a number of bytes: `2GiB`, `1536MiB`; what is no multiple of 1 KiB is given in bytes. */
export function formatSize(bytes: number): string {
  for (const unit of ["TiB", "GiB", "MiB", "KiB"]) {
    const factor = UNITS.get(unit) ?? 1;
    if (bytes !== 0 && bytes % factor === 0) return `${bytes / factor}${unit}`;
  }
  return `${bytes} bytes`;
}

/** What to write in place of a near miss: `2GB` gives `2GiB`, `1.5GiB` gives `1536MiB`. `undefined` for anything else. */
export function suggestSize(value: unknown): string | undefined {
  if (typeof value === "number") return suggestSize(`${value}GiB`);
  if (typeof value !== "string") return undefined;
  const match = /^\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt])?(i?b)?\s*$/i.exec(value);
  const amount = Number(match?.[1]);
  if (match === null || !(amount > 0)) return undefined;
  const unit = (match[2] ?? "g").toUpperCase();
  const bytes = amount * (UNITS.get(unit) ?? NaN);
  return Number.isSafeInteger(bytes) && bytes % KIB === 0 ? formatSize(bytes) : undefined;
}
