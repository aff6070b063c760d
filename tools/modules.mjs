// node_modules and the compiled program: made when what they are made from has changed.
import { copyFileSync, existsSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "./errors.mjs";
import { logged, which } from "./exec.mjs";
import { filesBelow, readJson, sha256Of, writeAtomically } from "./files.mjs";

const MODULES_STAMP = ".nixvm/modules.json";
const BUILD_STAMP = ".nixvm/build.json";
// The folders of tsconfig.json's "include".
const SOURCE_DIRS = ["components", "provider", "cli", "types"];

function lockDigest(root) {
  return sha256Of(readFileSync(join(root, "package-lock.json")));
}

/** npm writes this record last, so a broken-off installation has none. */
const HIDDEN_LOCK = "node_modules/.package-lock.json";

/** Whether node_modules holds just what the lock file names, as far as npm's own record of it goes. */
function matchesLock(root) {
  const wanted = readJson(join(root, "package-lock.json"))?.packages;
  const present = readJson(join(root, HIDDEN_LOCK))?.packages;
  if (!wanted || !present) return false;
  const same = ([path, entry]) => {
    const found = present[path];
    // Optional ones for other platforms are in the lock file only.
    if (!found) return entry.optional === true;
    return found.version === entry.version && found.integrity === entry.integrity;
  };
  const ours = Object.entries(wanted).filter(([path]) => path !== "");
  return ours.every(same) && Object.keys(present).every((path) => path in wanted);
}

/** Whether node_modules is what package-lock.json asks for. */
export function modulesReady(root) {
  if (!existsSync(join(root, HIDDEN_LOCK))) return false;
  const digest = lockDigest(root);
  if (readJson(join(root, MODULES_STAMP))?.lock === digest) return true;
  if (!matchesLock(root)) return false;
  writeAtomically(join(root, MODULES_STAMP), JSON.stringify({ lock: digest }));
  return true;
}

export async function installModules(root, { log, detail }) {
  const npm = which("npm");
  if (!npm)
    throw new UserError("nixvm: npm is not on PATH: install it (it comes with Node.js), then run this again.", 2);
  rmSync(join(root, MODULES_STAMP), { force: true });
  // The cache stays in the checkout: nothing of this set-up goes to the user's home.
  const cache = join(root, ".nixvm/cache/npm");
  // Nor do scripts of packages run: one of them installs a plugin there, and none is needed.
  const args = [
    "ci",
    "--ignore-scripts",
    "--include=dev",
    "--no-fund",
    "--no-audit",
    "--loglevel=http",
    "--cache",
    cache,
  ];
  let fetched = 0;
  const count = (text) => /^npm http fetch/.test(text) && detail(`${++fetched} packages fetched`);
  await logged({ log, detail: count, cwd: root }, npm, args);
  rmSync(cache, { recursive: true, force: true });
  writeAtomically(join(root, MODULES_STAMP), JSON.stringify({ lock: lockDigest(root) }));
}

/** What tsc compiles: the generated SDK on its own, then the program against it. */
const PROJECTS = [
  // The SDK reads its own version from beside its compiled code, as its install script would have put it there.
  { dir: "sdks/libvirt", sources: ["."], outDir: "sdks/libvirt/bin", copies: ["package.json"] },
  { dir: ".", sources: ["index.ts", ...SOURCE_DIRS], outDir: "bin" },
];

/** The project's TypeScript files, relative to its folder. */
function sources(root, project) {
  const base = join(root, project.dir);
  const skip = /^(bin|node_modules)\//;
  const found = project.sources.flatMap((name) => {
    const path = join(base, name);
    if (name.endsWith(".ts")) return existsSync(path) ? [name] : [];
    return filesBelow(path).map((file) => join(name, file));
  });
  return found.filter((file) => file.endsWith(".ts") && !skip.test(file));
}

/** Size and time of every source, and the set of packages it is compiled against. */
function sourceDigest(root, project) {
  const stats = [...sources(root, project), "tsconfig.json"].map((file) => {
    const { size, mtimeMs } = statSync(join(root, project.dir, file));
    return `${file} ${size} ${mtimeMs}`;
  });
  // The program is compiled against what is compiled before it.
  const before = PROJECTS.slice(0, PROJECTS.indexOf(project)).map((other) => sourceDigest(root, other));
  return sha256Of(lockDigest(root), ...before, ...stats);
}

function complete(root, project) {
  const compiled = sources(root, project).filter((file) => !file.endsWith(".d.ts"));
  const made = [...compiled.map((file) => file.replace(/\.ts$/, ".js")), ...(project.copies ?? [])];
  return made.every((file) => existsSync(join(root, project.outDir, file)));
}

function staleProjects(root) {
  const stamp = readJson(join(root, BUILD_STAMP)) ?? {};
  return PROJECTS.filter((project) => stamp[project.dir] !== sourceDigest(root, project) || !complete(root, project));
}

/** Whether everything is compiled from the sources as they are now. */
export function buildReady(root) {
  return staleProjects(root).length === 0;
}

export async function build(root, { log, detail }) {
  for (const project of staleProjects(root)) {
    const digest = sourceDigest(root, project);
    const stamp = readJson(join(root, BUILD_STAMP)) ?? {};
    delete stamp[project.dir];
    writeAtomically(join(root, BUILD_STAMP), JSON.stringify(stamp));
    // An incremental build makes nothing again that it has a record of, not even what was deleted.
    if (!complete(root, project)) rmSync(join(root, project.outDir, ".tsbuildinfo"), { force: true });
    const tsc = join(root, "node_modules/typescript/bin/tsc");
    await logged({ log, detail, cwd: root }, process.execPath, [tsc, "-p", join(root, project.dir)]);
    for (const file of project.copies ?? []) {
      copyFileSync(join(root, project.dir, file), join(root, project.outDir, file));
    }
    writeAtomically(join(root, BUILD_STAMP), JSON.stringify({ ...stamp, [project.dir]: digest }));
  }
}
