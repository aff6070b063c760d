// A stack of the real program in a temporary folder, with a pool of its own, for measurements.
import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { taskEnvironment } from "../tools/env.mjs";

export const root = dirname(dirname(fileURLToPath(import.meta.url)));

export const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];

export class BenchStack {
  dir = mkdtempSync(join(tmpdir(), "nixvm-bench-"));
  env = {
    ...taskEnvironment(root),
    PULUMI_BACKEND_URL: `file://${join(this.dir, "state")}`,
    PULUMI_CONFIG_PASSPHRASE: "bench",
  };
  uri = this.env.LIBVIRT_DEFAULT_URI;
  file = join(this.dir, "stacks/Pulumi.bench.yaml");

  /** `config(protect)` gives the stack file's text. */
  constructor(config) {
    this.config = config;
    for (const part of ["bin", "node_modules", "provider", "Pulumi.yaml"]) {
      symlinkSync(join(root, part), join(this.dir, part));
    }
    mkdirSync(join(this.dir, "state"));
    mkdirSync(join(this.dir, "stacks"));
    writeFileSync(this.file, config(true));
  }

  init() {
    return this.run("pulumi", ["stack", "init", "bench"]);
  }

  /** Not in the way of timers: what is measured may be read from a log meanwhile. */
  run(command, args, input = "") {
    const began = performance.now();
    return new Promise((resolve, reject) => {
      const options = { cwd: this.dir, env: this.env, maxBuffer: 1 << 28 };
      const child = execFile(command, args, options, (error, out, err) => {
        if (error) reject(new Error(`${command} ${args.join(" ")}: exit code ${error.code}\n${out}\n${err}`));
        else resolve({ seconds: (performance.now() - began) / 1000, out });
      });
      child.stdin.end(input);
    });
  }

  up(...args) {
    return this.run("pulumi", ["up", "--yes", "--skip-preview", "--stack", "bench", ...args]);
  }

  /** Another stack file; Pulumi keeps the salt of the stack's secrets in it. */
  configure(text) {
    const salt = readFileSync(this.file, "utf8")
      .split("\n")
      .filter((line) => line.startsWith("encryptionsalt"));
    writeFileSync(this.file, text + salt.join("\n"));
  }

  async remove() {
    this.configure(this.config(false));
    await this.up("--target", "**PersistentVolume**", "--target", "**::pool-*");
    await this.run("pulumi", ["destroy", "--yes", "--skip-preview", "--stack", "bench"]);
    rmSync(this.dir, { recursive: true, force: true });
  }
}
