import { isDeepStrictEqual } from "node:util";
import type { Place, Where } from "./place";
import type { StackFile } from "./stackFile";

/** One change of a stack file; without a value, what is written there is taken away. */
export interface Edit {
  where: Where;
  value?: unknown;
}

/** Makes changes in the order given. */
export function applyEdits(file: StackFile, edits: readonly Edit[]): void {
  for (const { where, value } of edits) {
    if (value === undefined) file.delete(where);
    else if (!isDeepStrictEqual(file.get(where), value)) file.set(where, value);
  }
}

/** Fields of a VM that verbs write. */
export interface Shape {
  image?: string;
  memory?: string | number;
  vcpus?: string | number;
  size?: string;
  network?: unknown;
}

/** Changes of a VM's own entry; what is not given stays as it is. */
export function shapeEdits(where: Where, { size, ...fields }: Shape): Edit[] {
  const own = Object.entries(fields).filter(([, value]) => value !== undefined);
  return [
    ...own.map(([field, value]) => ({ where: [...where, field], value })),
    ...(size === undefined ? [] : [{ where: [...where, "persist", "size"], value: size }]),
  ];
}

/** An entry of the fleet that is not there yet. */
export function newEntryEdits(name: string, { size, ...fields }: Shape): Edit[] {
  const own = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
  return [{ where: ["nixvm:fleet", name], value: { ...own, ...(size === undefined ? {} : { persist: { size } }) } }];
}

/** Leaves a VM's entry, and nothing else of it. */
export function absentEdits({ where }: Place): Edit[] {
  return [{ where: [...where, "state"], value: "absent" }];
}

/** Brings back what is absent. `inherited`: its group or the defaults say that it is. */
export function presentEdits({ where }: Place, inherited: boolean): Edit[] {
  return [inherited ? { where: [...where, "state"], value: "present" } : { where: [...where, "state"] }];
}

/** Takes a VM's entry away. Of a group only the last member can go: the others would get its name. */
export function purgeEdits(file: StackFile, { where, member }: Place): Edit[] {
  if (member === undefined) return [{ where }];
  const group = ["nixvm:groups", member.group];
  const members = [...group, "members"];
  // A section with nothing in it would be none that a group can have.
  const alone = file.has(where) && file.keys(members).length === 1;
  return [{ where: alone ? members : where }, { where: [...group, "count"], value: member.count - 1 }];
}

/** Begins anew with other disks. */
export function generationEdits({ where }: Place, generation: number): Edit[] {
  return [{ where: [...where, "generation"], value: generation }];
}

/** Lets go of a VM's data, which Pulumi would refuse to delete, or leave on the host. */
export function unprotectEdits({ where }: Place): Edit[] {
  return ["protect", "retain"].map((field) => ({ where: [...where, "persist", field], value: false }));
}
