import { type ChildProcess, spawn, type SpawnOptions } from "node:child_process";
import { Cancelled } from "../provider/clock";
import type { Run } from "../provider/run";

/** @throws Cancelled after Ctrl-C. */
export function goOn(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new Cancelled();
}

/**
 * Starts a command in a process group of its own. The terminal sends Ctrl-C to all of the group that we are in: what is needed to put
 * things right must not die of it. Whoever starts it ends it.
 */
export function apart(command: string, args: readonly string[], options: SpawnOptions): ChildProcess {
  return spawn(command, [...args], { ...options, env: { ...process.env, LC_ALL: "C" }, detached: true });
}

/** {@link Run} for calls that must come to their end, whatever is typed. */
export const runApart: Run = (command, args, timeoutMs) =>
  new Promise((resolve) => {
    const child = apart(command, args, { stdio: ["ignore", "pipe", "pipe"] });
    let [stdout, stderr, late] = ["", "", false];
    child.stdout?.setEncoding("utf8").on("data", (text: string) => (stdout += text));
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    const timer = setTimeout(() => {
      late = true;
      child.kill("SIGKILL");
    }, timeoutMs);
    child.on("error", (error: NodeJS.ErrnoException) => {
      clearTimeout(timer);
      const failure = error.code === "ENOENT" ? "missing" : "other";
      resolve({ code: undefined, stdout, stderr: error.message, failure });
    });
    child.on("close", (code) => {
      clearTimeout(timer);
      const failure = late ? { failure: "timeout" as const } : code === null ? { failure: "other" as const } : {};
      resolve({ code: code ?? undefined, stdout, stderr, ...failure });
    });
  });

/** Runs a command to its end, or ends it when the signal aborts; rejects with what it said when it fails. */
export async function must(command: string, args: readonly string[], signal?: AbortSignal): Promise<string> {
  goOn(signal);
  const child = apart(command, args, { stdio: ["ignore", "pipe", "pipe"] });
  const stop = (): void => void child.kill("SIGTERM");
  signal?.addEventListener("abort", stop, { once: true });
  let [stdout, stderr] = ["", ""];
  child.stdout?.setEncoding("utf8").on("data", (text: string) => (stdout += text));
  child.stderr?.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      child.on("error", reject);
      child.on("close", resolve);
    });
    goOn(signal);
    if (code !== 0) throw new Error(`${command} ${args[0]}: ${stderr.trim() || `exit code ${code}`}`);
    return stdout;
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}
