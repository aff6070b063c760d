// One set-up at a time in a checkout: two would build and rename the same files.
import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const POLL_MS = 500;

/** When a process was started, in clock ticks since boot; undefined if there is none of that id. */
function startOf(pid) {
  try {
    // The name in the second field may hold blanks and brackets: count from behind it.
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

/** The holder's process id, or undefined if the lock is free or was left behind. Process ids come round again, so the start time counts too. */
export function holder(file) {
  const [pid, start] = readLock(file)?.split(" ") ?? [];
  return pid && startOf(pid) === start ? Number(pid) : undefined;
}

function readLock(file) {
  try {
    return readFileSync(file, "utf8").trim();
  } catch {
    return undefined;
  }
}

/** Takes the lock if it is free. A link, unlike a file that is opened and then written, is never seen half-made. */
function take(file) {
  const mine = `${file}.${process.pid}`;
  writeFileSync(mine, `${process.pid} ${startOf(process.pid)}\n`);
  try {
    linkSync(mine, file);
    return true;
  } catch (err) {
    if (err.code !== "EEXIST") throw err;
    return false;
  } finally {
    rmSync(mine, { force: true });
  }
}

/** Removes a lock whose holder is gone, but not one that was taken since we looked. */
function removeStale(file, seen) {
  const aside = `${file}.stale.${process.pid}`;
  try {
    renameSync(file, aside);
  } catch (err) {
    if (err.code === "ENOENT") return;
    throw err;
  }
  if (readLock(aside) !== seen && holder(aside) !== undefined) {
    try {
      linkSync(aside, file);
    } catch (err) {
      if (err.code !== "EEXIST") throw err;
    }
  }
  rmSync(aside, { force: true });
}

/** Runs `work` while holding the lock. `waiting` is called once, with the holder's process id, if it is taken. */
export async function withLock(file, waiting, work) {
  mkdirSync(dirname(file), { recursive: true });
  let told = false;
  while (!take(file)) {
    const seen = readLock(file);
    const pid = holder(file);
    if (pid === undefined) {
      if (seen !== undefined) removeStale(file, seen);
      continue;
    }
    if (!told) waiting(pid);
    told = true;
    await sleep(POLL_MS);
  }
  try {
    return await work();
  } finally {
    rmSync(file, { force: true });
  }
}
