// The tool chain's state: what is there, whether it is still what was installed, and how a part gets made.
import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, realpathSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, delimiter, dirname, join, relative } from "node:path";
import { UserError } from "./errors.mjs";
import { which } from "./exec.mjs";
import { compare, fingerprint, readJson, writeAtomically } from "./files.mjs";
import { downloadPulumi, fetchLibvirtProvider, installPlugin, probe, pulumiVersion } from "./official.mjs";
import { PARTS, PULUMI_ACCEPTED } from "./parts.mjs";
import { fetchAhead, makeFromSource, recipe, removeCaches, requireGo } from "./source.mjs";

const RECORD = "toolchain.json";

/** What is known of the installed parts: `parts` by name, each with its way and files; `skipped` with the reasons. */
export function readRecord(root) {
  const record = readJson(join(root, ".nixvm", RECORD));
  return record?.schema === 1 ? record : { schema: 1, parts: {}, skipped: {} };
}

function writeRecord(root, record) {
  writeAtomically(join(root, ".nixvm", RECORD), `${JSON.stringify(record, null, 2)}\n`);
}

/**
 * Whether a part is there as recorded.
 *
 * @param thorough compare checksums, not only size and time.
 */
export function partReady(root, part, record, thorough = false) {
  const known = record.parts[part.name];
  if (known?.version !== part.version) return false;
  if (known.way === "source" && known.recipe !== recipe(root, part)) return false;
  return known.files.every((file) => {
    const state = compare(join(root, ".nixvm"), file, thorough);
    if (state === "touched") Object.assign(file, fingerprint(join(root, ".nixvm"), file.path));
    return state === "same" || state === "touched";
  });
}

/** The parts that have to be made, given what is there. `force` ("source" or "official") counts another way as missing. */
export function missingParts(root, { record = readRecord(root), force, thorough = false } = {}) {
  return PARTS.filter((part) => {
    if (!wanted(part, record, force)) return false;
    if (force && record.parts[part.name]?.way !== force && !(part.optional && force === "source")) return true;
    if (part.optional && (force === "source" || record.skipped[part.name]) && force !== "official") return false;
    return !partReady(root, part, record, thorough);
  });
}

/** The own language host goes with a CLI that was, or will be, built here. */
function wanted(part, record, force) {
  if (!part.onlyFromSource) return true;
  return force ? force === "source" : record.parts.pulumi?.way === "source";
}

/** A pulumi on PATH, outside .nixvm, of a version that fits and with its language host; undefined otherwise. */
export function pulumiOnPath(root, path = process.env.PATH ?? "") {
  const others = path.split(delimiter).filter((dir) => dir !== join(root, ".nixvm/bin"));
  const file = which("pulumi", others.join(delimiter));
  const host = which("pulumi-language-nodejs", others.join(delimiter));
  if (!file || !(host || existsSync(join(dirname(realpathSync(file)), "pulumi-language-nodejs")))) return undefined;
  const version = pulumiVersion(file);
  if (!version || version[0] >= PULUMI_ACCEPTED.belowMajor) return undefined;
  const { atLeast } = PULUMI_ACCEPTED;
  const order = version.map((number, i) => number - atLeast[i]).find((difference) => difference !== 0) ?? 0;
  return order >= 0 ? { file, version: version.join(".") } : undefined;
}

/**
 * Begins to fetch what parts will be built from, while the set-up is still at other things: the network would have nothing to do then, and
 * the processors nothing later. What goes wrong here goes wrong again where it is told. Gives a function that ends it.
 */
export function beginFetching(root, { force, thorough, log }) {
  const fetching = new AbortController();
  const work = async () => {
    const parts = missingParts(root, { force, thorough }).filter(({ source }) => source?.package);
    if (parts.length === 0 || force === "official") return;
    const open = force === "source" ? {} : await probe();
    const found = force !== "source" && pulumiOnPath(root) !== undefined;
    const built = parts.filter((part) => !(part.name === "pulumi" && found) && !part.hosts.every((host) => open[host]));
    await fetchAhead(root, built, { log, signal: fetching.signal });
  };
  const done = work().catch(() => undefined);
  return async () => {
    fetching.abort();
    await done;
  };
}

/** Makes every missing part. `force` allows one way only; otherwise: PATH, official downloads, source, in this order. */
export async function ensureToolchain(root, { progress, force, thorough, log, stopFetching }) {
  const record = readRecord(root);
  const before = JSON.stringify(record);
  const work = join(root, ".nixvm/tmp");
  rmSync(work, { recursive: true, force: true });
  let made = 0;
  let open;
  const reachable = async (part) => {
    open ??= await progress.step("looking for Pulumi's downloads (5 s at most)", () => probe());
    return part.hosts.every((host) => open[host]);
  };
  // The list is taken anew after each part: which language host is needed follows from the CLI's way.
  const done = new Set();
  for (;;) {
    const todo = missingParts(root, { record, force, thorough }).filter((part) => !done.has(part.name));
    if (todo.length === 0) break;
    const [part] = todo;
    done.add(part.name);
    mkdirSync(work, { recursive: true });
    const context = {
      root,
      part,
      record,
      progress,
      work,
      log,
      count: `(${done.size} of ${done.size + todo.length - 1})`,
    };
    if (await makePart(context, force, reachable)) made++;
    writeRecord(root, record);
  }
  await stopFetching();
  rmSync(work, { recursive: true, force: true });
  if (made > 0) removeCaches(root);
  if (JSON.stringify(record) !== before) writeRecord(root, record);
  return record;
}

async function makePart(context, force, reachable) {
  const { root, part, record, progress, count } = context;
  delete record.skipped[part.name];
  if (part.name === "pulumi" && !force) {
    const found = pulumiOnPath(root);
    if (found) {
      progress.line(`pulumi ${found.version} on PATH (${found.file}) ${count}`);
      record.parts.pulumi = { way: "path", version: part.version, files: [fingerprintOf(root, found.file)] };
      return true;
    }
  }
  if (force !== "source" && !part.onlyFromSource && (force === "official" || (await reachable(part)))) {
    try {
      await progress.step(`${part.label}, official download ${count}`, (detail) =>
        makeOfficially({ ...context, detail }),
      );
      return true;
    } catch (err) {
      if (!(err instanceof UserError)) throw err;
      if (force === "official") {
        throw new UserError(
          `${err.message}\nnixvm: --official allows no other way; without it, it is built from source.`,
        );
      }
      progress.line(err.message);
    }
  }
  if (part.optional) {
    const reason = "only Pulumi's own downloads have it, and they can not be reached from here";
    record.skipped[part.name] = reason;
    delete record.parts[part.name];
    progress.line(`${part.label}: skipped: ${reason}. Only image builds from a flake need it.`);
    return false;
  }
  if (!part.source.copy) requireGo();
  await progress.step(`${part.label} from source ${count}`, (detail) => makeOneFromSource({ ...context, detail }));
  return true;
}

async function makeOneFromSource({ root, part, record, work, log, detail }) {
  const out = join(work, part.name);
  await makeFromSource(root, part, out, { log, detail });
  chmodSync(out, 0o755);
  put(root, part, out);
  record.parts[part.name] = {
    way: "source",
    version: part.version,
    recipe: recipe(root, part),
    files: [fingerprintOf(root, join(root, ".nixvm", part.file))],
  };
}

async function makeOfficially({ root, part, record, work, log, detail, progress }) {
  const options = { log, detail, line: progress.line };
  const home = join(root, ".nixvm");
  const target = join(home, part.file);
  let files = [target];
  if (part.name === "pulumi") {
    const found = await downloadPulumi(join(work, "download"), options);
    verify(part, join(work, "download/pulumi/pulumi"));
    mkdirSync(dirname(target), { recursive: true });
    for (const { name, from } of found) renameSync(from, join(dirname(target), name));
    files = found.map(({ name }) => join(dirname(target), name));
    delete record.parts["language-host"];
  } else {
    const pulumi =
      record.parts.pulumi.way === "path" ? join(home, record.parts.pulumi.files[0].path) : join(home, "bin/pulumi");
    const env = { ...process.env, PULUMI_HOME: join(home, "pulumi"), PULUMI_SKIP_UPDATE_CHECK: "true" };
    delete env.PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION;
    if (part.plugin) await installPlugin(pulumi, env, part.plugin, options);
    else {
      // A broken one in its place would be used instead of fetched.
      rmSync(target, { force: true });
      await fetchLibvirtProvider(pulumi, env, options);
    }
    if (!existsSync(target)) throw new UserError(`nixvm: ${part.label} was downloaded, but is not at ${target}`);
    verify(part, target);
  }
  record.parts[part.name] = {
    way: "official",
    version: part.version,
    files: files.map((file) => fingerprintOf(root, file)),
  };
}

/** Puts a finished file in its place, after it has shown that it runs. */
function put(root, part, from) {
  verify(part, from);
  const target = join(root, ".nixvm", part.file);
  mkdirSync(dirname(target), { recursive: true });
  renameSync(from, target);
  // The engine takes a plugin folder without this file for one of its old kind, and looks for more in it.
  if (part.plugin) writeFileSync(`${dirname(target)}.lock`, "");
}

function verify(part, file) {
  if (!part.verify) return;
  const { args, shows, ends } = part.verify;
  const env = { ...process.env, PULUMI_SKIP_UPDATE_CHECK: "true" };
  const result = spawnSync(file, args, { encoding: "utf8", timeout: 60000, env });
  const output = `${result.stdout ?? ""}${result.stderr ?? ""}${result.error?.message ?? ""}`;
  if (result.status === ends && output.includes(shows)) return;
  const said = output.trim().split("\n")[0];
  throw new UserError(
    `nixvm: ${basename(file)} for ${part.label} does not run: expected "${shows}", it said "${said}" (${result.status})`,
  );
}

/** Paths in the record are relative to .nixvm, so that a checkout can be moved. */
function fingerprintOf(root, file) {
  const home = join(root, ".nixvm");
  return fingerprint(home, relative(home, file));
}
