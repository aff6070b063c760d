import { spawn } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { parse } from "yaml";
import { fleetOf, type FleetVm, resourcesOf } from "../../cli/fleet";
import { LiveVm } from "../../cli/guests";
import { StackFile } from "../../cli/stackFile";
import { ROOT } from "./liveStack";

/** What a command left behind. */
export interface Said {
  code: number;
  stdout: string;
  stderr: string;
}

/** A project with one stack, worked on by `nixvm` and `pulumi` as a user types them: own folder, state, and stack file. */
export class CliProject {
  readonly stackFile: string;
  private readonly env: NodeJS.ProcessEnv;

  private constructor(
    readonly dir: string,
    readonly stack: string,
  ) {
    this.stackFile = path.join(dir, "stacks", `Pulumi.${stack}.yaml`);
    const { PULUMI_CONFIG_PASSPHRASE_FILE: _, ...env } = process.env;
    this.env = {
      ...env,
      PATH: ["tools/shim", "provider"].map((part) => path.join(ROOT, part)).join(path.delimiter) + `:${env.PATH ?? ""}`,
      PULUMI_BACKEND_URL: `file://${path.join(dir, "state")}`,
      PULUMI_CONFIG_PASSPHRASE: "test",
      PULUMI_STACK: stack,
      NIXVM_PROJECT: dir,
    };
  }

  /** `stack` must differ between the tests that run on one host. `configOf` gets the project's folder. */
  static async make(stack: string, configOf: (dir: string) => Record<string, unknown>): Promise<CliProject> {
    // A space in the path, on purpose.
    const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm verbs "));
    for (const part of ["stacks", "state"]) fs.mkdirSync(path.join(dir, part));
    for (const part of ["bin", "node_modules", "provider", "tools", "package.json", "Pulumi.yaml"]) {
      fs.symlinkSync(path.join(ROOT, part), path.join(dir, part));
    }
    const project = new CliProject(dir, stack);
    const { code, stderr } = await project.pulumi("stack", "init", stack);
    if (code !== 0) throw new Error(stderr);
    project.configure(configOf(dir));
    return project;
  }

  /** Writes another stack file. What Pulumi itself keeps in it stays. */
  configure(config: Record<string, unknown>): void {
    const now = (fs.existsSync(this.stackFile) ? parse(fs.readFileSync(this.stackFile, "utf8")) : {}) as object | null;
    const named = Object.fromEntries(Object.entries(config).map(([key, value]) => [`nixvm:${key}`, value]));
    // YAML takes JSON as it is; verbs keep whatever form they find.
    fs.writeFileSync(this.stackFile, JSON.stringify({ ...now, config: named }, null, 1));
  }

  /** Runs a verb; `input` is typed into it, and there is no terminal. */
  nixvm(...args: string[]): Promise<Said> {
    return this.run("node", [path.join(ROOT, "bin", "cli", "nixvm.js"), ...args]);
  }

  /** Runs a verb that must go well, with `--json`, and gives what it answered. */
  async answer(...args: string[]): Promise<any> {
    const said = await this.nixvm(...args, "--json");
    if (said.code !== 0) throw new Error(`nixvm ${args.join(" ")}: ${said.code}\n${said.stdout}\n${said.stderr}`);
    return JSON.parse(said.stdout);
  }

  pulumi(...args: string[]): Promise<Said> {
    return this.run("pulumi", [...args, "--non-interactive"]);
  }

  async up(): Promise<void> {
    const said = await this.pulumi("up", "--yes", "--skip-preview");
    if (said.code !== 0) throw new Error(said.stdout + said.stderr);
  }

  /** What a preview says that must find nothing to do; empty when it does find nothing. */
  async pending(): Promise<string> {
    const said = await this.pulumi("preview", "--expect-no-changes", "--diff");
    return said.code === 0 ? "" : said.stdout + said.stderr;
  }

  /** Runs a command in a VM through its agent and gives what it printed. */
  async inGuest(vm: string, script: string): Promise<string> {
    const facts = (await this.vms()).find(({ name }) => name === vm);
    if (!facts) throw new Error(`no VM ${vm}`);
    return new LiveVm(vm, { uuid: facts.uuid, uri: facts.uri } as never).exec(script);
  }

  async vms(): Promise<FleetVm[]> {
    return fleetOf(resourcesOf((await this.pulumi("stack", "export")).stdout));
  }

  /** Starts a command and gives the process, for what has to be spoken with or broken off. */
  spawn(command: string, args: string[]): ReturnType<typeof spawn> {
    return spawn(command, args, { cwd: this.dir, env: this.env, stdio: ["pipe", "pipe", "pipe"] });
  }

  /** Removes everything, data included, whatever has become of the stack file. */
  async remove(): Promise<void> {
    const file = StackFile.open(this.stackFile);
    for (const where of [["nixvm:defaults"], ...this.entries(file)]) {
      file.set([...where, "persist", "protect"], false);
      file.set([...where, "persist", "retain"], false);
    }
    file.save();
    const targets = ["**PersistentVolume**", "**::pool-*", "**::fleet-key"].flatMap((urn) => ["--target", urn]);
    await this.pulumi("up", "--yes", "--skip-preview", ...targets);
    const said = await this.pulumi("destroy", "--yes", "--skip-preview");
    if (said.code !== 0) throw new Error(said.stdout + said.stderr);
    fs.rmSync(this.dir, { recursive: true, force: true });
  }

  private entries(file: StackFile): string[][] {
    return ["nixvm:fleet", "nixvm:groups"].flatMap((section) => file.keys([section]).map((name) => [section, name]));
  }

  run(command: string, args: string[]): Promise<Said> {
    const child = this.spawn(command, args);
    child.stdin?.end();
    let stdout = "";
    let stderr = "";
    child.stdout?.setEncoding("utf8").on("data", (text: string) => (stdout += text));
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    return new Promise((resolve, reject) => {
      child.on("error", reject);
      child.on("close", (code) => resolve({ code: code ?? 1, stdout, stderr }));
    });
  }
}
