// Processes told apart for certain: a process id alone may have been given to somebody else since.
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";

/** Start time (clock ticks since boot) and state of a process, or undefined when there is none. */
export function processInfo(pid, proc = "/proc") {
  if (!Number.isInteger(pid) || pid < 2) return undefined;
  let stat;
  try {
    stat = readFileSync(`${proc}/${pid}/stat`, "utf8");
  } catch {
    return undefined;
  }
  // The command name stands in parentheses and may hold anything, also ") ": fields are counted from the last one.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return { state: fields[0], startTime: Number(fields[19]) };
}

/** Identity of a running process that stays true over a reboot. */
export function identify(pid, proc = "/proc") {
  const info = processInfo(pid, proc);
  return info && { pid, startTime: info.startTime, bootId: bootId(proc) };
}

export function bootId(proc = "/proc") {
  return readFileSync(`${proc}/sys/kernel/random/boot_id`, "utf8").trim();
}

/** Is the process that `identity` was taken from still there? A zombie is not: it only waits for its parent. */
export function isAlive(identity, proc = "/proc") {
  if (!identity || identity.bootId !== bootId(proc)) return false;
  const info = processInfo(identity.pid, proc);
  return info !== undefined && info.startTime === identity.startTime && info.state !== "Z" && info.state !== "X";
}

/** Value of a variable in the environment a process was started with; undefined when it has none or may not be read. */
export function environmentOf(pid, name, proc = "/proc") {
  try {
    const entry = readFileSync(`${proc}/${pid}/environ`, "utf8")
      .split("\0")
      .find((item) => item.startsWith(`${name}=`));
    return entry?.slice(name.length + 1);
  } catch {
    return undefined;
  }
}

/** Reads a JSON file; undefined when it is missing or half-written. */
export function readJson(file) {
  try {
    return JSON.parse(readFileSync(file, "utf8"));
  } catch {
    return undefined;
  }
}

/** Writes a file so that a reader sees the old or the new text, never a part. */
export function writeAtomic(file, text, mode = 0o644) {
  const temporary = `${file}.${process.pid}.tmp`;
  writeFileSync(temporary, text, { mode });
  renameSync(temporary, file);
}

/** Signals the process `identity` was taken from, and no other; false when it is gone. */
export function signal(identity, name) {
  if (!isAlive(identity)) return false;
  try {
    process.kill(identity.pid, name);
    return true;
  } catch (error) {
    if (error.code === "ESRCH") return false;
    throw error;
  }
}

/** Waits until the process is gone; false when it still is there after `ms`. */
export async function waitGone(identity, ms) {
  const end = Date.now() + ms;
  while (isAlive(identity)) {
    if (Date.now() > end) return false;
    await new Promise((done) => setTimeout(done, 20));
  }
  return true;
}

/**
 * Runs `work` while holding `file` as a lock between processes. A lock whose holder died is taken over.
 * @throws when another process holds it longer than `ms`
 */
export async function withLock(file, ms, work) {
  const own = `${file}.${process.pid}`;
  const end = Date.now() + ms;
  writeFileSync(own, JSON.stringify(identify(process.pid)));
  try {
    while (!tryLink(own, file)) {
      const holder = readJson(file);
      // Moved away before it is removed: of two processes that find the same dead holder only one gets it.
      if (holder && !isAlive(holder)) tryRename(file, `${own}.stale`);
      else if (Date.now() > end) {
        throw new Error(
          `${file} is held by process ${holder?.pid ?? "?"} since ${Math.round(ms / 1000)} s: wait for it or end it`,
        );
      } else await new Promise((done) => setTimeout(done, 50));
    }
  } finally {
    rmSync(own, { force: true });
    rmSync(`${own}.stale`, { force: true });
  }
  try {
    return await work();
  } finally {
    rmSync(file, { force: true });
  }
}

/** A hard link appears with its whole content at once, so a lock is never seen half-written. */
function tryLink(from, to) {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    if (error.code === "EEXIST") return false;
    throw error;
  }
}

function tryRename(from, to) {
  try {
    renameSync(from, to);
  } catch (error) {
    if (error.code !== "ENOENT") throw error;
  }
}
