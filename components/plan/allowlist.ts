import type { Segment } from "./errors";
import type { AllowlistConfig } from "./model-allowlist";
import type { AllowlistEntry, AllowlistPlan, VmPlan } from "./types";

/** An entry with its path written out, and where it comes from. */
export interface Listed extends AllowlistEntry {
  readonly kind: "directory" | "file";
  /** Place below `allowlist`; `null` for an entry of the preset. */
  readonly at: readonly Segment[] | null;
  /** The path as written. */
  readonly written: string;
  /** Account under whose name it is written; `null` at the top level. */
  readonly account: string | null;
  /** Whether it says nothing but its path. */
  readonly bare: boolean;
}

type Item = NonNullable<AllowlistConfig["directories"]>[number] | NonNullable<AllowlistConfig["files"]>[number];

/** Every entry of a list, in the order written, paths absolute and defaults as in preservation. */
export function expand(list: AllowlistConfig, preset = false): Listed[] {
  const read =
    (account: string | null, kind: Listed["kind"], at: readonly Segment[]) => (item: Item, index: number) => {
      const key = typeof item === "string" ? [index] : [index, kind];
      const { directory, file, ...said } = (typeof item === "string" ? { directory: item } : item) as {
        directory?: string;
        file?: string;
      } & Partial<AllowlistEntry>;
      const written = directory ?? file ?? "";
      // Another owner does not bring another group, as in preservation: both defaults follow from where the entry stands.
      const owner = account ?? "root";
      return {
        kind,
        at: preset ? null : [...at, ...key],
        written,
        account,
        bare: Object.keys(said).length === 0,
        path: absolute(written, account),
        user: said.user ?? owner,
        group: said.group ?? owner,
        mode: (said.mode ?? (kind === "directory" ? "0755" : "0644")).padStart(4, "0"),
        how: said.how ?? "bindmount",
        inInitrd: said.inInitrd ?? false,
      } as const;
    };
  return [[null, list] as const, ...Object.entries(list.users ?? {})].flatMap(([account, { directories, files }]) => {
    const at = account === null ? [] : ["users", account];
    return [
      ...(directories ?? []).map(read(account, "directory", [...at, "directories"])),
      ...(files ?? []).map(read(account, "file", [...at, "files"])),
    ];
  });
}

function absolute(written: string, account: string | null): string {
  const path = written.replace(/\/+/g, "/").replace(/(?<=.)\/$/, "");
  return account === null || path.startsWith("/") ? path : `/home/${account}/${path}`;
}

/**
 * The entries of a VM: those of its preset and those of the stack file, by path. Both hold, as the preset's list is what
 * its document needs to work; for the same path the stack file wins, so that a mode can be changed.
 */
export function mergedEntries(
  written: AllowlistConfig,
  preset: AllowlistConfig,
  accounts: VmPlan["accounts"],
): Listed[] {
  // The preset speaks of its own account; what it keeps there is kept for whoever works on the VM instead (P-19).
  const [homes] = Object.values(preset.users ?? {});
  const users = homes === undefined ? {} : Object.fromEntries(accounts.map(({ name }) => [name, homes]));
  const byPath = new Map<string, Listed>();
  for (const entry of [...expand({ ...preset, users }, true), ...expand(written)]) byPath.set(entry.path, entry);
  return [...byPath.values()];
}

/** Kept under a path of their own and never mounted (C-13, C-14, C-18): sshd and systemd are told that path instead. */
export function isKeptByIdentity(path: string): boolean {
  return /^\/etc\/machine-id$|^\/etc\/ssh(\/ssh_host_ed25519_key(\.pub)?)?$|^\/persist\/passwords(\/[^/]+)?$/.test(
    path,
  );
}

/** Why a path outlives a restart without any list; `undefined` when it does not. */
export function keptAnyway(path: string, { persist, home }: Pick<VmPlan, "persist" | "home">): string | undefined {
  if (persist !== null && path.startsWith(`${persist.mount}/`)) return `the persistent volume is ${persist.mount}`;
  if (home.mode === "persistent" && path.startsWith("/home/")) return "home is persistent";
  return undefined;
}

/** What the guest has to do: nothing for entries that are kept in another way, parents before what is in them. */
export function planAllowlist(entries: readonly Listed[], vm: Pick<VmPlan, "persist" | "home">): AllowlistPlan {
  const wanted =
    vm.persist === null
      ? []
      : entries.filter(({ path }) => !isKeptByIdentity(path) && keptAnyway(path, vm) === undefined);
  const of = (kind: Listed["kind"]): AllowlistEntry[] =>
    wanted
      .filter((entry) => entry.kind === kind)
      // By bytes, as Nix sorts: the same list has to come out on both sides.
      .sort((a, b) => Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)))
      .map(({ path, user, group, mode, how, inInitrd }) => ({ path, user, group, mode, how, inInitrd }));
  return { directories: of("directory"), files: of("file") };
}
