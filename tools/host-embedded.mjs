// The private ("embedded") libvirtd of one checkout: found, started, stopped. Its QEMU processes outlive it on purpose.
import { spawn } from "node:child_process";
import {
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  rmdirSync,
  statSync,
  symlinkSync,
  watch,
} from "node:fs";
import { dirname, join } from "node:path";
import { BOUND_DIRS, makeRunBase } from "./host-paths.mjs";
import { daemonCommand, daemonEnv, libvirtdConf, qemuConf } from "./host-config.mjs";
import {
  environmentOf,
  identify,
  isAlive,
  readJson,
  signal,
  waitGone,
  withLock,
  writeAtomic,
} from "./host-process.mjs";
import { findProgram, virsh, virshNames } from "./host-run.mjs";

/** Longest wait for a first answer: the first start probes every QEMU there is (seconds, more on a busy machine). */
export const START_LIMIT_MS = 120_000;

const PACKAGES = "apt-get install libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils ovmf";

/** The running daemon of this checkout, or undefined. Finds it without its record too (start broken off half-way). */
export function findDaemon(paths) {
  const record = readJson(paths.record);
  // A copied checkout holds a copied record: what runs for another folder is not ours.
  if (record?.root === paths.root && isAlive(record)) return record;
  let pid;
  try {
    pid = Number(readFileSync(paths.daemonPidFile, "utf8"));
  } catch {
    return undefined;
  }
  const found = identify(pid);
  if (!found || !isAlive(found) || environmentOf(pid, "NIXVM_LIBVIRT_ROOT") !== paths.root) return undefined;
  return writeRecord(paths, found);
}

/** Are there guests that only this daemon knows? Then a system libvirt that turns up later must not be taken instead. */
export function ownsGuests(paths) {
  const configs = paths.mode === "system" ? join(paths.etc, "qemu") : join(paths.etc, "libvirt", "qemu");
  return [configs, stateDir(paths)].some((dir) => listFiles(dir).some((name) => name.endsWith(".xml")));
}

/** Starts the daemon if need be and waits until it answers: {started, seconds}. `log` gets a line every 2 s of waiting. */
export async function startEmbedded(paths, { log = () => {}, limitMs = START_LIMIT_MS } = {}) {
  const begin = Date.now();
  checkFolder(paths);
  const daemon = findDaemon(paths);
  // Only a daemon that has looked at QEMU once counts: after a start that was broken off the first guest would wait for that.
  if (daemon?.ready && existsSync(paths.socket) && (await virsh(paths.uri, ["uri"], { ms: 2000 })).ok) {
    return { started: false, seconds: 0, pid: daemon.pid };
  }
  checkPrograms();
  mkdirSync(paths.home, { recursive: true });
  return withLock(paths.lock, limitMs, async () => {
    const running = findDaemon(paths);
    const record = await waitForAnswer(paths, running ?? (await launch(paths)), { begin, limitMs, log });
    writeRecord(paths, record, true);
    return { started: !running, seconds: (Date.now() - begin) / 1000, pid: record.pid };
  });
}

/**
 * Stops the daemon. Refuses while guests run, unless `force` (then they are powered off first).
 * @throws with the names of the running guests
 */
export async function stopEmbedded(paths, { force = false, log = () => {} } = {}) {
  // A daemon that died left its guests running: it takes them back first, so that they can be seen and stopped.
  if (!findDaemon(paths) && listFiles(stateDir(paths)).some((name) => name.endsWith(".xml")))
    await startEmbedded(paths, { log });
  const daemon = findDaemon(paths);
  if (!daemon) {
    removeRunFiles(paths);
    return { stopped: false };
  }
  return withLock(paths.lock, START_LIMIT_MS, async () => {
    const answer = await virsh(paths.uri, ["uri"], { ms: 10_000 });
    if (answer.ok) await clearOut(paths, { force, log });
    else if (!force)
      throw new Error(
        `libvirtd (process ${daemon.pid}) does not answer (${answer.why}), so its guests are unknown: stop it with --force`,
      );
    signal(daemon, "SIGTERM");
    if (!(await waitGone(daemon, 20_000))) {
      log(`libvirtd (process ${daemon.pid}) did not end within 20 s: killed`);
      signal(daemon, "SIGKILL");
      await waitGone(daemon, 5000);
    }
    rmSync(paths.record, { force: true });
    // Guests nobody could ask about still need their state files, or no later libvirtd finds them.
    if (answer.ok) removeRunFiles(paths);
    return { stopped: true };
  });
}

async function clearOut(paths, { force, log }) {
  const guests = await virshNames(paths.uri, ["list", "--name"]);
  if (guests.length && !force) {
    throw new Error(
      `${guests.length} guest(s) run on this libvirtd: ${guests.join(", ")}. Stop them first, or power them off with --force`,
    );
  }
  for (const guest of guests) {
    const result = await virsh(paths.uri, ["destroy", guest]);
    log(result.ok ? `${guest}: powered off` : `${guest}: ${result.why}`);
  }
  // dnsmasq of a network would outlive the daemon. A network with autostart is back at the next start.
  for (const network of await virshNames(paths.uri, ["net-list", "--name"]))
    await virsh(paths.uri, ["net-destroy", network]);
}

async function launch(paths) {
  prepareFolders(paths);
  rmSync(paths.socket, { force: true });
  const [command, ...args] = daemonCommand(paths, findProgram("libvirtd"));
  const out = openSync(paths.daemonLog, "w", 0o600);
  // detached: a session of its own, so that neither Ctrl-C nor the end of the npm script reaches it.
  const child = spawn(command, args, { detached: true, stdio: ["ignore", out, out], env: daemonEnv(paths), cwd: "/" });
  closeSync(out);
  await new Promise((resolve, reject) => child.once("spawn", resolve).once("error", reject));
  child.unref();
  const identity = identify(child.pid);
  if (!identity) throw new Error(failure(paths, "ended at once"));
  return writeRecord(paths, identity);
}

function writeRecord(paths, identity, ready = false) {
  const { pid, startTime, bootId } = identity;
  const record = { pid, startTime, bootId, root: paths.root, uri: paths.uri, ready };
  writeAtomic(paths.record, `${JSON.stringify(record)}\n`);
  return record;
}

function prepareFolders(paths) {
  for (const dir of [paths.etc, paths.lib, paths.cache, paths.log, paths.console, paths.images])
    mkdirSync(dir, { recursive: true, mode: 0o755 });
  makeRunBase(paths.runBase, paths.uid);
  mkdirSync(paths.runDir, { recursive: true, mode: 0o700 });
  mkdirSync(join(paths.runDir, "libvirt"), { recursive: true, mode: 0o755 });
  const configs = paths.mode === "system" ? paths.etc : join(paths.etc, "libvirt");
  mkdirSync(configs, { recursive: true });
  writeAtomic(join(configs, "qemu.conf"), qemuConf(paths.mode));
  writeAtomic(join(configs, "libvirtd.conf"), libvirtdConf());
  if (paths.mode === "session") {
    link(paths.etc, paths.configLink);
    link(paths.cache, join(paths.runDir, "cache"));
    link(paths.lib, join(paths.runDir, "data"));
  }
}

function link(target, at) {
  const there = lstatSync(at, { throwIfNoEntry: false });
  if (there?.isSymbolicLink() && readlinkSync(at) === target) return;
  if (there && !there.isSymbolicLink())
    throw new Error(`${at} is in the way: it must be a link to ${target}; remove it`);
  rmSync(at, { force: true });
  symlinkSync(target, at);
}

/** Waits for the socket to appear (told by the kernel), then for one virsh call, which libvirtd answers once it is ready. */
async function waitForAnswer(paths, first, { begin, limitMs, log }) {
  let record = first;
  const seconds = () => Math.round((Date.now() - begin) / 1000);
  const progress = setInterval(
    () => log(`libvirtd: starting, ${seconds()} s (the first start looks at every QEMU installed)`),
    2000,
  );
  try {
    for (;;) {
      const left = begin + limitMs - Date.now();
      if (left <= 0)
        throw new Error(
          failure(paths, `did not answer within ${limitMs / 1000} s (process ${record.pid} left running)`),
        );
      if (!isAlive(record)) {
        // A start broken off before its record was written: the earlier daemon holds the lock, ours gave way.
        record = findDaemon(paths);
        if (!record) throw new Error(failure(paths, "ended"));
      }
      if (!existsSync(paths.socket)) await nextChange(dirname(paths.socket), 250);
      // "version" makes libvirtd look at QEMU now, so that the first guest does not wait for that.
      else if ((await untilDeath(record, virsh(paths.uri, ["version"], { ms: left })))?.ok) return record;
      else await nextChange(dirname(paths.socket), 100);
    }
  } finally {
    clearInterval(progress);
  }
}

async function untilDeath(record, answer) {
  let timer;
  const death = new Promise((done) => {
    timer = setInterval(() => isAlive(record) || done(undefined), 250);
  });
  try {
    return await Promise.race([answer, death]);
  } finally {
    clearInterval(timer);
  }
}

/** Resolves at the next change in a folder, at the latest after `ms`. */
function nextChange(dir, ms) {
  return new Promise((done) => {
    const watcher = watch(dir, () => finish());
    const timer = setTimeout(() => finish(), ms);
    watcher.on("error", () => finish());
    function finish() {
      clearTimeout(timer);
      watcher.close();
      done();
    }
  });
}

/** Text of a start that failed: refusal of the mount namespace in plain words, else the end of the log. */
function failure(paths, what) {
  const text = existsSync(paths.daemonLog) ? readFileSync(paths.daemonLog, "utf8").trim() : "";
  const refusal = text.split("\n").find((line) => /^unshare: |^mount: /.test(line));
  if (refusal) {
    return (
      `no private libvirtd here: a mount namespace of its own was refused (${refusal}). ` +
      "Allow it (CAP_SYS_ADMIN, for example docker run --privileged), run as an ordinary user, or set LIBVIRT_DEFAULT_URI to a libvirt that runs elsewhere"
    );
  }
  const tail = text.split("\n").slice(-8).join("\n  ");
  return `libvirtd ${what}; log ${paths.daemonLog}${tail ? `:\n  ${tail}` : " is empty"}`;
}

function checkPrograms() {
  const missing = ["libvirtd", "virsh", "qemu-system-x86_64", "qemu-img"].filter((name) => !findProgram(name));
  if (missing.length) throw new Error(`${missing.join(", ")} not found. Install what is missing: ${PACKAGES}`);
}

/** Refuses a folder the daemon could not work in, before anything is started. */
function checkFolder(paths) {
  const hiding = Object.values(BOUND_DIRS).find(
    (dir) => paths.mode === "system" && `${paths.root}/`.startsWith(`${dir}/`),
  );
  if (hiding)
    throw new Error(
      `the checkout lies in ${hiding}, which a private libvirtd replaces by its own: move the checkout elsewhere`,
    );
  const owner = statSync(paths.home, { throwIfNoEntry: false })?.uid;
  if (owner === undefined || owner === paths.uid) return;
  throw new Error(
    `${paths.home} belongs to uid ${owner}, this is uid ${paths.uid}: its guests are seen by its owner only. ` +
      `Go on as uid ${owner}, or stop its libvirtd as that user and remove the folder`,
  );
}

/** Folder in which libvirtd notes the guests that run. */
function stateDir(paths) {
  return paths.mode === "system" ? join(paths.runDir, "libvirt", "qemu") : join(paths.runDir, "libvirt", "qemu", "run");
}

function removeRunFiles(paths) {
  rmSync(paths.runDir, { recursive: true, force: true });
  if (paths.mode === "session" && lstatSync(paths.configLink, { throwIfNoEntry: false })?.isSymbolicLink())
    rmSync(paths.configLink);
  rmSync(paths.record, { force: true });
  if (paths.runBase.startsWith("/tmp/")) removeIfEmpty(paths.runBase);
}

/** The base in /tmp is shared by all checkouts of the user. */
function removeIfEmpty(dir) {
  try {
    rmdirSync(dir);
  } catch (error) {
    if (!["ENOTEMPTY", "ENOENT"].includes(error.code)) throw error;
  }
}

function listFiles(dir) {
  try {
    return readdirSync(dir);
  } catch {
    return [];
  }
}
