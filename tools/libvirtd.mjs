// Which libvirt nixvm works on: the one the user names, the system's, or a private one of this checkout.
// Run by hand: node tools/libvirtd.mjs ensure|start|status|stop [--force] [--root DIR]
import { existsSync, mkdirSync, realpathSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { probeAccelerator } from "./accelerator.mjs";
import { findDaemon, ownsGuests, startEmbedded, stopEmbedded } from "./host-embedded.mjs";
import { embeddedHashOf, hostPaths } from "./host-paths.mjs";
import { findProgram, virsh, virshNames } from "./host-run.mjs";

const SYSTEM = "qemu:///system";
const SYSTEM_POOLS = "/var/lib/libvirt/images";
const SYSTEM_CONSOLES = "/var/log/libvirt/qemu";

/**
 * Makes sure that a libvirt answers. `log` gets one line at a time: what was chosen, and progress while something takes long.
 * Returns the environment for Pulumi, virsh and the provider, and the lines said.
 * @throws one clear message when there is no libvirt to work on
 */
export async function ensureHost({ root, log = () => {}, env = process.env }) {
  const lines = [];
  const say = (line) => {
    lines.push(line);
    log(line);
  };
  const host = await chooseHost({ paths: hostPaths(root, { env }), say, log, env });
  const accelerator = await acceleratorOf(host.uri, root);
  say(`accelerator: ${accelerator.accelerator} (${accelerator.why})`);
  return {
    env: {
      LIBVIRT_DEFAULT_URI: host.uri,
      NIXVM_ACCELERATOR: accelerator.accelerator,
      NIXVM_POOL_ROOT: host.pools,
      NIXVM_CONSOLE_DIR: host.consoles,
      // A private libvirtd has no network of its own: VMs that name none get QEMU's user mode (D8).
      ...(embeddedHashOf(host.uri) ? { NIXVM_NETWORK: "user" } : {}),
    },
    lines,
  };
}

async function chooseHost({ paths, say, log, env }) {
  const named = env.LIBVIRT_DEFAULT_URI;
  const hash = embeddedHashOf(named);
  // Our own environment, taken over by `eval "$(npm run -s env)"`, is no choice of the user's.
  if (named && !hash) return namedHost(named, { say, env });
  if (hash && hash !== paths.hash)
    say(`libvirt: LIBVIRT_DEFAULT_URI=${named} belongs to another checkout and is not used here`);
  if (findDaemon(paths) || ownsGuests(paths)) return embeddedHost(paths, { say, log });
  let why = "virsh is not installed";
  if (findProgram("virsh")) {
    const answer = await virsh(SYSTEM, ["uri"], { ms: 5000 });
    if (answer.ok) {
      say(`libvirt: ${SYSTEM} (the system's)`);
      return { uri: SYSTEM, pools: SYSTEM_POOLS, consoles: SYSTEM_CONSOLES };
    }
    why = answer.why;
  }
  log(`libvirt: ${SYSTEM} not usable (${why}): taking a private libvirtd`);
  return embeddedHost(paths, { say, log });
}

async function namedHost(uri, { say, env }) {
  // More time than for the system's: the connection may go over ssh.
  const answer = await virsh(uri, ["uri"], { ms: 15_000 });
  if (!answer.ok) {
    throw new Error(
      `LIBVIRT_DEFAULT_URI=${uri} does not answer (${answer.why}): correct it, or unset it to let nixvm choose`,
    );
  }
  say(`libvirt: ${uri} (from LIBVIRT_DEFAULT_URI)`);
  const session = /^qemu(\+\w+)?:\/\/[^/]*\/session/.test(uri);
  return {
    uri,
    pools: env.NIXVM_POOL_ROOT ?? (session ? join(homedir(), ".local/share/libvirt/images") : SYSTEM_POOLS),
    consoles: env.NIXVM_CONSOLE_DIR ?? (session ? join(homedir(), ".cache/libvirt/qemu/log") : SYSTEM_CONSOLES),
  };
}

async function embeddedHost(paths, { say, log }) {
  const start = await startEmbedded(paths, { log });
  const how = start.started ? `started in ${start.seconds.toFixed(1)} s` : "running";
  say(`libvirt: ${paths.uri} (private to this checkout, process ${start.pid}, ${how})`);
  return { uri: paths.uri, pools: paths.images, consoles: paths.console };
}

/** A libvirt on this machine is judged by a probe guest; another machine by what its libvirt says. */
async function acceleratorOf(uri, root) {
  if (/^qemu:\/\/\//.test(uri)) {
    mkdirSync(join(root, ".nixvm"), { recursive: true });
    return probeAccelerator({ cacheFile: join(root, ".nixvm", "accelerator.json") });
  }
  const answer = await virsh(uri, ["domcapabilities", "--virttype", "kvm"], { ms: 15_000 });
  return answer.ok ? { accelerator: "kvm", why: `${uri} offers it` } : { accelerator: "tcg", why: answer.why };
}

/** Stops this checkout's private libvirtd; refuses while guests run unless `force`. Others are never touched. */
export async function stopHost({ root, force = false, log = () => {} }) {
  const { stopped } = await stopEmbedded(hostPaths(root), { force, log });
  log(stopped ? "libvirtd: stopped" : "libvirtd: no private one runs for this checkout");
  return { stopped };
}

/** State of this checkout's private libvirtd, without starting anything. */
export async function hostStatus({ root }) {
  const paths = hostPaths(root);
  const daemon = findDaemon(paths);
  const base = { running: daemon !== undefined, uri: paths.uri, home: paths.home };
  if (!daemon) return { ...base, answers: false, guests: [] };
  const answers = existsSync(paths.socket) && (await virsh(paths.uri, ["uri"], { ms: 5000 })).ok;
  const guests = answers ? await virshNames(paths.uri, ["list", "--name"]) : [];
  return { ...base, pid: daemon.pid, answers, guests };
}

const USAGE = "usage: node tools/libvirtd.mjs ensure|start|status|stop [--force] [--root DIR]";

async function main(argv) {
  const [verb, ...rest] = argv;
  let root = join(dirname(fileURLToPath(import.meta.url)), "..");
  let force = false;
  while (rest.length) {
    const option = rest.shift();
    if (option === "--force" && verb === "stop") force = true;
    else if (option === "--root" && rest.length) root = rest.shift();
    else throw new Error(`unknown argument ${option}; ${USAGE}`);
  }
  if (!existsSync(root)) throw new Error(`--root ${root}: no such folder`);
  const log = (line) => console.error(line);
  if (verb === "ensure") {
    const { env } = await ensureHost({ root, log });
    for (const [name, value] of Object.entries(env)) console.log(`${name}=${value}`);
  } else if (verb === "start") {
    const paths = hostPaths(root);
    await embeddedHost(paths, { say: log, log });
    console.log(paths.uri);
  } else if (verb === "stop") {
    await stopHost({ root, force, log });
  } else if (verb === "status") {
    const status = await hostStatus({ root });
    console.log(JSON.stringify(status));
    if (!status.answers) process.exitCode = 1;
  } else throw new Error(USAGE);
}

if (
  process.argv[1] &&
  existsSync(process.argv[1]) &&
  realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)
) {
  main(process.argv.slice(2)).catch((error) => {
    console.error(`error: ${error.message}`);
    process.exitCode = 1;
  });
}
