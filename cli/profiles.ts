import * as fs from "node:fs";
import * as path from "node:path";
import { wrongInput } from "./errors";

/** The profile that is built when none is named. */
export const DEFAULT_PROFILE = "core";

/** A profile is one file of nix/profiles; its name is the image's. */
export interface Profile {
  name: string;
  file: string;
  /** First sentence of the comment at the file's beginning. */
  about: string;
}

/** Folder of the flake with the profiles. */
export function flakeFolder(root: string): string {
  return path.join(root, "nix");
}

/** All profiles, also those that somebody has added. */
export function profilesOf(root: string): Profile[] {
  const folder = path.join(flakeFolder(root), "profiles");
  const names = fs.existsSync(folder) ? fs.readdirSync(folder).filter((name) => name.endsWith(".nix")) : [];
  return names.sort().map((name) => {
    const file = path.join(folder, name);
    return { name: name.slice(0, -".nix".length), file, about: aboutOf(fs.readFileSync(file, "utf8")) };
  });
}

function aboutOf(text: string): string {
  const lines = text.split("\n");
  const end = lines.findIndex((line) => !line.startsWith("#"));
  const comment = lines.slice(0, end < 0 ? lines.length : end).map((line) => line.replace(/^#\s?/, ""));
  const [sentence = ""] = comment.join(" ").split(/(?<=\.)\s/);
  // Ids of the requirements are of no use to who chooses.
  return sentence.replace(/ \([A-Z]-?[0-9 A-Za-z,-]+\)/g, "").trim();
}

/** @throws CliError for a name that is no profile */
export function profileOf(root: string, name: string): Profile {
  const profiles = profilesOf(root);
  const found = profiles.find((one) => one.name === name);
  if (found) return found;
  throw wrongInput(
    "--profile",
    name,
    "is no profile",
    profiles.map((one) => one.name).join(", ") || "none: there is no nix/profiles",
  );
}

/** What the stack file would name to use it. */
export function flakeOf(root: string, profile: Profile): string {
  return `${flakeFolder(root)}#${profile.name}`;
}
