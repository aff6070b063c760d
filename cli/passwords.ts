import { PRESET_DEFAULTS, type VmPlan } from "../components/plan";
import type { Method } from "./crypt";
import type { Edit } from "./edits";
import type { Where } from "./place";
import { nearest } from "./sshKeys";
import type { StackFile } from "./stackFile";

/** What a preset's seed document hashes passwords with (Z-77, V-24). */
export function methodOf(vm: Pick<VmPlan, "preset">): Method {
  return vm.preset === "zvm" ? "sha512" : "yescrypt";
}

/** The hash of an account in a plan: null when its password is disabled. */
export function hashIn(vm: VmPlan, account: string): string | null {
  if (account === "root") return vm.rootPasswordHash;
  return vm.accounts.find(({ name }) => name === account)?.passwordHash ?? null;
}

/**
 * Writes an account's hash into a VM's own entry. A list of accounts replaces those below, so where the VM has none of its own the
 * one that holds for it comes along, secrets of the others as encrypted as they are.
 */
export function passwordEdits(
  file: StackFile,
  layers: readonly Where[],
  vm: Pick<VmPlan, "preset">,
  account: string,
  hash: { secure: string } | "",
): Edit[] {
  const own = layers[0] ?? [];
  if (account === "root") return [{ where: [...own, "rootPasswordHash"], value: hash }];
  const mine = file.get([...own, "accounts"]);
  if (Array.isArray(mine)) {
    const index = (mine as { name?: string }[]).findIndex((one) => one?.name === account);
    return [{ where: [...own, "accounts", index, "passwordHash"], value: hash }];
  }
  const inherited = nearest(file, layers.slice(1), "accounts") ?? PRESET_DEFAULTS[vm.preset].accounts;
  const value = (inherited as { name: string }[]).map((one) => ({
    ...one,
    ...(one.name === account ? { passwordHash: hash } : {}),
  }));
  return [{ where: [...own, "accounts"], value }];
}
