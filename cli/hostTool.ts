import { spawn } from "node:child_process";
import * as path from "node:path";
import type { Run } from "../provider/run";
import { CliError, Interrupted, wrongState } from "./errors";

/** Where a command comes from, for those that have it not. */
const PACKAGES: Readonly<Record<string, string>> = {
  "qemu-img": "qemu-utils",
  e2fsck: "e2fsprogs",
  e2label: "e2fsprogs",
  debugfs: "e2fsprogs",
  virsh: "libvirt-clients",
};

/** How a command is started. */
export interface ToolOptions {
  signal: AbortSignal;
  cwd?: string;
  /** What it reads from its standard input; nothing by default. */
  input?: string;
  env?: NodeJS.ProcessEnv;
}

/** What a command left behind. */
export interface ToolResult {
  code: number;
  stdout: string;
  stderr: string;
}

/** File system tools are in folders that only root has on its PATH. */
const pathOfTools = (): string => [process.env.PATH ?? "", "/usr/sbin", "/sbin"].join(path.delimiter);

/** Runs a command of this machine without a shell and without a time limit; Ctrl-C ends it. */
export function tool(command: string, args: readonly string[], options: ToolOptions): Promise<ToolResult> {
  const { signal, cwd, input } = options;
  if (signal.aborted) return Promise.reject(new Interrupted());
  return new Promise((resolve, reject) => {
    const env = { ...process.env, PATH: pathOfTools(), LC_ALL: "C", ...options.env };
    const child = spawn(command, [...args], { cwd, env, stdio: ["pipe", "pipe", "pipe"] });
    const abort = (): void => void child.kill("SIGTERM");
    signal.addEventListener("abort", abort, { once: true });
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    // A command that ends early does not read on; its exit code says why.
    child.stdin.on("error", () => undefined);
    child.stdin.end(input ?? "");
    child.on("error", (error: NodeJS.ErrnoException) => {
      signal.removeEventListener("abort", abort);
      if (error.code !== "ENOENT") return reject(error);
      const where = PACKAGES[command] === undefined ? "" : `; install the package ${PACKAGES[command]}`;
      reject(wrongState(`${command} is not on this machine${where}`));
    });
    child.on("close", (code) => {
      signal.removeEventListener("abort", abort);
      if (signal.aborted) reject(new Interrupted());
      else resolve({ code: code ?? 1, stdout, stderr });
    });
  });
}

/** As {@link tool}, but anything but success is an error that says what the command said. */
export async function mustRun(command: string, args: readonly string[], options: ToolOptions): Promise<string> {
  const { code, stdout, stderr } = await tool(command, args, options);
  if (code !== 0) throw new CliError(`${command} ${args[0] ?? ""}: ${lastLine(stderr) || `exit code ${code}`}`);
  return stdout;
}

/** For calls of `virsh` that move data, which take as long as they take. */
export function unlimited(signal: AbortSignal): Run {
  return async (command, args) => {
    const { code, stdout, stderr } = await tool(command, args, { signal });
    return { code, stdout, stderr };
  };
}

/** The last line that says something. */
export function lastLine(text: string): string {
  return text.trim().split("\n").at(-1)?.trim() ?? "";
}
