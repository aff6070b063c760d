import { execFile } from "node:child_process";

/** What a finished command left behind. */
export interface RunResult {
  /** Exit code; undefined when the command could not be started or was ended by its time limit. */
  code: number | undefined;
  stdout: string;
  stderr: string;
  /** `missing`: no such executable on PATH. `timeout`: ended by the time limit. */
  failure?: "missing" | "timeout" | "other";
}

/** Starts a command without a shell and never rejects. */
export type Run = (command: string, args: readonly string[], timeoutMs: number) => Promise<RunResult>;

/** What Pulumi has in the environment of the program and of providers, and no command that they start has to know: secrets in clear. */
const withheld = new Set(["PULUMI_CONFIG", "PULUMI_CONFIG_PASSPHRASE", "PULUMI_ACCESS_TOKEN"]);

/** Environment of a command that is started. LC_ALL=C because its output is read by programs. */
export function commandEnv(own: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  return { ...Object.fromEntries(Object.entries(own).filter(([name]) => !withheld.has(name))), LC_ALL: "C" };
}

/** The real one. */
export const run: Run = (command, args, timeoutMs) =>
  new Promise((resolve) => {
    const options = {
      timeout: timeoutMs,
      killSignal: "SIGKILL" as const,
      maxBuffer: 16 * 2 ** 20,
      env: commandEnv(),
    };
    execFile(command, [...args], options, (error, stdout, stderr) => {
      if (!error) return resolve({ code: 0, stdout, stderr });
      if (typeof error.code === "number") return resolve({ code: error.code, stdout, stderr });
      const failure =
        (error as NodeJS.ErrnoException).code === "ENOENT" ? "missing" : error.killed ? "timeout" : "other";
      return resolve({ code: undefined, stdout, stderr: stderr || error.message, failure });
    });
  });
