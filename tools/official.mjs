// The way with Pulumi's own downloads, and whether it is open.
import { createReadStream, existsSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "./errors.mjs";
import { capture, logged, which } from "./exec.mjs";
import { sha256File } from "./files.mjs";
import { HOSTS, LIBVIRT, OPENTOFU_ADDRESS, PULUMI } from "./parts.mjs";

const PROBE_MS = 4500;
// What a program in TypeScript can ask of a release: the CLI, its language host, dynamic providers, policy packs.
const WANTED = ["pulumi", "pulumi-language-nodejs", "pulumi-resource-pulumi-nodejs", "pulumi-analyzer-policy"];

/** curl where there is one: it knows about proxies, which Node 20's fetch does not. */
async function answers(url) {
  const curl = which("curl");
  if (curl) {
    const args = ["-sSfIL", "-o", "/dev/null", "--max-time", String(PROBE_MS / 1000), url];
    return logged({ log: "/dev/null" }, curl, args).then(
      () => true,
      () => false,
    );
  }
  return fetch(url, { method: "HEAD", signal: AbortSignal.timeout(PROBE_MS) }).then(
    (response) => response.ok,
    () => false,
  );
}

/** Which of HOSTS answer; all are asked at once, and none is waited for longer than the limit. */
export async function probe(hosts = HOSTS) {
  const results = await Promise.all(Object.entries(hosts).map(async ([key, url]) => [key, await answers(url)]));
  return Object.fromEntries(results);
}

async function download(url, file, options) {
  const curl = which("curl");
  if (curl) return logged(options, curl, ["-fL", "--retry", "2", "-o", file, url]);
  const response = await fetch(url);
  if (!response.ok) throw new UserError(`nixvm: ${url} answered ${response.status} ${response.statusText}`);
  return writeFile(file, response.body);
}

/** The published checksum of a release file, or undefined where the list cannot be had. */
async function publishedChecksum(name, dir, options) {
  const list = join(dir, "checksums.txt");
  const url = `https://github.com/pulumi/pulumi/releases/download/v${PULUMI}/pulumi-${PULUMI}-checksums.txt`;
  try {
    await download(url, list, options);
  } catch {
    return undefined;
  }
  const chunks = [];
  for await (const chunk of createReadStream(list)) chunks.push(chunk);
  const line = Buffer.concat(chunks)
    .toString()
    .split("\n")
    .find((text) => text.trim().endsWith(name));
  return line?.trim().split(/\s+/)[0];
}

/** Downloads the release and returns the files to install: name in bin/ and where it lies now. */
export async function downloadPulumi(dir, options) {
  mkdirSync(dir, { recursive: true });
  const name = `pulumi-v${PULUMI}-linux-${process.arch}.tar.gz`;
  const archive = join(dir, name);
  await download(HOSTS.pulumi, archive, options);
  const published = await publishedChecksum(name, dir, options);
  const actual = sha256File(archive);
  if (published === undefined)
    options.line(`pulumi ${PULUMI}: no published checksum could be read, sha256 is ${actual}`);
  else if (published !== actual) {
    throw new UserError(`nixvm: ${HOSTS.pulumi} has sha256 ${actual}, but ${published} is published: not installed.`);
  }
  await logged(options, "tar", ["-xzf", archive, "-C", dir]);
  rmSync(archive);
  const unpacked = join(dir, "pulumi");
  return readdirSync(unpacked)
    .filter((file) => WANTED.includes(file))
    .map((file) => ({ name: file, from: join(unpacked, file) }));
}

/** Lets the CLI install a resource plugin below PULUMI_HOME. */
export async function installPlugin(pulumi, env, [name, version], options) {
  // An unfinished one in its place would count as installed.
  await logged({ ...options, env }, pulumi, ["plugin", "install", "resource", name, version, "--reinstall", "--exact"]);
}

/** Lets the bridge fetch the libvirt provider: asking for its schema by name is enough. */
export async function fetchLibvirtProvider(pulumi, env, options) {
  const args = ["package", "get-schema", "terraform-provider", OPENTOFU_ADDRESS, LIBVIRT];
  await logged({ ...options, env, sweep: true }, pulumi, args);
}

/** The version of a pulumi command, as numbers, or undefined. */
export function pulumiVersion(file) {
  const output = capture(file, ["version"], { env: { ...process.env, PULUMI_SKIP_UPDATE_CHECK: "true" } });
  return /v?(\d+)\.(\d+)\.(\d+)/
    .exec(output ?? "")
    ?.slice(1, 4)
    .map(Number);
}

/** Moves a finished file to its place in one step. */
export function install(from, to) {
  if (!existsSync(from)) throw new UserError(`nixvm: ${from} was not made`);
  renameSync(from, to);
}
