// What a run of Pulumi that was killed leaves behind, put right before the next one: its lock, and the list of what it had under way.
// Called by tools/shim/pulumi. docs/faults.md tells what a user sees, and why nothing can be lost by it.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, realpathSync, rmSync, statSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { processInfo, withLock } from "./host-process.mjs";
import { readJson } from "./files.mjs";
import { virsh } from "./host-run.mjs";

/** Clock ticks a second in /proc, the same on every Linux that Node runs on. */
const TICKS = 100;
/** A process that began this much later than a lock was made has the number of the one that made it, and is another one. */
const LATER_MS = 60_000;
/** A lock is written in one go: one that is no JSON after so long was broken off. */
const WRITING_MS = 10_000;
const ATTRIBUTES = ".attrs";

/** Folder of a state that lies in files of this machine; undefined for any other, where nobody can be proved dead. */
export function stateFolder(url) {
  if (!url?.startsWith("file://")) return undefined;
  const path = decodeURIComponent(url.slice("file://".length).replace(/\?.*$/, ""));
  return path.startsWith("/") ? join(path, ".pulumi") : undefined;
}

function filesBelow(dir, wanted) {
  if (!existsSync(dir)) return [];
  const entries = readdirSync(dir, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile() && wanted(entry.name))
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name));
}

/** When this machine was started. */
function bootTime(proc) {
  return Number(/^btime (\d+)$/m.exec(readFileSync(join(proc, "stat"), "utf8"))[1]) * 1000;
}

/**
 * Whether the run that made a lock has certainly ended: it was one of this machine, and its process is gone, or the number belongs
 * to a process that began later. Whatever is not certain is no: Pulumi then says who holds the lock.
 */
export function isDead(lock, { host = hostname(), proc = "/proc" } = {}) {
  const made = Date.parse(lock?.timestamp);
  if (lock?.hostname !== host || !Number.isInteger(lock.pid) || Number.isNaN(made) || !existsSync(join(proc, "stat")))
    return false;
  const boot = bootTime(proc);
  const info = processInfo(lock.pid, proc);
  if (info === undefined || info.state === "Z" || info.state === "X" || made < boot - LATER_MS) return true;
  return boot + (info.startTime / TICKS) * 1000 > made + LATER_MS;
}

/** Locks of runs that are certainly over, of whatever stack, with what to say of each. */
export function deadLocks(folder, { now = Date.now(), ...where } = {}) {
  // Beside each file of the state lies one with its attributes.
  return filesBelow(join(folder, "locks"), (name) => !name.endsWith(ATTRIBUTES)).flatMap((file) => {
    const lock = readJson(file);
    if (lock === undefined) {
      // Pulumi takes a lock that cannot be read for an error, for ever.
      const modified = statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? now;
      const said = `a lock that was never written whole is removed (${file})`;
      return now - modified < WRITING_MS ? [] : [{ file, said }];
    }
    const whose = `${lock.username}@${lock.hostname} (process ${lock.pid}, ${lock.timestamp})`;
    return isDead(lock, where) ? [{ file, said: `the run of ${whose} was broken off; its lock is removed` }] : [];
  });
}

/**
 * Files with attributes that a dead run has begun and not written: Pulumi then says "EOF" and reads nothing of the state, which is
 * whole. It does without them.
 */
export function brokenAttributes(folder) {
  return filesBelow(folder, (name) => name.endsWith(ATTRIBUTES)).filter((file) => readJson(file) === undefined);
}

/** Folders and files right below a folder. */
const below = (dir) => (existsSync(dir) ? readdirSync(dir).sort() : []);

/** Whether the last run of some stack did not end well. A run that was killed is in no history. */
export function lastFailed(folder) {
  const histories = below(join(folder, "history")).flatMap((project) =>
    below(join(folder, "history", project)).map((stack) => join(folder, "history", project, stack)),
  );
  return histories.some((dir) => {
    const last = below(dir).findLast((name) => name.endsWith(".history.json"));
    return last !== undefined && readJson(join(dir, last))?.result !== "succeeded";
  });
}

/** Whether some stack's state lists operations that were under way when their run ended. */
export function isInterrupted(folder) {
  return filesBelow(join(folder, "stacks"), (name) => name.endsWith(".json")).some(
    (file) => (readJson(file)?.checkpoint?.latest?.pending_operations ?? []).length > 0,
  );
}

/** Whether somebody works on the stack of these resources, whose URNs have its name and its project. */
export function isLocked(folder, resources) {
  const [, , name, , project] = resources[0]?.urn.split(":") ?? [];
  if (project === undefined) return false;
  return filesBelow(join(folder, "locks/organization", project, name), (file) => !file.endsWith(ATTRIBUTES)).length > 0;
}

/** What of libvirt has no data in it, and how the ids of all there are of it are listed. */
const LISTS = {
  "libvirt:index/domain:Domain": () => ["list", "--all", "--uuid"],
  "libvirt:index/pool:Pool": () => ["pool-list", "--all", "--uuid"],
  "libvirt:index/network:Network": () => ["net-list", "--all", "--uuid"],
  "libvirt:index/volume:Volume": ({ inputs }) => ["vol-list", "--pool", inputs.pool],
};
/** Volumes that can be made again as they were. */
const AGAIN = /\$nixvm:index:(OverlayDisk|BaseImage)\$/;
const GUEST = "nixvm:index:Guest";
const SEED = "nixvm:index:SeedVolume";
const DATA = /\$nixvm:index:PersistentVolume\$/;

/**
 * Resources of a state that are not there any more: they were deleted, and the run ended before it heard of it. The libvirt provider
 * cannot delete a domain that is gone, and a stack that goes back would want an overlay that it believes to be there. Volumes with
 * data are never among them, and where one of those is away, no volume of its pool is: the file system may not be mounted, and
 * forgetting it would make an empty one in its place.
 */
export async function vanished(resources, list) {
  const gone = [];
  for (const resource of resources.filter(({ type, id }) => type in LISTS && id)) {
    const uri = uriOf(resource, resources);
    const args = LISTS[resource.type](resource);
    const there = uri && (await list(uri, args));
    if (there !== undefined && !there.includes(resource.id))
      gone.push({ ...resource, from: JSON.stringify([uri, args]) });
  }
  const unsure = new Set(gone.filter(({ urn }) => DATA.test(urn)).map(({ from }) => from));
  const sure = gone.filter(({ type, urn, from }) => !type.includes("volume") || (AGAIN.test(urn) && !unsure.has(from)));
  return sure;
}

/** A volume that the planner names so holds a system, and can be made again. */
const SYSTEM = /^(.+-[0-9a-f]{12}-[0-9a-f]{8}\.qcow2|base-[0-9a-f]{12}\.(qcow2|raw))$/;

/** UEFI variables that `nixvm snapshot` keeps beside a persistent volume; without that volume nothing can use them. */
const VARIABLES = /^(.+-persist(?:-g\d+)?)-[0-9a-f]{12}-.+\.nvram$/;

/**
 * Volumes that a broken-off run has made and the state does not know: in a pool that the stack itself has made, called as the planner
 * calls overlays and base images of this stack, and used by no domain and no other volume there. UEFI variables kept for a volume that
 * is gone are among them: the pool cannot go while they are there. `ask(uri, ...commands)` gives what
 * virsh prints, undefined when one of them fails.
 */
export async function orphans(resources, ask) {
  const known = new Set(resources.map(({ id }) => id));
  const found = [];
  for (const pool of resources.filter(({ type, id }) => type === "libvirt:index/pool:Pool" && id)) {
    const uri = uriOf(pool, resources);
    const list = `vol-list --pool ${pool.inputs.name}`;
    // One that could not be removed, as there was something in it, is off.
    const listed = uri && ((await ask(uri, list)) ?? (await ask(uri, `pool-start ${pool.inputs.name}`, list)));
    // A name and a path, which may hold spaces.
    const volumes = (listed ?? "").split("\n").map((line) => /^\s*(\S+)\s+(\/.*\S)/.exec(line)?.slice(1) ?? []);
    const [, , stack, , project] = pool.urn.split(":");
    const prefix = `${project}-${stack}-`;
    const names = new Set(volumes.map(([name]) => name));
    const left = (name) => VARIABLES.test(name) && !names.has(VARIABLES.exec(name)[1]);
    const unknown = volumes.filter(
      ([name, path]) =>
        name?.startsWith(prefix) && (SYSTEM.test(name.slice(prefix.length)) || left(name)) && !known.has(path),
    );
    // virsh reads its commands as a shell would: a name that it could read otherwise ends this.
    if (unknown.length === 0 || volumes.some(([name]) => /[^\w.+@-]/.test(name ?? ""))) continue;
    const domains = await ask(uri, "list --all --uuid");
    const uuids = (domains ?? "").split(/\s+/).filter(Boolean);
    const uses = await ask(
      uri,
      ...uuids.flatMap((uuid) => [`dumpxml ${uuid}`, `dumpxml --inactive ${uuid}`]),
      ...volumes.filter(([name]) => name).map(([name]) => `vol-dumpxml --pool ${pool.inputs.name} --vol ${name}`),
    );
    if (domains === undefined || uses === undefined) continue;
    for (const [name, path] of unknown) {
      // Its own description names it twice: as its key and as its path.
      const used = uses.split(path).length - 1 > 2;
      if (!used) found.push({ uri, pool: pool.inputs.name, name });
    }
  }
  return found;
}

/**
 * Domains that a broken-off run has made and the state does not know: marked by the stack, and never given a disk to boot from, so that
 * none of them has been a guest.
 */
export async function orphanDomains(resources, ask) {
  const [, , stack, , project] = resources[0]?.urn.split(":") ?? [];
  const known = new Set(resources.map(({ id }) => id));
  const uris = resources.map((resource) => uriOf(resource, resources) ?? resource.inputs?.uri);
  const found = [];
  for (const uri of new Set(uris.filter((one) => typeof one === "string"))) {
    const uuids = ((await ask(uri, "list --all --uuid")) ?? "").split(/\s+/).filter(Boolean);
    for (const uuid of uuids.filter((one) => !known.has(one))) {
      const xml = (await ask(uri, `dumpxml --inactive ${uuid}`)) ?? "";
      const ours = xml.includes(`<description>nixvm ${project}-${stack}</description>`);
      if (ours && !xml.includes("<serial>boot</serial>"))
        found.push({ uri, uuid, name: /<name>(.*)<\/name>/.exec(xml)?.[1] });
    }
  }
  return found;
}

/** Takes such a domain away; false when libvirt does not. */
async function removeDomain(uri, uuid) {
  await ask(uri, `destroy ${uuid}`);
  // The test driver knows no NVRAM.
  return ((await ask(uri, `undefine ${uuid} --nvram`)) ?? (await ask(uri, `undefine ${uuid}`))) !== undefined;
}

/** libvirt of a resource of the libvirt provider; undefined when the state does not say it in clear. */
function uriOf(resource, resources) {
  const uri = resources.find(({ urn }) => resource.provider?.startsWith(`${urn}::`))?.inputs?.uri;
  return typeof uri === "string" ? uri : undefined;
}

/** What virsh prints; undefined when libvirt does not answer, which the run itself then says better. */
async function ask(uri, ...commands) {
  const { ok, out } = await virsh(uri, [commands.join("; ")], { ms: 60_000 });
  return ok ? out : undefined;
}

/** A line is an id, or the name of a volume and its path, which may hold spaces. */
export function idsOf(list) {
  return list.split("\n").map((line) => /^\s*\S+\s+(\/.*\S)/.exec(line)?.[1] ?? line.trim());
}

/** What libvirt lists, asked once for each host. */
function lister() {
  const answers = new Map();
  return (uri, args) => {
    const key = `${uri} ${args.join(" ")}`;
    if (!answers.has(key))
      answers.set(
        key,
        ask(uri, args.join(" ")).then((out) => out && idsOf(out)),
      );
    return answers.get(key);
  };
}

const nameOf = (urn) => urn.split("::").at(-1);

/** Options of a command line that say which stack of which project is meant. */
export function stackArguments(args) {
  const found = [];
  args.forEach((arg, at) => {
    if (/^(-s|--stack|-C|--cwd)$/.test(arg)) found.push(arg, args[at + 1] ?? "");
    else if (/^(-s|-C|--stack=|--cwd=)./.test(arg)) found.push(arg);
  });
  return found;
}

/** Runs the engine on the stack that is meant, and gives what it prints. */
function engineOn(engine, args) {
  return (words, input) => {
    const all = [...words, ...stackArguments(args), "--non-interactive"];
    const { status, stdout, stderr } = spawnSync(engine, all, { input, encoding: "utf8", maxBuffer: 1 << 30 });
    if (status !== 0)
      throw new Error(`pulumi ${words.join(" ")}: ${(stderr.trim() || stdout.trim()).split("\n").at(-1)}`);
    return stdout;
  };
}

async function main([engine, ...args]) {
  const folder = stateFolder(process.env.PULUMI_BACKEND_URL);
  if (folder === undefined || !existsSync(folder)) return;
  // One at a time: two would put the same things right, the later one over what a run has done by then.
  await withLock(join(folder, "..", ".nixvm-recover"), 600_000, () => recover(folder, engine, args));
}

async function recover(folder, engine, args) {
  const say = (line) => console.error(`nixvm: ${line}`);
  const dead = deadLocks(folder);
  // Before the locks: were this broken off, the next one would do it.
  if (dead.length > 0) for (const file of brokenAttributes(folder)) rmSync(file, { force: true });
  for (const { file, said } of dead) {
    for (const part of [file, `${file}${ATTRIBUTES}`]) rmSync(part, { force: true });
    say(said);
  }
  // All was well with all stacks: nothing to look for, and no need to know which one is meant.
  if (dead.length === 0 && !isInterrupted(folder) && !lastFailed(folder)) return;
  const run = engineOn(engine, args);
  let state;
  try {
    state = JSON.parse(run(["stack", "export"]));
  } catch (error) {
    // The stack that is meant is yet to be made, or to be named: the engine asks for it.
    if (/no stack (named|selected)/.test(error.message)) return;
    throw error;
  }
  const { pending_operations: pending = [], resources = [] } = state.deployment ?? {};
  // A run that is at work: what it has begun is its own. The engine refuses this one.
  if (isLocked(folder, [...resources, ...pending.map(({ resource }) => resource)])) return;
  if (pending.length > 0) {
    // Each of our resources can be made and deleted again, so the next run finds out for itself what became of it. Pulumi would go on to
    // warn, and to ask for a refresh by hand.
    for (const { type, resource } of pending) say(`it was ${type} ${nameOf(resource.urn)}`);
    delete state.deployment.pending_operations;
    run(["stack", "import"], JSON.stringify(state));
  }
  const gone = await vanished(resources, lister());
  for (const { urn } of gone) say(`${nameOf(urn)} is not there any more and is taken off the stack's state`);
  for (const { uri, uuid, name } of await orphanDomains(resources, ask)) {
    if (await removeDomain(uri, uuid)) say(`the domain ${name}, which the last run had just made, is removed`);
  }
  for (const { uri, pool, name } of await orphans(resources, ask)) {
    if ((await ask(uri, `vol-delete --pool ${pool} --vol ${name}`)) !== undefined)
      say(`${name}, which nothing uses any more, is removed`);
  }
  // A guest that was being changed may be off, or on a disk that is not the one of the state, and a seed that was being written may be
  // another one, or none: a stack that goes back would leave them so.
  const changing = resources.filter(({ type }) => type === GUEST || type === SEED);
  const targets = new Set([...gone, ...changing].map(({ urn }) => urn));
  if (targets.size === 0) return;
  if (changing.length > 0) say("the last run did not end well: it is looked how its guests and seeds are");
  run(["refresh", "--yes", "--skip-preview", ...[...targets].flatMap((urn) => ["--target", urn])]);
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  main(process.argv.slice(2)).catch((error) => {
    console.error(`nixvm: what a broken-off run left could not be put right: ${error.message}`);
    process.exitCode = 1;
  });
}
