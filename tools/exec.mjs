// Runs long commands: output to a log file, the last line as progress, the tail of it in the error.
import { spawn, spawnSync } from "node:child_process";
import { accessSync, closeSync, constants, existsSync, mkdirSync, openSync, statSync, writeSync } from "node:fs";
import { basename, delimiter, dirname, join } from "node:path";
import { UserError } from "./errors.mjs";

const TAIL_LINES = 20;
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"];

/** The full path of a command, or undefined. Administration folders count even where a user's PATH lacks them. */
export function which(command, path = process.env.PATH ?? "") {
  if (command.includes("/")) return existsSync(command) ? command : undefined;
  for (const dir of [...path.split(delimiter), "/usr/local/sbin", "/usr/sbin", "/sbin"]) {
    if (dir === "") continue;
    const file = join(dir, command);
    try {
      accessSync(file, constants.X_OK);
      if (statSync(file).isFile()) return file;
    } catch {
      // Not in this folder.
    }
  }
  return undefined;
}

/** The output (stdout and stderr) of a short command, or undefined if it fails or does not end in time. */
export function capture(command, args, options = {}) {
  const result = spawnSync(command, args, { encoding: "utf8", timeout: 20000, ...options });
  return result.status === 0 ? `${result.stdout}${result.stderr}` : undefined;
}

/**
 * Runs a command whose output nobody has to read unless it fails.
 *
 * @param log file that gets the output; its tail is part of the error.
 * @param detail called with the last line of output, as it comes.
 * @param group run it in a process group of its own, and end what is left of that group afterwards.
 */
export function logged({ log, cwd, env, detail, group = false }, command, args) {
  mkdirSync(dirname(log), { recursive: true });
  const fd = openSync(log, "a");
  writeSync(fd, `$ ${[command, ...args].join(" ")}\n`);
  const tail = [];
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd,
      env: env ?? process.env,
      detached: group,
      stdio: ["ignore", "pipe", "pipe"],
    });
    const end = (signal) => {
      try {
        process.kill(group ? -child.pid : child.pid, signal);
      } catch {
        // Nothing of it runs any more.
      }
    };
    // A set-up that is told to end must not leave a compiler or a package manager behind.
    const handlers = SIGNALS.map((signal) => [signal, () => (end("SIGTERM"), release(), raise(signal))]);
    const release = () => handlers.forEach(([signal, handler]) => process.off(signal, handler));
    handlers.forEach(([signal, handler]) => process.on(signal, handler));

    let rest = "";
    const read = (chunk) => {
      writeSync(fd, chunk);
      const lines = (rest + chunk.toString()).split(/[\r\n]+/);
      rest = lines.pop() ?? "";
      tail.push(...lines.filter((text) => text.trim() !== ""));
      tail.splice(0, tail.length - TAIL_LINES);
      if (tail.length > 0) detail?.(tail.at(-1));
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    const fail = (why) => reject(new UserError(failure(basename(command), args, why, [...tail, rest], log)));
    child.on("error", (err) => (release(), fail(err.message)));
    // What is left of the group holds our pipes open, so "close" would wait for it.
    if (group) child.on("exit", () => end("SIGTERM"));
    child.on("close", (code, signal) => {
      release();
      closeSync(fd);
      if (code === 0) resolve();
      else fail(signal ? `ended by ${signal}` : `exit code ${code}`);
    });
  });
}

function raise(signal) {
  process.kill(process.pid, signal);
}

function failure(command, args, why, tail, log) {
  const lines = tail.filter(Boolean).map((text) => `    ${text}`);
  return [`setup: ${command} ${args[0] ?? ""} failed (${why}). Its last lines (all of it: ${log}):`, ...lines].join(
    "\n",
  );
}
