// Sets up what is missing, in order, once at a time, and says what it does. Broken off anywhere, it can be run again.
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { ensureHome, environmentReady, writeEnvironment } from "./env.mjs";
import { logged } from "./exec.mjs";
import { withLock } from "./lock.mjs";
import { build as compile, buildReady, installModules, modulesReady } from "./modules.mjs";
import { installPackages, missingPackages, packagesFor, privilege, requireKnownDistribution } from "./packages.mjs";
import { elapsed, progress as makeProgress } from "./progress.mjs";
import { beginFetching, ensureToolchain, missingParts } from "./toolchain.mjs";
import { taskEnvironment } from "./env.mjs";

/** What has to be set up before `pulumi` can be used by hand; empty when nothing. */
export function unready(root) {
  const missing = [];
  if (!modulesReady(root)) missing.push("node_modules");
  if (missingParts(root).length > 0) missing.push("tool chain");
  if (!environmentReady(root)) missing.push("environment");
  return missing;
}

/**
 * @param needs which of packages, testPackages, modules, build, toolchain, host, images the task needs.
 * @param build "tolerate" goes on where the program does not compile.
 * @param force "source" or "official": the only way allowed for the tool chain.
 * @param quiet say nothing when there was nothing to do.
 * @param thorough compare checksums of all installed artefacts.
 */
export async function setup({ root, needs, build, force, thorough = false, quiet = false }) {
  const start = Date.now();
  const progress = makeProgress();
  let steps = 0;
  const step = (label, work, options) => {
    if (!options?.quiet) steps++;
    return progress.step(label, work, options);
  };
  const counting = { ...progress, step };

  // Before anything is written: this may end with what the user has to do first.
  const missing = missingPackages({ packages: packagesFor(needs) });
  if (missing.length > 0) requireKnownDistribution(missing);
  const before = missing.length > 0 ? privilege(missing) : [];

  const home = join(root, ".nixvm");
  mkdirSync(join(home, "log"), { recursive: true });
  const log = (name) => join(home, "log", `${name}.log`);
  const waiting = (pid) => progress.line(`waiting for another set-up in this checkout (process ${pid}) to end`);
  await withLock(join(home, "setup.lock"), waiting, async () => {
    const context = { root, needs, build, force, thorough, progress: counting, log };
    if (missing.length > 0) await setUpPackages(missing, before, context);
    const toolchain = { force, thorough, log: log("toolchain") };
    const stopFetching = needs.includes("toolchain") ? beginFetching(root, toolchain) : () => undefined;
    try {
      await setUpProgram(context);
      if (needs.includes("images")) await setUpImages(context);
      if (needs.includes("toolchain")) {
        await ensureToolchain(root, { ...toolchain, progress: counting, stopFetching });
        ensureHome(root);
        writeEnvironment(root);
      }
    } finally {
      await stopFetching();
    }
    if (needs.includes("host")) await setUpHost(context);
  });
  if (!quiet || steps > 0) progress.line(`${steps === 0 ? "ready" : "done"} (${elapsedPrecisely(Date.now() - start)})`);
}

function elapsedPrecisely(ms) {
  return ms < 10000 ? `${(ms / 1000).toFixed(1)} s` : elapsed(ms);
}

async function setUpPackages(missing, before, { progress, log }) {
  const names = missing.length > 3 ? `${missing.length} system packages` : missing.join(", ");
  await progress.step(`${names} from the distribution`, (detail) =>
    installPackages(missing, before, { log: log("apt"), line: progress.line, detail }),
  );
}

async function setUpProgram({ root, needs, build, progress, log }) {
  if (needs.includes("modules") && !modulesReady(root)) {
    await progress.step("node_modules", (detail) => installModules(root, { log: log("npm"), detail }));
  }
  if (needs.includes("build") && !buildReady(root)) {
    const compiled = progress.step("compiled program", (detail) => compile(root, { log: log("tsc"), detail }));
    await (build === "tolerate"
      ? compiled.catch(() => progress.line("the program does not compile; the task goes on and says why"))
      : compiled);
  }
}

async function setUpHost({ root, progress }) {
  const { ensureHost } = await import("./libvirtd.mjs");
  const told = new Set();
  const tell = (text) => told.has(text) || (told.add(text), progress.line(text));
  const { env, lines } = await ensureHost({ root, log: tell });
  lines?.forEach(tell);
  writeEnvironment(root, env);
}

/** The builder decides by the digest of its inputs whether there is anything to do. */
async function setUpImages({ root, progress, log }) {
  const builder = join(root, "images/build-all");
  if (!existsSync(builder)) return;
  const env = taskEnvironment(root);
  const make = (detail) => logged({ log: log("images"), cwd: root, env, detail }, builder, []);
  await progress.step("reference images", make, { quiet: true });
}
