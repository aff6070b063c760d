import type { StackFile } from "./stackFile";

type Where = readonly (string | number)[];

/**
 * Where the fields of one VM are written in a stack file: its entry in the fleet, or that of a member in its group. Undefined when the
 * stack file does not declare it.
 */
export function entryOf(file: StackFile, vm: string): Where | undefined {
  const own = ["nixvm:fleet", vm];
  if (file.has(own)) return own;
  for (const group of file.keys(["nixvm:groups"])) {
    const where = ["nixvm:groups", group];
    const count = Number(file.get([...where, "count"]) ?? 0);
    const n = vm.startsWith(`${group}-`) ? vm.slice(group.length + 1) : "";
    if (!/^[1-9][0-9]*$/.test(n) || Number(n) > count) continue;
    // A number in YAML, unless somebody has put it in quotes; both are the same to those who read it.
    const member = [...where, "members", n];
    return file.has(member) ? member : [...where, "members", Number(n)];
  }
  return undefined;
}

/** Whether a VM is to run, by what is nearest to it: its entry, its group, `defaults`. */
export function declaredRunning(file: StackFile, entry: Where): boolean {
  const layers: Where[] = [entry, ...(entry[0] === "nixvm:groups" ? [entry.slice(0, 2)] : []), ["nixvm:defaults"]];
  const written = layers.map((where) => file.get([...where, "running"])).find((value) => typeof value === "boolean");
  return written ?? true;
}

/** Declares that a VM is to run or to be off. False when it was declared so already, and nothing is to be written. */
export function declareRunning(file: StackFile, entry: Where, running: boolean): boolean {
  if (declaredRunning(file, entry) === running) return false;
  file.set([...entry, "running"], running);
  return true;
}
