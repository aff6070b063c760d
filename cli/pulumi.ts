import { spawn } from "node:child_process";

/** A Pulumi command that did not succeed; the output says why. */
export class PulumiFailed extends Error {
  constructor(
    readonly args: string[],
    readonly code: number,
  ) {
    super(`pulumi ${args.join(" ")}: exit code ${code}`);
  }
}

/** Shows a command the way a person would type it, runs it on this terminal, and gives back its exit code. */
export function pulumiOnScreen(args: string[], json: boolean, cwd?: string): Promise<number> {
  process.stderr.write(`\n$ pulumi ${args.join(" ")}\n`);
  // With --json the last line of stdout is the result, so what is shown on the way goes to stderr.
  // The engine's event log is one of Pulumi's debug flags.
  const env = { ...process.env, ...(args.includes("--event-log") ? { PULUMI_DEBUG_COMMANDS: "true" } : {}) };
  const child = spawn("pulumi", args, { cwd, env, stdio: ["ignore", json ? 2 : 1, 2] });
  // The terminal sends Ctrl-C to the whole group: the engine stops in order, and so must we wait for it.
  const wait = (): void => undefined;
  process.on("SIGINT", wait);
  return new Promise<number>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve(code ?? (signal === "SIGINT" ? 130 : 1)));
  }).finally(() => process.off("SIGINT", wait));
}

/** As {@link pulumiOnScreen}, but anything but success is an error. */
export async function pulumiMust(args: string[], json: boolean, cwd?: string): Promise<void> {
  const code = await pulumiOnScreen(args, json, cwd);
  if (code !== 0) {
    throw new PulumiFailed(args, code);
  }
}

/** Runs a command silently and gives back what it printed. */
export function pulumiOutput(args: string[], cwd?: string): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn("pulumi", args, { cwd, env: process.env, stdio: ["ignore", "pipe", "pipe"] });
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    child.on("error", reject);
    child.on("close", (code) => resolve({ code: code ?? 1, stdout, stderr }));
  });
}
