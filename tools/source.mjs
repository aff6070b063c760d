// The way without Pulumi's downloads: built from source through the Go module proxy.
import { copyFileSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "./errors.mjs";
import { capture, logged, which } from "./exec.mjs";
import { filesBelow, sha256Of } from "./files.mjs";
import { GO } from "./parts.mjs";

/** What a part is built from, as a digest: a change of any of it makes the part again. */
export function recipe(root, part) {
  const { source } = part;
  const tools = join(root, "tools");
  // A package of another module is pinned by these two; a package of ours has its sources here.
  const pins = ["go.mod", "go.sum"];
  const own = source.package?.startsWith("./");
  const below = source.copy ? [] : own ? filesBelow(join(tools, "src", source.dir)) : pins;
  const files = source.copy ? [source.copy] : below.map((file) => `src/${source.dir}/${file}`);
  return sha256Of(JSON.stringify(source), ...files.flatMap((file) => [file, readFileSync(join(tools, file))]));
}

/** The go command, or an error that says what to do. */
export function requireGo(go = which("go") ?? which("go", "/usr/local/go/bin")) {
  const need = GO.join(".");
  const why = "the tool chain has to be built from source here";
  if (!go)
    throw new UserError(`nixvm: Go is not installed, and ${why}: install Go ${need} or newer (https://go.dev/dl/).`, 2);
  const version = /go(\d+)\.(\d+)\S*/.exec(
    capture(go, ["version"], { env: { ...process.env, GOTOOLCHAIN: "local" } }) ?? "",
  );
  const [major, minor] = version ? [Number(version[1]), Number(version[2])] : [0, 0];
  if (major < GO[0] || (major === GO[0] && minor < GO[1])) {
    const found = version?.[0] ?? "of an unknown version";
    throw new UserError(`nixvm: ${go} is ${found}, and ${why}: install Go ${need} or newer (https://go.dev/dl/).`, 2);
  }
  return go;
}

const cacheDir = (root) => join(root, ".nixvm/cache/go");

/** The user's proxy settings count; whatever would change the result, or write to the home folder, does not. */
export function goEnvironment(root, go, env = process.env) {
  const cache = cacheDir(root);
  const kept = Object.entries(env).filter(
    ([key]) => !/^(GOFLAGS|GOWORK|GOOS|GOARCH|GOEXPERIMENT|GOBIN|GO111MODULE)$/.test(key),
  );
  const settings = capture(go, ["env", "GOENV"])?.trim();
  return {
    ...Object.fromEntries(kept),
    // Telemetry counters go to the configuration folder, so that one is ours; the user's `go env -w` file is named.
    ...(settings && settings !== "off" ? { GOENV: settings } : {}),
    XDG_CONFIG_HOME: join(cache, "config"),
    GOPATH: join(cache, "path"),
    GOMODCACHE: env.GOMODCACHE || join(cache, "mod"),
    GOCACHE: env.GOCACHE || join(cache, "build"),
    GOTOOLCHAIN: "local",
    GOWORK: "off",
    CGO_ENABLED: "0",
    // Every module is pinned by a committed go.sum, so the checksum database is never asked.
    GOFLAGS: "-mod=readonly -trimpath -buildvcs=false -modcacherw",
  };
}

/**
 * Debug information is thrown away by the linker anyway (-s -w). The clients of cloud services are most of what is compiled and
 * hardly ever run: without inlining they cost a third less. The same for all parts, which share what was compiled.
 */
const CLOUDS = [
  "github.com/aws/...",
  "github.com/Azure/...",
  "github.com/AzureAD/...",
  "cloud.google.com/...",
  "google.golang.org/api/...",
];
const COMPILER = ["all=-dwarf=false", ...CLOUDS.map((of) => `${of}=-dwarf=false -l`)].map(
  (flags) => `-gcflags=${flags}`,
);

/** Makes the part's file at `out`. */
export async function makeFromSource(root, part, out, { log, detail }) {
  const { source } = part;
  if (source.copy) return copyFileSync(join(root, "tools", source.copy), out);
  const go = requireGo();
  const ldflags = `-s -w ${source.ldflags}`.trim();
  const args = ["build", "-v", ...COMPILER, "-ldflags", ldflags, "-o", out, source.package];
  const env = goEnvironment(root, go);
  // `go` names every package as it gets to it: a count tells more than the name of one.
  let packages = 0;
  const count = (text) => detail(/^go: downloading/.test(text) ? text.slice(4) : `${++packages} packages compiled`);
  await logged({ log, cwd: join(root, "tools/src", source.dir), env, detail: count }, go, args);
}

/** Fetches what parts are built from. The build tries again what failed. */
export async function fetchAhead(root, parts, { log, signal }) {
  const go = requireGo();
  const env = goEnvironment(root, go);
  // Only what the package needs, where `go mod download` fetches all that is in go.mod.
  for (const { source } of parts.filter((part) => part.source?.package)) {
    const args = ["list", "-deps", "-f", "{{with .Error}}{{.}}{{end}}", source.package];
    await logged({ log, cwd: join(root, "tools/src", source.dir), env, signal }, go, args).catch(() => undefined);
    if (signal.aborted) return;
  }
}

/** Some gigabytes that only another build from source would use. */
export function removeCaches(root) {
  rmSync(cacheDir(root), { recursive: true, force: true });
}
