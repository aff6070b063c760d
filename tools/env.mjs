// The environment in which pulumi, the tests and the demo run.
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync } from "node:fs";
import { delimiter, join } from "node:path";
import { readJson, writeAtomically } from "./files.mjs";
import { ensureReaper, REAPER_DIR } from "./reaper.mjs";
import { readRecord } from "./toolchain.mjs";

const FILE = ".nixvm/env.json";

/** Makes what the environment points to: the state folder, and a passphrase that is never made twice. */
export function ensureHome(root) {
  mkdirSync(join(root, ".nixvm/state"), { recursive: true });
  ensureReaper(root);
  const passphrase = join(root, ".nixvm/passphrase");
  // Another one would make every secret in the state unreadable.
  if (!existsSync(passphrase)) writeAtomically(passphrase, `${randomBytes(24).toString("base64url")}\n`, 0o600);
}

/** Folders for the front of PATH, and variables; without those of the host, which `ensureHost` gives. */
function baseEnvironment(root) {
  const home = join(root, ".nixvm");
  const { parts } = readRecord(root);
  const fromSource = Object.values(parts).some((part) => part.way === "source");
  return {
    // The shim before the engine itself: docs/faults.md.
    path: [join(root, "tools/shim"), join(home, "bin"), join(root, "provider")],
    env: {
      PULUMI_HOME: join(home, "pulumi"),
      PULUMI_BACKEND_URL: `file://${join(home, "state")}`,
      PULUMI_CONFIG_PASSPHRASE_FILE: join(home, "passphrase"),
      PULUMI_DYNAMIC_TF_PLUGIN_CACHE_DIR: join(home, REAPER_DIR),
      PULUMI_SKIP_UPDATE_CHECK: "true",
      PULUMI_DISABLE_REGISTRY_RESOLVE: "true",
      // What could not be reached during set-up would only make an update wait for it.
      ...(fromSource ? { PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION: "true" } : {}),
    },
  };
}

/** Records the environment. Without `hostEnv` the one of the last time stays. */
export function writeEnvironment(root, hostEnv) {
  const old = readJson(join(root, FILE));
  const { path, env } = baseEnvironment(root);
  const host = hostEnv ?? (old?.root === root ? old.host : {}) ?? {};
  const content = { schema: 1, root, path, env: { ...env, ...host }, host };
  if (JSON.stringify(old) !== JSON.stringify(content)) {
    writeAtomically(join(root, FILE), `${JSON.stringify(content, null, 2)}\n`);
  }
}

/** Whether an environment was recorded for the checkout at its present place. */
export function environmentReady(root) {
  return readJson(join(root, FILE))?.root === root;
}

/** What to export, and what the user should know about it. */
export function readEnvironment(root, current = process.env) {
  const { path, env, host } = readJson(join(root, FILE)) ?? { ...baseEnvironment(root), host: {} };
  const result = { path, env: { ...env }, notes: [] };
  // Who has chosen a passphrase keeps it.
  if (current.PULUMI_CONFIG_PASSPHRASE !== undefined || current.PULUMI_CONFIG_PASSPHRASE_FILE) {
    delete result.env.PULUMI_CONFIG_PASSPHRASE_FILE;
  }
  const socket = /[?&]socket=([^&]+)/.exec(host.LIBVIRT_DEFAULT_URI ?? "")?.[1];
  if (!host.LIBVIRT_DEFAULT_URI) result.notes.push('nixvm: no libvirt chosen yet: "npm run setup" does that.');
  else if (socket && !existsSync(decodeURIComponent(socket))) {
    result.notes.push('nixvm: the private libvirtd is not running: "npm run setup" starts it.');
  }
  return result;
}

/** A word in single quotes, which a POSIX shell reads as it is. */
export function quote(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** `export K='v'` lines for `eval`. PATH is extended where the lines are run, not where they are made (npm changes it). */
export function exportLines({ path, env }) {
  const lines = Object.entries(env).map(([key, value]) => `export ${key}=${quote(value)}`);
  return [`export PATH=${quote(path.join(delimiter))}:"$PATH"`, ...lines].join("\n");
}

/**
 * The environment of a task's own process. Tests and demo have stacks of their own, wherever those of the user are; with `chosen` what
 * the user has set stays, such as the place of the state: a verb must see what `pulumi` by hand sees.
 */
export function taskEnvironment(root, current = process.env, { chosen = false } = {}) {
  const { path, env } = readEnvironment(root, current);
  return {
    ...(chosen ? { ...env, ...current } : { ...current, ...env }),
    PATH: [...path, current.PATH].filter(Boolean).join(delimiter),
  };
}
