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

/** The real one. LC_ALL=C because the output is read by programs. */
export const run: Run = (command, args, timeoutMs) =>
  new Promise((resolve) => {
    const options = {
      timeout: timeoutMs,
      killSignal: "SIGKILL" as const,
      maxBuffer: 16 * 2 ** 20,
      env: { ...process.env, LC_ALL: "C" },
    };
    execFile(command, [...args], options, (error, stdout, stderr) => {
      if (!error) return resolve({ code: 0, stdout, stderr });
      if (typeof error.code === "number") return resolve({ code: error.code, stdout, stderr });
      const failure =
        (error as NodeJS.ErrnoException).code === "ENOENT" ? "missing" : error.killed ? "timeout" : "other";
      return resolve({ code: undefined, stdout, stderr: stderr || error.message, failure });
    });
  });
