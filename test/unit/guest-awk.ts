// The awks that the guest scripts meet, as far as this machine has them: Debian's mawk, NixOS's gawk, and busybox.
import { spawnSync } from "node:child_process";
import path from "node:path";
import { guestDir } from "./guest-sandbox";

export const AWKS = ["mawk", "gawk", "busybox awk"].filter((awk) => run(awk, ["BEGIN { exit 0 }"]).status === 0);

function run(awk: string, args: string[], input?: Buffer) {
  const [command, ...first] = awk.split(" ") as [string, ...string[]];
  return spawnSync(command, [...first, ...args], {
    input,
    maxBuffer: 1 << 28,
    env: { PATH: process.env["PATH"], LC_ALL: "C" },
  });
}

/** What a program of the guest's awk files (or of text that begins with a line break) prints. It has to end well, without a word on the side. */
export function awkOutput(awk: string, programs: string[], args: string[], input?: Buffer): string {
  const files = programs.flatMap((name) => ["-f", path.isAbsolute(name) ? name : path.join(guestDir, name)]);
  const { status, stdout, stderr } = run(awk, [...files, ...args], input);
  if (status !== 0 || stderr.length > 0) throw new Error(`${awk} ended with ${status}: ${stderr.toString()}`);
  return stdout.toString();
}
