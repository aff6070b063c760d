import { spawn } from "node:child_process";
import { constants } from "node:os";
import { CliError } from "./errors";

/** Runs a program on this terminal, in our place, and gives its exit code. */
export function onTerminal(command: string, args: readonly string[]): Promise<number> {
  // The terminal sends Ctrl-C to the program as well, and it is for the program to say what that means.
  const wait = (): void => undefined;
  process.on("SIGINT", wait);
  return new Promise<number>((resolve, reject) => {
    const child = spawn(command, [...args], { env: process.env, stdio: "inherit" });
    const pass = (signal: NodeJS.Signals): void => void child.kill(signal);
    process.on("SIGTERM", pass);
    process.on("SIGHUP", pass);
    child.on("error", (error: NodeJS.ErrnoException) =>
      reject(error.code === "ENOENT" ? new CliError(`${command} is not on PATH`) : error),
    );
    child.on("close", (code, signal) => {
      process.off("SIGTERM", pass);
      process.off("SIGHUP", pass);
      resolve(code ?? 128 + constants.signals[signal ?? "SIGTERM"]);
    });
  }).finally(() => process.off("SIGINT", wait));
}
