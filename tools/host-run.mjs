// Starting other programs, with a limit in time, and never waiting for somebody to type.
import { spawn } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { join } from "node:path";

/** Full path of a program on PATH or in the folders for daemons, which a user's PATH often lacks. */
export function findProgram(name, path = process.env.PATH ?? "") {
  for (const dir of [...path.split(":"), "/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"]) {
    if (!dir) continue;
    try {
      accessSync(join(dir, name), constants.X_OK);
      return join(dir, name);
    } catch {
      // Not in this folder.
    }
  }
  return undefined;
}

/** Runs a program to its end: {code, out, err, timedOut}. Killed after `ms`. Never throws but for a program that is missing. */
export function run(command, args, { ms = 30_000, env } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], env: env ?? process.env });
    let out = "";
    let err = "";
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      child.kill("SIGKILL");
    }, ms);
    child.stdout.on("data", (data) => (out += data));
    child.stderr.on("data", (data) => (err += data));
    child.on("error", (error) => {
      clearTimeout(timer);
      reject(error.code === "ENOENT" ? new Error(`${command} is not installed or not on PATH`) : error);
    });
    child.on("close", (code) => {
      clearTimeout(timer);
      resolve({ code, out, err, timedOut });
    });
  });
}

/** One virsh call: same result as {@link run}, with `why` (one line) when it failed. */
export async function virsh(uri, args, { ms = 30_000 } = {}) {
  // LC_ALL: the text of errors is shown and compared, so it must not depend on the user's language.
  const result = await run("virsh", ["-q", "-c", uri, ...args], { ms, env: { ...process.env, LC_ALL: "C.UTF-8" } });
  const lines = result.err.split("\n").map((line) => line.replace(/^error: /, "").trim());
  const why = result.timedOut
    ? `no answer within ${ms / 1000} s`
    : (lines.filter(Boolean).at(-1) ?? `virsh ended with ${result.code}`);
  return { ...result, ok: result.code === 0, why: result.code === 0 ? "" : why };
}

/** Names printed one a line by a virsh list call. */
export async function virshNames(uri, args) {
  const result = await virsh(uri, args);
  if (!result.ok) throw new Error(`virsh ${args.join(" ")} on ${uri}: ${result.why}`);
  return result.out
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean);
}
