// The libvirt provider in a coat that ends it with its parent.
//
// The bridge starts the Terraform provider as a process of its own, and the engine ends the bridge with a signal that the
// bridge cannot pass on: each pulumi command would leave one provider process behind, connected to libvirt for good.
import { existsSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { writeAtomically } from "./files.mjs";
import { PARTS } from "./parts.mjs";

const HOME = "pulumi/dynamic_tf_plugins/";
/** Where the bridge is told to look: same layout, scripts for binaries. */
export const REAPER_DIR = "tf-plugins";

const part = PARTS.find(({ name }) => name === "libvirt");

/** Writes the script where it is missing or another one. */
export function ensureReaper(root) {
  const inside = part.file.slice(HOME.length);
  const script = join(root, ".nixvm", REAPER_DIR, inside);
  const up = "../".repeat(inside.split("/").length);
  const text = `#!/bin/sh\n# Made by tools/reaper.mjs, which says why.\nhere=$(dirname "$0")\nexec setpriv --pdeathsig TERM -- "$here/${up}${part.file}" "$@"\n`;
  if (!existsSync(script) || readFileSync(script, "utf8") !== text) writeAtomically(script, text, 0o755);
  return basename(script);
}
