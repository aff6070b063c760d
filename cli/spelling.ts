import * as plan from "../components/plan";

/** Sizes as the stack file spells them: `20G` is 20GiB. What is none is left as it is, for the planner to refuse by name. */
export function sizeSpelling(given: string): string {
  const bytes = plan.parseSize(given);
  return bytes === undefined ? given : plan.formatSize(bytes);
}

/** As {@link sizeSpelling}; a bare number is MiB (T-33). */
export function memorySpelling(given: string): string {
  const bytes = plan.parseMemory(given);
  return bytes === undefined ? given : plan.formatSize(bytes);
}

/** A number as a number, and anything else as it is. */
export function numberSpelling(given: string): string | number {
  return /^[0-9]{1,9}$/.test(given) ? Number(given) : given;
}
