// Adds to package-lock.json the optional packages of other platforms that npm left out: npm run lock
//
// Where a registry serves one platform only, npm writes a lock file without the others' packages, and `npm ci` then
// refuses that very file ("Missing: ... from lock file"). Their versions are pinned by the packages that name them.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { writeAtomically } from "./files.mjs";

const PLATFORM = /(android|darwin|freebsd|linux|openharmony|win32|aix|netbsd|openbsd|sunos)-([a-z0-9]+)/;

/** The lock with an entry for every optional dependency that has none, and the names of those added. */
export function completeLock(lock) {
  const packages = { ...lock.packages };
  const added = [];
  for (const [path, entry] of Object.entries(lock.packages)) {
    for (const [name, version] of Object.entries(entry.optionalDependencies ?? {})) {
      const known = `${path}/node_modules/${name}` in packages || `node_modules/${name}` in packages;
      const platform = PLATFORM.exec(name);
      // Only exact versions for a platform in their name can be written without asking a registry.
      if (known || !platform || !/^\d+\.\d+\.\d+/.test(version)) continue;
      packages[`node_modules/${name}`] = {
        version,
        cpu: [platform[2]],
        ...(entry.dev ? { dev: true } : {}),
        optional: true,
        os: [platform[1]],
      };
      added.push(`${name}@${version}`);
    }
  }
  const sorted = Object.entries(packages).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  return { lock: { ...lock, packages: Object.fromEntries(sorted) }, added };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const file = process.argv[2] ?? join(dirname(dirname(fileURLToPath(import.meta.url))), "package-lock.json");
  const { lock, added } = completeLock(JSON.parse(readFileSync(file, "utf8")));
  if (added.length > 0) writeAtomically(file, `${JSON.stringify(lock, null, 2)}\n`);
  console.log(added.length > 0 ? `added:\n  ${added.join("\n  ")}` : "nothing to add");
}
