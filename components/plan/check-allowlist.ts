import { expand, isKeptByIdentity, keptAnyway, type Listed, mergedEntries } from "./allowlist";
import { formatPath, hint, listNames, type Problems, type Segment } from "./errors";
import type { LayeredVm } from "./layers";
import type { VmConfig } from "./model-vm";
import { PRESET_DEFAULTS } from "./presets";
import type { Scope } from "./scope";
import type { VmPlan } from "./types";

interface Fault {
  readonly message: string;
  readonly allowed: string;
}

/** What is wrong with an entry by itself; the guest and nix/modules/allowlist.nix refuse the same. */
function fault({ written, path, account }: Listed): Fault | undefined {
  const allowed =
    account === null
      ? "an absolute path, such as /var/lib/service; what is in a home goes under users"
      : "a path relative to the home, such as .config/app; others under allowlist.directories or files";
  // A tab or line feed would break the lines that the guest reads, half a surrogate pair has no bytes at all.
  if (/[\p{Cc}\p{Cs}]/u.test(written)) return { message: "is not a path without control characters", allowed };
  if (written === "") return { message: "is not a path", allowed };
  if (account === null && !written.startsWith("/")) return { message: "is not an absolute path", allowed };
  if (account !== null && written.startsWith("~")) return { message: "is not a path without ~", allowed };
  if (written.split("/").some((name) => name === "." || name === ".."))
    return { message: "is not a path without . and ..", allowed };
  if (account === null) return isKeptByIdentity(path) ? undefined : reserved(path);
  return path.startsWith(`/home/${account}/`) ? undefined : { message: `is not in /home/${account}`, allowed };
}

/** Why no list can keep a path, whatever the VM, and what to do instead. */
function reserved(path: string): Fault | undefined {
  if (/^\/(nix|proc|sys|dev|run)(\/|$)/.test(path))
    return { message: "is made anew at each start, by the image or the kernel", allowed: "another path" };
  if (/^\/persist(\/|$)/.test(path))
    return { message: "is on the persistent volume itself", allowed: "the path that programs use, without /persist" };
  if (/^\/home(\/[^/]+)?$/.test(path))
    return {
      message: "is a home as a whole",
      allowed: "home: persistent, which keeps all of /home, or single paths under users",
    };
  // An empty folder over one of these is a guest that does not start.
  if (/^\/(bin|boot|etc|lib|lib64|sbin|usr|var)?$/.test(path))
    return {
      message: "is a part of the system as a whole",
      allowed: "single paths in it, such as /etc/app or /var/lib/app",
    };
  return undefined;
}

/** Checks of a VM's allowlist that need more than one entry, or something besides the list. */
export function checkAllowlist(vm: LayeredVm, plan: VmPlan, scope: Scope): void {
  const written = vm.fields.allowlist;
  if (written === undefined || vm.bad("allowlist")) return;
  const say = (to: Problems, reads: readonly (keyof VmConfig)[], entry: Place, message: string, allowed: string) => {
    if (vm.bad(...reads)) return;
    const path = vm.where("allowlist", ...(entry.at ?? []));
    to.add(path, entry.written, `${message}${vm.remark(path)}`, allowed);
  };
  const refuse = say.bind(null, scope.problems);
  const warn = say.bind(null, scope.warnings);
  const entries = expand(written);
  const names = plan.accounts.map(({ name }) => name);

  for (const name of Object.keys(written.users ?? {})) {
    if (names.includes(name)) continue;
    const allowed =
      name === "root"
        ? "paths such as /root/.ssh under allowlist.directories"
        : listNames(names, "none: add it to accounts");
    const place = { at: ["users", name], written: name };
    refuse(["accounts", "preset"], place, `is not an account of this VM${hint(name, names)}`, allowed);
  }
  const first = new Map<string, Listed>();
  for (const entry of entries) {
    const why = fault(entry);
    if (why !== undefined) {
      refuse([], entry, why.message, why.allowed);
      continue;
    }
    const double = first.get(entry.path);
    if (double !== undefined) {
      const other = formatPath(vm.where("allowlist", ...(double.at ?? [])));
      refuse([], entry, `is listed twice, also as ${other}`, "each path once");
    }
    first.set(entry.path, double ?? entry);
    const owner = /^\/home\/([^/]+)\//.exec(entry.path)?.[1];
    if (entry.account === null && owner !== undefined && !names.includes(owner))
      refuse(
        ["accounts", "preset"],
        entry,
        "is not in the home of an account of this VM",
        listNames(names, "none: add it to accounts"),
      );
  }
  if (entries.length === 0) return;
  if (plan.persist === null) {
    const place = { at: [], written: undefined };
    refuse(
      ["persist", "preset"],
      place,
      "has nothing to keep paths on: there is no persistent volume",
      "a persistent volume, or no list",
    );
    return;
  }
  for (const entry of entries) {
    const kept = isKeptByIdentity(entry.path) ? undefined : keptAnyway(entry.path, plan);
    if (kept !== undefined) warn(["persist", "home", "preset"], entry, `has no effect: ${kept}`, "leave it out");
  }
  overlaps(mergedEntries(written, PRESET_DEFAULTS[plan.preset].allowlist, plan.accounts), refuse, warn);
}

interface Place {
  readonly at: readonly Segment[] | null;
  readonly written: unknown;
}
type Say = (reads: readonly (keyof VmConfig)[], entry: Place, message: string, allowed: string) => void;

/**
 * Entries below others. Two bind mounts are allowed, as in preservation: the inner one is the same folder again, and people
 * write it to give it another owner or mode. Without either it does nothing, which is worth a warning. A link cannot be part
 * of such a pair: seen through the outer mount it would lead to itself.
 */
function overlaps(entries: readonly Listed[], refuse: Say, warn: Say): void {
  const mounted = entries.filter(({ path }) => !isKeptByIdentity(path));
  const byPath = new Map(mounted.map((entry) => [entry.path, entry]));
  for (const inner of mounted) {
    for (let end = inner.path.lastIndexOf("/"); end > 0; end = inner.path.lastIndexOf("/", end - 1)) {
      const outer = byPath.get(inner.path.slice(0, end));
      if (outer === undefined) continue;
      // Said at the entry that the user wrote; the preset's cannot be changed.
      const [place, relation, other] = inner.at === null ? [outer, "above", inner] : [inner, "below", outer];
      if (outer.kind === "file")
        refuse(
          ["preset"],
          place,
          `is ${relation} ${other.path}, and ${outer.path} is listed as a file`,
          "a directory, or other paths",
        );
      else if (inner.how === "symlink" || outer.how === "symlink")
        refuse(
          ["preset"],
          place,
          `is ${relation} ${other.path}, and one of the two is a symlink`,
          "how: bindmount for both, or only the upper one",
        );
      else if (inner.at !== null && inner.bare)
        warn(
          ["preset"],
          inner,
          `is kept with ${outer.path} already`,
          "leave it out, or give it an owner or mode of its own",
        );
      break;
    }
  }
}
