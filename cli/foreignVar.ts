import { ACCOUNT_PATTERN } from "../components/plan/text";

/**
 * What has to be changed in a /var of nixos-vm-template for a guest of ours, as commands of debugfs. Pure; whoever calls runs them, on a
 * copy.
 */

/** An entry of a folder. */
export interface Entry {
  name: string;
  folder: boolean;
  uid: number;
}

/** Folders that {@link fitting} looks at. */
export const FOLDERS = ["/", "/identity", "/lib", "/lib/identity", "/lib/nixvm", "/home"] as const;
export type Folders = Readonly<Record<(typeof FOLDERS)[number], readonly Entry[]>>;

/** Reads what `ls -p` of debugfs prints: `/inode/mode/uid/gid/name/size/`. */
export function listing(text: string): Entry[] {
  return text.split("\n").flatMap((line) => {
    const [, inode, mode, uid, , name] = line.split("/");
    if (!inode || !/^[1-9]\d*$/.test(inode) || !mode || !uid || !name || name === "." || name === "..") return [];
    return [{ name, folder: (parseInt(mode, 8) & 0o170000) === 0o040000, uid: Number(uid) }];
  });
}

/** How it is to be fitted. */
export interface Wanted {
  /** Names of the accounts that the guest will have. */
  accounts: readonly string[];
  /** It is to have another SSH host key than it had. */
  newIdentity: boolean;
  /** The machine config directory has the SSH host key. */
  keyInDirectory: boolean;
}

/** What is to be done. */
export interface Fitting {
  /** Commands of debugfs; they find `uids` in a file of that name. */
  commands: string[];
  /** Lines of the guest's list of account numbers; empty when there is nothing to write. */
  uids: string;
  /** Where the SSH host key comes from; from the directory it has still to be written to /lib/identity. Left out: from neither. */
  keyFrom?: "disk" | "directory";
  /** What a user should know. */
  notes: string[];
}

/** The name of the SSH host key, there and here. */
export const HOST_KEY = "ssh_host_ed25519_key";

/** Commands after which a file belongs to root, with that mode. */
export function ownedByRoot(file: string, mode: string): string[] {
  return [`mode 0100${mode}`, "uid 0", "gid 0"].map((field) => `set_inode_field ${file} ${field}`);
}

/** What makes a guest of ours find its SSH host key, and its accounts their files. */
export function fitting(found: Folders, want: Wanted): Fitting {
  const has = (folder: keyof Folders, name: string): boolean => found[folder].some((entry) => entry.name === name);
  const commands: string[] = [];
  const notes: string[] = [];
  const folder = (at: string, mode: string): void =>
    void commands.push(`mkdir ${at}`, `set_inode_field ${at} mode 040${mode}`);
  if (!has("/", "lib")) folder("/lib", "755");
  if (!has("/lib", "identity")) folder("/lib/identity", "700");

  let keyFrom: Fitting["keyFrom"];
  const places = ["/identity", "/lib/identity"] as const;
  if (want.newIdentity) {
    // A second VM with the key of the first could pass for it.
    for (const at of places) {
      for (const name of [HOST_KEY, `${HOST_KEY}.pub`]) if (has(at, name)) commands.push(`rm ${at}/${name}`);
    }
  } else if (!has("/lib/identity", HOST_KEY)) {
    if (has("/identity", HOST_KEY)) {
      keyFrom = "disk";
      // One file, under another name: its content is never read. debugfs does not count links, so the count stays right.
      for (const name of [HOST_KEY, `${HOST_KEY}.pub`].filter((one) => has("/identity", one))) {
        if (has("/lib/identity", name)) commands.push(`rm /lib/identity/${name}`);
        commands.push(`ln /identity/${name} /lib/identity/${name}`, `unlink /identity/${name}`);
      }
      commands.push(...ownedByRoot(`/lib/identity/${HOST_KEY}`, "600"));
    } else if (want.keyInDirectory) {
      keyFrom = "directory";
    } else {
      notes.push("there is no SSH host key yet: the guest makes one");
    }
  }

  const numbers = accountNumbers(found["/home"], want.accounts);
  const uids = has("/lib/nixvm", "uids") ? "" : numbers.uids;
  notes.push(...numbers.notes);
  if (uids !== "") {
    if (!has("/lib", "nixvm")) folder("/lib/nixvm", "700");
    commands.push("cd /lib/nixvm", "write uids uids", "cd /", ...ownedByRoot("/lib/nixvm/uids", "644"));
  }
  return { commands, uids, notes, ...(keyFrom === undefined ? {} : { keyFrom }) };
}

/**
 * Numbers of accounts by the owners of their homes: a guest of ours gives an account the number in this list, and no new account one
 * that is in it. So files stay with whom they belong to, and none of them has to be touched.
 */
function accountNumbers(homes: readonly Entry[], accounts: readonly string[]): { uids: string; notes: string[] } {
  const notes: string[] = [];
  const taken = new Map<number, string>();
  const folders = homes.filter((entry) => entry.folder && ACCOUNT_PATTERN.test(entry.name));
  // Accounts first: whoever else has a home there must not take their numbers.
  const sorted = [...folders].sort(
    (a, b) => Number(accounts.includes(b.name)) - Number(accounts.includes(a.name)) || (a.name < b.name ? -1 : 1),
  );
  for (const { name, uid } of sorted) {
    const other = taken.get(uid);
    if (uid >= 1000 && uid < 60_000 && other === undefined) {
      taken.set(uid, name);
    } else if (accounts.includes(name)) {
      const why = other === undefined ? `belongs to user number ${uid}` : `has the same owner as that of ${other}`;
      notes.push(`/var/home/${name} ${why}: the account ${name} gets another number, so change the owner in the guest`);
    }
  }
  const lines = [...taken].sort(([a], [b]) => a - b).map(([uid, name]) => `${uid} ${name}\n`);
  return { uids: lines.join(""), notes };
}
