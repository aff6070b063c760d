// Runs long commands: output to a log file, the last line as progress, the tail of it in the error.
import { spawn, spawnSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  statSync,
  writeSync,
} from "node:fs";
import { basename, delimiter, dirname, join } from "node:path";
import { UserError } from "./errors.mjs";

const TAIL_LINES = 20;
/** Variable by which the descendants of a command are known. */
const MARK = "NIXVM_STARTED_BY";
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
 * @param sweep end what the command has started and left running, in whatever process group.
 * @param signal ends the command, which then counts as failed.
 */
export function logged({ log, cwd, env, detail, sweep = false, signal }, command, args) {
  mkdirSync(dirname(log), { recursive: true });
  const fd = openSync(log, "a");
  writeSync(fd, `$ ${[command, ...args].join(" ")}\n`);
  const tail = [];
  const mark = randomUUID();
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd,
      env: { ...(env ?? process.env), ...(sweep ? { [MARK]: mark } : {}) },
      stdio: ["ignore", "pipe", "pipe"],
      signal,
    });
    // A set-up that is told to end must not leave a compiler or a package manager behind.
    const handlers = SIGNALS.map((signal) => [signal, () => (child.kill("SIGTERM"), release(), raise(signal))]);
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
    // What is left may hold our pipes open, and "close" would wait for it.
    if (sweep) child.on("exit", () => endMarked(mark));
    child.on("close", (code, signal) => {
      release();
      closeSync(fd);
      if (code === 0) resolve();
      else fail(signal ? `ended by ${signal}` : `exit code ${code}`);
    });
  });
}

/** Ends every process that inherited the mark: the bridge, for one, leaves its provider running in a group of its own. */
function endMarked(mark) {
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      if (readFileSync(`/proc/${pid}/environ`, "latin1").includes(`${MARK}=${mark}`))
        process.kill(Number(pid), "SIGTERM");
    } catch {
      // Gone meanwhile, or another user's.
    }
  }
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
