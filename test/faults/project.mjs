// A stack of the real program with a state of its own, run by the pulumi of the set-up.
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parse } from "yaml";
import { taskEnvironment } from "../../tools/env.mjs";

export const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const running = new Set();

/** Ends every engine that is still at work. */
export function endRuns() {
  for (const child of running) child.kill("SIGKILL");
}

export class Project {
  /** A run that takes longer than `limitMs` hangs, and is killed. */
  constructor(dir, stack, limitMs) {
    Object.assign(this, { dir, stack, limitMs });
    this.state = join(dir, "state");
    this.file = join(dir, `stacks/Pulumi.${stack}.yaml`);
    const env = taskEnvironment(ROOT);
    this.env = {
      ...env,
      PATH: [...["tools/shim", ".nixvm/bin", "provider"].map((path) => join(ROOT, path)), env.PATH].join(delimiter),
      PULUMI_BACKEND_URL: `file://${this.state}`,
      PULUMI_CONFIG_PASSPHRASE: "faults",
      NIXVM_ACCELERATOR: "tcg",
    };
    for (const part of ["stacks", "state"]) mkdirSync(join(dir, part), { recursive: true });
    for (const part of ["bin", "node_modules", "provider", "tools", "package.json", "Pulumi.yaml"]) {
      if (!existsSync(join(dir, part))) symlinkSync(join(ROOT, part), join(dir, part));
    }
  }

  async init() {
    const { code, text } = await this.run(["stack", "init", this.stack]);
    if (code !== 0) throw new Error(text);
  }

  /** Writes another stack file. What is not ours in it stays. */
  configure(config) {
    const now = existsSync(this.file) ? (parse(readFileSync(this.file, "utf8")) ?? {}) : {};
    const named = Object.fromEntries(Object.entries(config).map(([key, value]) => [`nixvm:${key}`, value]));
    // YAML takes JSON as it is.
    writeFileSync(this.file, JSON.stringify({ ...now, config: named }, null, 1));
  }

  /** Runs pulumi to its end; `started` gets the process id. */
  run(args, started = () => {}) {
    const began = performance.now();
    const child = spawn("pulumi", [...args, "--non-interactive", ...stackOf(args, this.stack)], {
      cwd: this.dir,
      env: this.env,
      stdio: ["ignore", "pipe", "pipe"],
    });
    let text = "";
    child.stdout.on("data", (data) => (text += data));
    child.stderr.on("data", (data) => (text += data));
    started(child.pid);
    running.add(child);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        text += `\n[the harness killed it after ${this.limitMs / 1000} s]`;
        child.kill("SIGKILL");
      }, this.limitMs);
      child.on("error", reject);
      // Not "close": orphans of a killed engine may hold the pipe for a while.
      child.on("exit", (code, signal) => {
        clearTimeout(timer);
        running.delete(child);
        setTimeout(() => {
          child.stdout.destroy();
          child.stderr.destroy();
          resolve({ code: code ?? 1, signal, text, seconds: (performance.now() - began) / 1000 });
        }, 20);
      });
    });
  }

  up(started, refresh = false) {
    return this.run(["up", "--yes", "--skip-preview", ...(refresh ? ["--refresh"] : [])], started);
  }

  /** The state as it lies on disk; throws when it is no JSON. */
  deployment() {
    const file = join(this.state, ".pulumi/stacks/nixvm", `${this.stack}.json`);
    return JSON.parse(readFileSync(file, "utf8")).checkpoint.latest ?? { resources: [] };
  }
}

function stackOf(args, stack) {
  return args[0] === "stack" && args[1] === "init" ? [] : ["--stack", stack];
}
