import type { Where } from "./place";
import type { StackFile } from "./stackFile";

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
