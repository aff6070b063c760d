import { z } from "zod";
import { wrong } from "./errors";
import * as leaf from "./leaf";
import * as text from "./text";

/*
 * The list of paths that outlive a restart, in the shape of the `preservation` module for NixOS (C-12), so that one list
 * serves a stack file and a NixOS configuration. Only its shape is here; paths are checked in check-allowlist.ts.
 */

/** Owner of an entry: an account of the stack file or of the image; systems use capitals and digits too. */
const OWNER_PATTERN = /^[A-Za-z_][A-Za-z0-9_-]{0,31}$/;

/** Any text: what is wrong with a path is said together with what is wrong between paths, all at once. */
const path = () => z.string({ error: wrong("a path", "a text such as /var/lib/service") });

const attributes = (mode: string) => ({
  /** P-18, P-30. */
  user: leaf
    .word(OWNER_PATTERN, "an account name", "the name of an account")
    .optional()
    .describe("Account that owns it. Default root; below users that user."),
  /** P-30. */
  group: leaf
    .word(OWNER_PATTERN, "a group name", "the name of a group")
    .optional()
    .describe("Group that it belongs to. Default root; below users the group of that user."),
  /** P-15, P-18, P-30. A number is refused: YAML reads 0700 as another one. */
  mode: leaf
    .word(/^[0-7]{3,4}$/, "a mode", 'three or four octal digits in quotes, such as "0700"')
    .optional()
    .describe(`Access mode, in quotes. Default "${mode}". Set again at every start, never on what is inside.`),
  /** C-12. */
  how: leaf
    .choice(["bindmount", "symlink"], "a way to keep a path")
    .optional()
    .describe(
      "bindmount (default): mounted from the persistent volume, made empty if it is not there. symlink: a link to there; a file is not made, so that a program can find it missing.",
    ),
  /** P-32. */
  inInitrd: leaf
    .bool()
    .optional()
    .describe(
      "Whether a NixOS image that keeps this list itself does so before the system starts. Default false. The list of a stack file is always applied that early.",
    ),
});

function lists(inHome: boolean, where: string) {
  const sample = inHome ? ".ssh" : "/var/lib/service";
  return {
    directories: leaf
      .list(
        z.union(
          [
            path(),
            leaf.keys(
              { directory: path().describe(`Path, ${where}.`), ...attributes("0755") },
              "directory, user, group, mode, how and inInitrd",
            ),
          ],
          { error: wrong("a directory to keep", `a path, or a map such as { directory: ${sample}, mode: "0700" }`) },
        ),
        `paths, such as [${sample}]`,
      )
      .optional()
      .describe(`Directories to keep, with all that is in them; ${where}.`),
    files: leaf
      .list(
        z.union(
          [
            path(),
            leaf.keys(
              { file: path().describe(`Path, ${where}.`), ...attributes("0644") },
              "file, user, group, mode, how and inInitrd",
            ),
          ],
          { error: wrong("a file to keep", `a path, or a map such as { file: ${sample}, mode: "0600" }`) },
        ),
        "paths",
      )
      .optional()
      .describe(
        `Files to keep; ${where}. A program that replaces its file instead of writing to it needs the directory.`,
      ),
  };
}

/** V-13 to V-20, P-14 to P-18, C-12. */
export const allowlist = leaf
  .keys(
    {
      ...lists(false, "absolute"),
      users: z
        .record(
          leaf.word(text.ACCOUNT_PATTERN, "an account name", text.ACCOUNT_ALLOWED),
          leaf.keys(lists(true, "relative to the home"), "directories and files"),
          { error: wrong("a map", "a map from account names to directories and files") },
        )
        .optional()
        .describe("What to keep in homes, by account."),
    },
    "directories, files and users",
  )
  .describe(
    "Paths that outlive a restart where the root or /home is not kept, in the shape of the NixOS module preservation. Adds to the preset's list; an entry for the same path replaces the preset's. The SSH host key, machine id and password hashes are kept without being listed.",
  );

/** A list as written. */
export type AllowlistConfig = z.infer<typeof allowlist>;
