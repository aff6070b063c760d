import { createHash } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import type { Plan } from "../components/plan";
import type { Edit } from "./edits";
import type { Place, Where } from "./place";
import type { StackFile } from "./stackFile";

export type Role = "admin" | "user";

/** A public key, taken apart. */
export interface KeyParts {
  type: string;
  /** The key itself, in base64. */
  blob: string;
  comment: string;
  /** As `ssh-keygen -l` prints it. */
  fingerprint: string;
}

export function partsOfKey(key: string): KeyParts {
  const [, type = "", blob = "", comment = ""] = /^(\S+)\s+(\S+)\s*(.*)$/.exec(key.trim()) ?? [];
  const digest = createHash("sha256").update(Buffer.from(blob, "base64")).digest("base64");
  return { type, blob, comment, fingerprint: `SHA256:${digest.replace(/=+$/, "")}` };
}

/** Who may log in to a VM with what. */
export function keysOf(of: Plan, vms: readonly string[]): (KeyParts & { vm: string; account: string; role: Role })[] {
  return of.vms
    .filter(({ name }) => vms.includes(name))
    .flatMap((vm) =>
      vm.accounts.flatMap(({ name, role, authorizedKeys }) =>
        authorizedKeys.map((key) => ({ vm: vm.name, account: name, role, ...partsOfKey(key) })),
      ),
    );
}

/** Whether a key is the one meant: by its fingerprint, its comment, or itself. */
export function isMeant(key: KeyParts, meant: string): boolean {
  const wanted = meant.trim();
  return [key.fingerprint, key.comment, key.blob].includes(wanted) || partsOfKey(wanted).blob === key.blob;
}

/** Reads an entry of a list of keys: `file:<path>` stands for those in a file. */
export type Expand = (entry: string) => Promise<string[]>;

/** Places that a VM's fields come from, the nearest first. */
export function layersOf({ where, member }: Place): Where[] {
  return [where, ...(member === undefined ? [] : [["nixvm:groups", member.group]]), ["nixvm:defaults"]];
}

/** Every place of a stack file in which fields of VMs can be written. */
export function allPlaces(file: StackFile): Where[] {
  const groups = file.keys(["nixvm:groups"]).map((group) => ["nixvm:groups", group]);
  const members = groups.flatMap((group) =>
    file.keys([...group, "members"]).map((n) => {
      const where = [...group, "members"];
      return file.has([...where, Number(n)]) ? [...where, Number(n)] : [...where, n];
    }),
  );
  return [["nixvm:defaults"], ...file.keys(["nixvm:fleet"]).map((vm) => ["nixvm:fleet", vm]), ...groups, ...members];
}

/** What is written for a field, in the nearest place that has it. */
export function nearest(file: StackFile, layers: readonly Where[], field: string): unknown {
  return layers.map((layer) => file.get([...layer, field])).find((value) => value !== undefined && value !== null);
}

/** Adds a key to a list in the first of the layers. The whole list comes along, since a list of one's own replaces those below. */
export function addKeyEdits(file: StackFile, layers: readonly Where[], role: Role, key: string): Edit[] {
  const field = `${role}Keys`;
  const now = nearest(file, layers, field);
  const list = Array.isArray(now) ? (now as unknown[]) : [];
  return list.includes(key) ? [] : [{ where: [...(layers[0] ?? []), field], value: [...list, key] }];
}

/** Takes a key out of whatever the layers say, by what it then says in the first of them. */
export async function removeKeyEdits(
  file: StackFile,
  layers: readonly Where[],
  roles: readonly Role[],
  { blob }: Pick<KeyParts, "blob">,
  expand: Expand,
): Promise<Edit[]> {
  const own = layers[0] ?? [];
  const edits: Edit[] = [];
  const change = (field: string, now: unknown, value: unknown): void => {
    if (!isDeepStrictEqual(now, value)) edits.push({ where: [...own, field], value });
  };
  for (const role of roles) {
    const now = nearest(file, layers, `${role}Keys`);
    if (Array.isArray(now)) change(`${role}Keys`, now, await without(now as unknown[], blob, expand));
  }
  const accounts = nearest(file, layers, "accounts");
  if (Array.isArray(accounts)) {
    const kept = (accounts as Record<string, unknown>[]).map(async (account) => {
      const keys: unknown = account?.["authorizedKeys"];
      const meant = roles.includes(account?.["role"] as Role) && Array.isArray(keys);
      return meant ? { ...account, authorizedKeys: await without(keys as unknown[], blob, expand) } : account;
    });
    change("accounts", accounts, await Promise.all(kept));
  }
  return edits;
}

/** A list without a key. A file that has it is replaced by what else is in it: the file itself may be used elsewhere. */
async function without(list: readonly unknown[], blob: string, expand: Expand): Promise<unknown[]> {
  const kept = list.map(async (entry) => {
    if (typeof entry !== "string") return [entry];
    const keys = await expand(entry);
    const others = keys.filter((key) => partsOfKey(key).blob !== blob);
    return others.length === keys.length ? [entry] : others;
  });
  return (await Promise.all(kept)).flat();
}
