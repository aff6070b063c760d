import * as path from "node:path";
import { isDeepStrictEqual } from "node:util";
import { type Command, Option } from "commander";
import { readKeyFiles } from "../../components/keyFiles";
import type { Plan } from "../../components/plan";
import type { Context } from "../context";
import { noteWarnings, planned, saveAndUp } from "../declare";
import { Edited } from "../editedPlan";
import { applyEdits, type Edit } from "../edits";
import { wrongInput, wrongState } from "../errors";
import { table } from "../output";
import { declaredPlace } from "../place";
import {
  addKeyEdits,
  allPlaces,
  isMeant,
  type KeyParts,
  keysOf,
  layersOf,
  removeKeyEdits,
  type Role,
} from "../sshKeys";
import { type Answer, does, verb } from "../verb";

interface Options {
  all: boolean;
  role?: Role;
  yes: boolean;
}

const USAGE = "list, add <key or file:path>, remove <fingerprint or comment>; before it a VM, or --all";

/** `nixvm keys`: SSH keys of accounts, live (T-96, T-97, T-108). */
export function addKeys(program: Command): void {
  does<Options, [string[]]>(
    verb(program, "keys [words...]", `SSH keys of a VM: ${USAGE}`)
      .usage("[options] <vm> list|add|remove [key]")
      .option("--all", "all VMs, instead of one", false)
      .addOption(new Option("--role <role>", "accounts that it is for").choices(["admin", "user"]))
      .addOption(new Option("--yes", "leave a VM without any key without a question").default(false)),
    keys,
  );
}

async function keys(context: Context, options: Options, words: string[]): Promise<Answer> {
  const [vm, action, ...rest] = options.all ? [undefined, ...words] : words;
  // A key is three words, unless it was quoted.
  const what = rest.join(" ").trim();
  if (!options.all && vm === undefined) throw wrongInput("vm", undefined, "is missing", "a VM, or --all");
  if (action !== "list" && action !== "add" && action !== "remove") {
    throw wrongInput("action", action, action === undefined ? "is missing" : "is none", USAGE);
  }
  if (action !== "list" && what === "") throw wrongInput("key", undefined, "is missing", USAGE);
  const edited = await Edited.open(context);
  if (vm !== undefined) declaredPlace(edited.file, vm);
  const before = await edited.plan();
  if (vm !== undefined) planned(before, vm);
  const names = vm === undefined ? before.vms.map(({ name }) => name) : [vm];
  if (action === "list") return list(before, names, options.role);
  const edits =
    action === "add"
      ? await added(context, edited, before, { vm, names, key: what, role: options.role })
      : await removed(context, edited, before, { vm, names, meant: what, role: options.role });
  applyEdits(edited.file, edits);
  return finish(context, edited, before, names, options.yes);
}

function list(of: Plan, names: readonly string[], role: Role | undefined): Answer {
  const rows = keysOf(of, names).filter((key) => role === undefined || key.role === role);
  return {
    json: rows.map(({ blob: _, ...shown }) => shown),
    text: table(
      ["VM", "account", "role", "type", "fingerprint", "comment"],
      rows.map((key) => [key.vm, key.account, key.role, key.type, key.fingerprint, key.comment]),
    ),
  };
}

interface Wanted {
  vm: string | undefined;
  names: readonly string[];
  role: Role | undefined;
}

async function added(
  context: Context,
  edited: Edited,
  before: Plan,
  { vm, names, key, role }: Wanted & { key: string },
): Promise<Edit[]> {
  const entry = key.startsWith("file:") ? `file:${fromProject(context, key.slice(5))}` : key;
  const accounts = before.vms.filter(({ name }) => names.includes(name)).flatMap((one) => one.accounts);
  const roles = [...new Set(accounts.map((account) => account.role))];
  const only = roles.length === 1 ? roles[0] : undefined;
  const forRole = role ?? only;
  if (forRole === undefined) throw wrongInput("--role", undefined, "is missing", roles.join(", ") || "admin, user");
  if (!roles.includes(forRole)) {
    throw wrongState(`${vm ?? "the fleet"} has no account with role ${forRole}`, { field: "--role", value: forRole });
  }
  const { file } = edited;
  if (vm !== undefined) {
    const place = declaredPlace(file, vm);
    if (!file.has([...place.where, `${forRole}Keys`])) {
      context.note(`${vm} has a list of its own from now on: keys that defaults or its group get later are not for it`);
    }
    return addKeyEdits(file, layersOf(place), forRole, entry);
  }
  const own = allPlaces(file).filter(
    (where) => where[0] === "nixvm:defaults" || file.has([...where, `${forRole}Keys`]),
  );
  return own.flatMap((where) => addKeyEdits(file, [where], forRole, entry));
}

/** A path as the stack file has it: from the project's folder, where it is in there. */
function fromProject(context: Context, given: string): string {
  if (given.startsWith("~/")) return given;
  const absolute = context.path(given);
  const relative = path.relative(context.root, absolute);
  return relative.startsWith("..") || path.isAbsolute(relative) ? absolute : relative;
}

async function removed(
  context: Context,
  edited: Edited,
  before: Plan,
  { vm, names, meant, role }: Wanted & { meant: string },
): Promise<Edit[]> {
  const there = keysOf(before, names).filter((key) => role === undefined || key.role === role);
  const found = there.filter((key) => isMeant(key, meant));
  const unique = [...new Map(found.map((key) => [key.blob, key])).values()];
  const shown = (all: readonly KeyParts[]): string =>
    [...new Set(all.map(({ fingerprint, comment }) => `${fingerprint} ${comment}`.trim()))].join(", ");
  const [key, second] = unique;
  if (key === undefined)
    throw wrongInput("key", meant, "is no key that is there", shown(there) || "none: there are no keys");
  if (second !== undefined) throw wrongInput("key", meant, "is more than one key", shown(unique));
  const roles: Role[] = role === undefined ? ["admin", "user"] : [role];
  const expand = async (entry: string): Promise<string[]> => {
    const { config } = await readKeyFiles({ adminKeys: [entry] }, context.root);
    return (config as { adminKeys: string[] }).adminKeys;
  };
  const layers =
    vm === undefined ? allPlaces(edited.file).map((where) => [where]) : [layersOf(declaredPlace(edited.file, vm))];
  const edits = await Promise.all(layers.map((one) => removeKeyEdits(edited.file, one, roles, key, expand)));
  applyEdits(edited.file, edits.flat());
  // Whoever removes a key counts on it.
  const left = keysOf(await edited.plan(), names).filter((one) => roles.includes(one.role) && one.blob === key.blob);
  if (left.length > 0) {
    throw wrongState(`${key.fingerprint} would stay in ${left.map((one) => `${one.vm} (${one.account})`).join(", ")}`);
  }
  return [];
}

/** Says whose keys change, and makes it so for those that are there. */
async function finish(
  context: Context,
  edited: Edited,
  before: Plan,
  names: readonly string[],
  yes: boolean,
): Promise<Answer> {
  const after = await edited.plan();
  noteWarnings(context, before, after);
  const accountsOf = (of: Plan, vm: string) => of.vms.find(({ name }) => name === vm)?.accounts;
  const changed = names.filter((name) => !isDeepStrictEqual(accountsOf(before, name), accountsOf(after, name)));
  const locked = changed.filter((name) => keysOf(after, [name]).length === 0 && keysOf(before, [name]).length > 0);
  const json = { changed };
  if (!edited.file.changed) return { json, text: "nothing to change" };
  const question = `Nobody can log in to ${locked.join(", ")} over SSH then. Go on?`;
  if (locked.length > 0 && !(await context.confirm(question, yes)))
    return { json: { changed: [] }, text: "nothing was changed" };
  const there = new Set((await context.vms()).map(({ name }) => name));
  const live = changed.filter((name) => there.has(name));
  if (live.length === 0) edited.file.save();
  else {
    context.note(`${live.join(", ")}: applied live, no restart`);
    await saveAndUp(context, edited, live);
  }
  return { json, text: changed.length === 0 ? "no VM's keys change" : `keys changed: ${changed.join(", ")}` };
}
