import * as fs from "node:fs";
import type { Command } from "commander";
import { type Context } from "../context";
import { type BaseVolume, hostImages, unusedBases } from "../hostImages";
import { buildImages, parseBuildHost } from "../imageBuild";
import { unusedCache } from "../imageCache";
import { listedImage, packageDiff, packageDiffText } from "../imageDiff";
import { declaredImages, type ImageView, imageViews } from "../imageList";
import { roughSize, table } from "../output";
import { DEFAULT_PROFILE, profilesOf } from "../profiles";
import { refuseWhileRunning } from "../runningRun";
import { does, verb } from "../verb";
import { historyOf } from "../fleetLook";

/** `nixvm image`: images are built, looked at, compared and cleared away. */
export function addImage(program: Command): void {
  const group = program.command("image").description("base images: build, list, compare, clear away");
  addBuild(group);
  addProfiles(group);
  addImageList(group);
  addPrune(group);
  addDiff(group);
}

interface BuildFlags {
  profile?: string | true;
  allProfiles: boolean;
  buildHost?: string;
  force: boolean;
}

function addBuild(group: Command): void {
  const command = verb(group, "build [name...]", "build images of the stack from their flakes, or profiles")
    .option("--profile [name]", `build a profile of nix/profiles instead; default ${DEFAULT_PROFILE}`)
    .option("--all-profiles", "build all profiles", false)
    .option("--build-host <[user@]host[:port]>", "build there over SSH; default: as the stack file says, else here")
    .option("--force", "build also when nothing has changed since the last time", false);
  does<BuildFlags, [string[]]>(command, (context, options, names) => build(context, names, options));
  const all = verb(group, "build-all", "build all profiles")
    .option("--build-host <[user@]host[:port]>", "build there over SSH; default: here")
    .option("--force", "build also when nothing has changed since the last time", false);
  does<Omit<BuildFlags, "allProfiles">, []>(all, (context, options) =>
    build(context, [], { ...options, allProfiles: true }),
  );
}

async function build(context: Context, names: string[], options: BuildFlags) {
  const { buildHost, ...choice } = options;
  const on = buildHost === undefined ? {} : { buildHost: parseBuildHost(buildHost) };
  const images = await buildImages(context, names, { ...choice, ...on });
  const line = (one: (typeof images)[number]): string =>
    `${one.name}: ${one.made ? "built" : `nothing has changed since ${one.builtAt}`}: ${one.file}\n  ${one.storePath}`;
  return { json: images, text: images.map(line).join("\n") };
}

function addProfiles(group: Command): void {
  const command = verb(group, "profiles", "profiles that images can be built of").alias("list-profiles");
  does(command, async (context) => {
    const profiles = profilesOf(context.root);
    const json = profiles.map(({ name, about }) => ({ name, about, flake: `./nix#${name}` }));
    return Promise.resolve({
      json,
      text: table(
        ["profile", "what it is"],
        json.map(({ name, about }) => [name, wrapped(about)]),
      ),
    });
  });
}

function wrapped(text: string): string {
  return text.replace(/(.{60,90}?) /g, "$1\n");
}

function addImageList(group: Command): void {
  does(verb(group, "list", "images: of the stack file, on the hosts, kept, quarantined"), async (context) => {
    const fleet = await context.plan();
    const history = historyOf(await context.resources());
    const hosts = await hostImages(context, fleet);
    const declared = await declaredImages(context, await context.config(), history);
    const views = imageViews({ declared, history, hosts, vms: await context.vms() });
    const silent = hosts.filter(({ problem }) => problem !== undefined);
    for (const { host, problem } of silent) context.note(`host ${host}: ${problem}`);
    return {
      json: { images: views, silentHosts: silent.map(({ host, problem }) => ({ host, problem })) },
      text: table(["image", "digest", "version", "on hosts", "used by", "status"], views.map(row)),
    };
  });
}

function row(view: ImageView): string[] {
  const failed = view.quarantined.length > 0 ? [`quarantined on ${view.quarantined.join(", ")}`] : [];
  return [
    view.names.join("\n") || "-",
    view.digest || "-",
    view.version ?? view.id ?? "-",
    view.hosts.map(({ host, bytes }) => `${host} ${roughSize(bytes)}`).join("\n") || "-",
    view.usedBy.join(", ") || "-",
    [view.status, ...failed, ...view.remarks].join("\n"),
  ];
}

function addPrune(group: Command): void {
  const command = verb(group, "prune", "remove base images and cached files that nothing needs any more")
    .option("--dry-run", "only show them", false)
    .option("--yes", "do not ask", false);
  does<{ dryRun: boolean; yes: boolean }, []>(command, async (context, { dryRun, yes }) => {
    const found = await unneeded(context);
    const { bases, cache, kept } = found;
    const bytes = [...bases, ...cache].reduce((sum, one) => sum + one.bytes, 0);
    const json = { removed: [] as string[], bytes, bases, cache, kept };
    for (const { base, why } of kept) context.note(`stays: ${base.host}: ${base.name} (${why})`);
    if (bases.length + cache.length === 0) return { json, text: "nothing to remove: all that is there is needed" };
    const lines = [
      ...bases.map((base) => `${base.host}: ${base.path} (${roughSize(base.bytes)})`),
      ...cache.map((entry) => `this machine: ${entry.path} (${entry.kind}, ${roughSize(entry.bytes)})`),
    ];
    if (dryRun) return { json, text: `would be removed, ${roughSize(bytes)}:\n${lines.join("\n")}` };
    context.note(`These are needed by nothing, and are removed:\n${lines.map((line) => `  ${line}`).join("\n")}`);
    if (!(await context.confirm(`Remove them (${roughSize(bytes)})?`, yes))) {
      return { json, text: "nothing was removed" };
    }
    // Asked again: while somebody thinks, a run may have begun to use what he looks at.
    await refuseWhileRunning(context);
    const now = new Set((await unneeded(context)).bases.map(({ path }) => path));
    const gone = await remove(
      context,
      bases.filter(({ path }) => now.has(path)),
      cache.map(({ path }) => path),
    );
    return { json: { ...json, removed: gone }, text: `removed ${gone.length} of ${lines.length}` };
  });
}

async function unneeded(context: Context) {
  await refuseWhileRunning(context);
  const fleet = await context.plan();
  const hosts = await hostImages(context, fleet);
  for (const { host, problem } of hosts) if (problem) context.note(`host ${host} is left out: ${problem}`);
  const resources = await context.resources();
  const { unused, kept } = unusedBases(hosts, resources, historyOf(resources));
  return { bases: unused, kept, cache: await unusedCache(context.root) };
}

async function remove(context: Context, bases: readonly BaseVolume[], files: readonly string[]): Promise<string[]> {
  const uris = new Map((await context.plan()).hosts.map(({ name, uri }) => [name, uri]));
  const gone: string[] = [];
  for (const { host, path } of bases) {
    context.signal.throwIfAborted();
    await context.libvirt(uris.get(host) ?? "").deleteVolume(path);
    gone.push(path);
  }
  for (const file of files) {
    context.signal.throwIfAborted();
    fs.rmSync(file, { recursive: true, force: true });
    gone.push(file);
  }
  return gone;
}

function addDiff(group: Command): void {
  const command = verb(
    group,
    "diff <from> <to>",
    "packages that differ between two images, by path, name, id or digest",
  );
  does<object, [string, string]>(command, async (context, _options, from, to) => {
    const diff = packageDiff(await listedImage(context, from), await listedImage(context, to));
    return { json: { from, to, ...diff }, text: packageDiffText(diff) };
  });
}
