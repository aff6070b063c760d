// test/tables/allowlist.json: what every reader of an allowlist has to make of a list.
import { readFileSync } from "node:fs";
import path from "node:path";
import type { AllowlistConfig, AllowlistPlan } from "../../components/plan";

export interface Kept {
  name: string;
  list: AllowlistConfig;
  /** One text each, sorted by kind and path; see `entryTexts`. */
  entries: string[];
  /** Folders on the way to them, on both sides: owner, mode, path. */
  made?: string[];
  warnings?: string[];
}
export const { kept, refused, lines } = JSON.parse(
  readFileSync(path.resolve(__dirname, "../tables/allowlist.json"), "utf8"),
) as {
  kept: Kept[];
  refused: { name: string; list: AllowlistConfig; faults: string[] }[];
  lines: { name: string; lines: string[] }[];
};

/** Accounts that the lists of the table speak of. */
export const ACCOUNTS = ["zvm", "ann"];

export interface Entry {
  path: string;
  user: string;
  group: string;
  mode: string;
  how: string;
  inInitrd: boolean;
}

export const entryText = (kind: string, { path, user, group, mode, how, inInitrd }: Entry): string =>
  `${kind} ${user}:${group} ${mode} ${how} ${inInitrd ? "initrd" : "later"} ${path}`;

export const entryTexts = ({ directories, files }: AllowlistPlan): string[] => [
  ...directories.map((entry) => entryText("directory", entry)),
  ...files.map((entry) => entryText("file", entry)),
];

/** An entry of the table taken apart again. */
export function parseEntry(text: string): Entry & { kind: string } {
  const [, kind, user, group, mode, how, when, path] = /^(\S+) (\S+):(\S+) (\S+) (\S+) (\S+) (.*)$/s.exec(
    text,
  ) as unknown as string[];
  return { kind: kind!, user: user!, group: group!, mode: mode!, how: how!, inInitrd: when === "initrd", path: path! };
}

/** The line of the plan that the guest reads. */
export function planLine(text: string): string {
  const { kind, path, user, group, mode, how, inInitrd } = parseEntry(text);
  return ["allow", kind, path, user, group, mode, how, inInitrd].join("\t");
}
