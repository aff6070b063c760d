import { wrongInput } from "./errors";
import type { StackFile } from "./stackFile";

/** A path below `config` in a stack file. */
export type Where = readonly (string | number)[];

/** Where a VM's own entry is. */
export interface Place {
  where: Where;
  /** Of a member: its group, its number, and how many there are. */
  member?: { group: string; number: number; count: number };
}

const FLEET = "nixvm:fleet";
const GROUPS = "nixvm:groups";

/** Where the fields of a VM are written that are its own; undefined when the stack file declares no such VM. */
export function placeOf(file: StackFile, vm: string): Place | undefined {
  if (file.has([FLEET, vm])) return { where: [FLEET, vm] };
  const [, group = "", digits = ""] = /^(.+)-([1-9][0-9]{0,3})$/.exec(vm) ?? [];
  const count = countOf(file, group);
  const number = Number(digits);
  if (group === "" || number > count) return undefined;
  return { where: memberPlace(file, group, number), member: { group, number, count } };
}

/** As {@link placeOf}, but an unknown VM is an error that names those there are. */
export function declaredPlace(file: StackFile, vm: string): Place {
  const place = placeOf(file, vm);
  if (place) return place;
  const names = declaredNames(file);
  const near = names.filter((one) => one.startsWith(vm) || vm.startsWith(one));
  const hint = near.length === 1 ? `; did you mean ${near[0]}?` : "";
  throw wrongInput("vm", vm, `is no VM of the stack file${hint}`, names.join(", ") || "none, as it has no VMs yet");
}

/** All VMs that the stack file declares, absent ones too, sorted. */
export function declaredNames(file: StackFile): string[] {
  const members = file
    .keys([GROUPS])
    .flatMap((group) => Array.from({ length: countOf(file, group) }, (_, i) => `${group}-${i + 1}`));
  return [...file.keys([FLEET]), ...members].sort();
}

function countOf(file: StackFile, group: string): number {
  const count = group === "" ? 0 : file.get([GROUPS, group, "count"]);
  return typeof count === "number" && Number.isInteger(count) ? Math.min(count, 1000) : 0;
}

/** YAML tells the key 2 from the key "2", people do not. */
function memberPlace(file: StackFile, group: string, number: number): Where {
  const members = [GROUPS, group, "members"];
  return [...members, file.has([...members, number]) ? number : String(number)];
}
