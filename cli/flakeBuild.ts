import { type ChildProcess, spawn } from "node:child_process";
import * as fs from "node:fs/promises";
import * as path from "node:path";
import {
  type BuildHost,
  type Flake,
  flakeDir,
  flakeFiles,
  type FlakeRecord,
  inputsDigest,
  lastBuilt,
} from "../components/flakes";
import { withFolder } from "../provider/folder";
import { CliError, Interrupted, wrongInput, wrongState } from "./errors";
import { withKey } from "./sshAgent";
import { replaceFile } from "./wholeFile";

/** Flakes are still behind a switch in Nix. */
const NIX = ["--extra-experimental-features", "nix-command flakes"];

/** How a build goes. */
export interface BuildOptions {
  cacheDir: string;
  /** Unset: this machine. */
  on?: BuildHost;
  /** Also when nothing has changed. */
  force: boolean;
  signal: AbortSignal;
  note: (line: string) => void;
}

/** An image that is there now. */
export interface Built {
  record: FlakeRecord;
  /** False: it was there already. */
  made: boolean;
}

/** Builds the image of a flake unless the last one is of the very same inputs. What was built before stays until the new one is there. */
export async function buildFlake(flake: Flake, options: BuildOptions): Promise<Built> {
  if (flake.folder !== undefined) await needFlake(flake);
  const inputs = await inputsDigest(flake);
  const before = await lastBuilt(flake, options.cacheDir);
  if (before?.inputs === inputs && !options.force) return { record: before, made: false };
  const place = flakeDir(flake, options.cacheDir);
  await fs.mkdir(place, { recursive: true });
  const output = options.on
    ? await withKey(options.on.privateKey, (env) => buildThere(flake, options.on!, env, place, options))
    : { ...(await buildHere(flake, place, options)), where: "this machine" };
  const record: FlakeRecord = {
    schema: 1,
    flake: flake.text,
    inputs,
    file: await diskOf(output.folder, flake),
    storePath: output.storePath,
    builtAt: new Date().toISOString(),
    builtOn: output.where,
  };
  const target = path.join(place, "record.json");
  replaceFile(target, `${JSON.stringify(record, null, 2)}\n`, 0o666);
  await removeFormer(place, record.file);
  return { record, made: true };
}

async function needFlake(flake: Flake): Promise<void> {
  const there = await fs.access(path.join(flake.folder ?? "", "flake.nix")).then(
    () => true,
    () => false,
  );
  if (!there) throw wrongInput("flake", flake.text, "is a folder without a flake.nix", "the folder of a flake");
}

/** The files of a flake, and nothing else, under one name: then the same files have the same store path wherever they were. */
async function withSource<T>(flake: Flake, use: (ref: string, folder: string) => Promise<T>): Promise<T> {
  if (flake.folder === undefined) return use(`${flake.ref}#${flake.attr}`, "");
  const { folder: from } = flake;
  return withFolder(async (folder) => {
    const source = path.join(folder, "source");
    for (const name of await flakeFiles(from)) {
      await fs.mkdir(path.dirname(path.join(source, name)), { recursive: true });
      await fs.cp(path.join(from, name), path.join(source, name), { verbatimSymlinks: true });
    }
    return use(`path:${source}#${flake.attr}`, source);
  });
}

/** The link in the cache keeps the image from Nix's garbage collection. */
async function buildHere(
  flake: Flake,
  place: string,
  options: BuildOptions,
): Promise<{ folder: string; storePath: string }> {
  return withSource(flake, async (ref) => {
    const refresh = options.force && flake.folder === undefined ? ["--refresh"] : [];
    const args = [...NIX, "build", "--print-out-paths", "--no-write-lock-file", ...refresh];
    const child = start("nix", [...args, "--out-link", path.join(place, "result"), ref], process.env, options);
    child.stdin?.end();
    const printed = text(child.stdout);
    await ended(child, `nix build ${flake.text}`, "nix", options);
    const [storePath = ""] = (await printed).trim().split("\n");
    return { folder: storePath, storePath };
  });
}

/** One connection: the sources go in, the image comes out. Nothing is left on the build host but in its store. */
async function buildThere(
  flake: Flake,
  on: BuildHost,
  env: NodeJS.ProcessEnv,
  place: string,
  options: BuildOptions,
): Promise<{ folder: string; storePath: string; where: string }> {
  const where = `${on.user ? `${on.user}@` : ""}${on.host}`;
  const target = path.join(place, `image-${Date.now()}`);
  const part = `${target}.part-${process.pid}`;
  await fs.mkdir(part, { recursive: true });
  try {
    await withSource(flake, async (ref, source) => {
      const port = on.port === undefined ? [] : ["-p", String(on.port)];
      const script = remoteScript(flake, ref, options.force);
      const ssh = start("ssh", [...port, "-o", "BatchMode=yes", "-T", "--", where, script], env, options);
      // -m: the store has no times, and the digest of a file is remembered by its time.
      const unpack = start("tar", ["-x", "-m", "-C", part], env, options);
      ssh.stdout?.pipe(unpack.stdin!);
      const pack = source === "" ? undefined : start("tar", ["-c", "-C", source, "."], env, options);
      if (pack) pack.stdout?.pipe(ssh.stdin!);
      else ssh.stdin?.end();
      for (const pipe of [ssh.stdin, unpack.stdin]) pipe?.on("error", () => undefined);
      // Of all that fail the first one has the reason.
      const done = [
        ended(ssh, `building ${flake.text} on ${where}`, "ssh", options),
        ended(unpack, `unpacking what ${where} has built`, "tar", options),
        ...(pack ? [ended(pack, `packing ${flake.folder}`, "tar", options)] : []),
      ];
      const failed = (await Promise.allSettled(done)).find(({ status }) => status === "rejected");
      if (failed) throw (failed as PromiseRejectedResult).reason;
    });
    const storePath = (await fs.readFile(path.join(part, ".store-path"), "utf8")).trim();
    await fs.rename(part, target);
    return { folder: target, storePath, where };
  } finally {
    await fs.rm(part, { recursive: true, force: true });
  }
}

const quote = (word: string): string => `'${word.replaceAll("'", `'\\''`)}'`;

/** Run by the login shell of the build host; only `sh` is asked of it, as that may be any shell. */
function remoteScript(flake: Flake, ref: string, force: boolean): string {
  const local = flake.folder !== undefined;
  const refresh = force && !local ? " --refresh" : "";
  const lines = [
    "set -eu",
    'work=$(mktemp -d); trap \'rm -rf "$work"\' EXIT; trap "exit 130" INT TERM HUP',
    "command -v nix > /dev/null || { echo 'nix is not on the PATH of the build host' >&2; exit 127; }",
    ...(local ? ['mkdir "$work/source"', 'tar -x -C "$work/source"'] : []),
    `out=$(nix ${NIX.map(quote).join(" ")} build --print-out-paths --no-link --no-write-lock-file${refresh} ` +
      `${local ? `"path:$work/source#"${quote(flake.attr)}` : quote(ref)})`,
    'printf "%s\\n" "$out" > "$work/.store-path"',
    'tar -c --mode=u+w -C "$work" .store-path -C "$out" .',
  ];
  return `sh -c ${quote(lines.join("\n"))}`;
}

/** The one disk image of a build; a qcow2 wins, as it is what gets shipped. */
async function diskOf(folder: string, flake: Flake): Promise<string> {
  const names = await fs.readdir(folder).catch(() => []);
  const disks = names.filter((name) => /\.(qcow2|raw|img)(\.zst)?$/.test(name));
  const packed = disks.filter((name) => /\.qcow2(\.zst)?$/.test(name));
  const [disk, ...more] = packed.length > 0 ? packed : disks;
  if (disk === undefined || more.length > 0) {
    const found = disk === undefined ? `none of ${names.join(", ") || "no files"}` : `${disk}, ${more.join(", ")}`;
    throw new CliError(
      `${flake.text} was built, but is no image: one .qcow2, .raw or .img is expected, found ${found}`,
    );
  }
  return fs.realpath(path.join(folder, disk));
}

/** Images that came over SSH before this one. */
async function removeFormer(place: string, file: string): Promise<void> {
  for (const name of await fs.readdir(place)) {
    const keep = !name.startsWith("image-") || file.startsWith(path.join(await fs.realpath(place), name) + path.sep);
    if (!keep) await fs.rm(path.join(place, name), { recursive: true, force: true });
  }
}

function start(command: string, args: string[], env: NodeJS.ProcessEnv, options: BuildOptions): ChildProcess {
  return spawn(command, args, { env, stdio: ["pipe", "pipe", "pipe"], signal: options.signal });
}

async function text(stream: NodeJS.ReadableStream | null): Promise<string> {
  let all = "";
  for await (const chunk of stream ?? []) all += chunk.toString();
  return all;
}

/** What it says on the way is shown; the end of it is the reason when it fails. */
function ended(child: ChildProcess, what: string, program: string, options: BuildOptions): Promise<void> {
  const tail: string[] = [];
  let open = "";
  child.stderr?.setEncoding("utf8").on("data", (chunk: string) => {
    const lines = (open + chunk).split(/[\r\n]+/);
    open = lines.pop() ?? "";
    for (const line of lines.filter((one) => one.trim() !== "")) {
      tail.push(line);
      options.note(`  ${line}`);
    }
  });
  return new Promise((resolve, reject) => {
    child.on("error", (error: NodeJS.ErrnoException) => {
      if (options.signal.aborted) return reject(new Interrupted(`${what}: broken off; the former image stays`));
      if (error.code !== "ENOENT") return reject(error);
      const way = program === "nix" ? ", or name a build host (images.<name>.buildHost, or --build-host)" : "";
      reject(wrongState(`${what}: ${program} is not on the PATH of this machine; install it${way}`));
    });
    child.on("close", (code) => {
      if (code === 0) return resolve();
      const why = [...tail, open].filter((line) => line.trim() !== "").slice(-5);
      reject(new CliError(`${what} failed (exit code ${code}): ${why.join("\n  ").trim() || "without a message"}`));
    });
  });
}
