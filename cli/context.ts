import { setMaxListeners } from "node:events";
import * as path from "node:path";
import { confirm, input } from "@inquirer/prompts";
import { hostFacts, machineDefaults, parsedValue } from "../components/machine";
import { readKeyFiles } from "../components/keyFiles";
import * as plan from "../components/plan";
import { Virsh } from "../provider/virsh";
import { CliError, EXIT, wrongInput } from "./errors";
import { fleetOf, type FleetVm, resourcesOf, type StateResource, targetsOf } from "./fleet";
import { pulumiMust, pulumiOutput } from "./pulumi";
import { StackFile } from "./stackFile";

const NAMESPACE = "nixvm:";

/** What a verb works with. All of it is looked up when it is first asked for: most verbs need little of it. */
export class Context {
  /** The project: where Pulumi.yaml is. */
  readonly root = process.env.NIXVM_PROJECT ?? path.resolve(__dirname, "..", "..");
  private readonly controller = new AbortController();
  private readonly onSignal = (): void => this.controller.abort();
  private stackName?: Promise<string>;
  private exported?: Promise<StateResource[]>;

  constructor(private readonly options: { json: boolean; stack?: string }) {
    // Each wait listens, of each VM: more than ten is no leak.
    setMaxListeners(Infinity, this.controller.signal);
    process.on("SIGINT", this.onSignal);
    process.on("SIGTERM", this.onSignal);
  }

  close(): void {
    process.off("SIGINT", this.onSignal);
    process.off("SIGTERM", this.onSignal);
  }

  /** Aborted by Ctrl-C. */
  get signal(): AbortSignal {
    return this.controller.signal;
  }

  /** A path as the user gave it, who may stand elsewhere than we. */
  path(given: string): string {
    return path.resolve(process.env.NIXVM_CWD ?? process.cwd(), given);
  }

  /** A line on the way; stdout is for the answer. */
  note(line: string): void {
    process.stderr.write(`${line}\n`);
  }

  /** Name of the stack that is worked on. */
  stack(): Promise<string> {
    this.stackName ??= this.findStack();
    return this.stackName;
  }

  async stackFile(): Promise<StackFile> {
    return StackFile.open(path.join(this.root, "stacks", `Pulumi.${await this.stack()}.yaml`));
  }

  /** All resources of the state. */
  resources(): Promise<StateResource[]> {
    this.exported ??= this.pulumi(["stack", "export"]).then(resourcesOf);
    return this.exported;
  }

  /** The state is read anew when it is next asked for. */
  forget(): void {
    this.exported = undefined;
  }

  /** The VMs that the last run made. */
  async vms(): Promise<FleetVm[]> {
    return fleetOf(await this.resources());
  }

  /** A VM of that name. An unknown one is an error that names those there are. */
  async vm(name: string): Promise<FleetVm> {
    const vms = await this.vms();
    return vms.find((one) => one.name === name) ?? unknown(name, vms);
  }

  /** The VMs of those names, each once; all when none is given. */
  async chosen(names: readonly string[]): Promise<FleetVm[]> {
    const vms = await this.vms();
    if (names.length === 0) return vms;
    return [...new Set(names)].map((name) => vms.find((one) => one.name === name) ?? unknown(name, vms));
  }

  libvirt(uri: string): Virsh {
    return new Virsh(uri);
  }

  /** The stack file's part that is ours, with its secrets in clear and its key files read. */
  async config(): Promise<Record<string, unknown>> {
    // A file that nobody can read would make Pulumi say so in its own words.
    await this.stackFile();
    const all = JSON.parse(await this.pulumi(["config", "--show-secrets", "--json"])) as Record<
      string,
      { value?: string; objectValue?: unknown }
    >;
    const ours = Object.entries(all).filter(([key]) => key.startsWith(NAMESPACE));
    const written = await readKeyFiles(
      Object.fromEntries(
        ours.map(([key, { value, objectValue }]) => [
          key.slice(NAMESPACE.length),
          objectValue ?? parsedValue(value ?? ""),
        ]),
      ),
      this.root,
    );
    if (written.problems.length > 0) refuse(written.problems);
    return written.config as Record<string, unknown>;
  }

  /** What the stack file declares; its mistakes, all at once, are an error. Nothing is known of images and hosts but what it says. */
  async plan(): Promise<plan.Plan> {
    const config = await this.config();
    const result = plan.planFleet(config, {
      project: "nixvm",
      stack: await this.stack(),
      defaults: machineDefaults(),
      hosts: hostFacts(config),
    });
    return result.ok ? result.plan : refuse(result.problems);
  }

  /** Runs Pulumi on this stack and gives what it printed. */
  async pulumi(args: string[]): Promise<string> {
    const { code, stdout, stderr } = await pulumiOutput([...args, "--stack", await this.stack()], this.root);
    if (code !== 0) throw new CliError(`pulumi ${args[0]} ${args[1] ?? ""}: ${stderr.trim()}`);
    return stdout;
  }

  /** Makes it so, where everybody can see it; of all VMs, or of some and nothing else. What was known of the state is forgotten. */
  async up(vms: readonly string[] | "all", ...more: string[]): Promise<void> {
    const targets = vms === "all" ? [] : vms.flatMap(targetsOf).flatMap((urn) => ["--target", urn]);
    this.exported = undefined;
    await pulumiMust(
      ["up", "--yes", "--skip-preview", "--stack", await this.stack(), ...targets, ...more],
      true,
      this.root,
    );
  }

  /**
   * Lets the user say yes to a loss: `lost` names, one a line, what will be gone. He types the VM's name, or has given `--yes`.
   * Without a terminal nobody is asked, and nothing happens. `heading`: for a loss that can be undone.
   */
  async confirmLoss(
    name: string,
    lost: readonly string[],
    yes: boolean,
    heading = "This is lost for good:",
  ): Promise<void> {
    this.note(`${heading}\n${lost.map((line) => `  ${line}`).join("\n")}`);
    if (yes) return;
    this.needTerminal("--yes");
    const typed = await input({ message: `Type the name of the VM to go on (${name}):` }, this.prompting());
    if (typed.trim() !== name) throw new CliError(`"${typed.trim()}" is not ${name}: nothing was done`, EXIT.input);
  }

  /** A question with yes or no; no is the answer that changes nothing. */
  async confirm(question: string, yes: boolean): Promise<boolean> {
    if (yes) return true;
    this.needTerminal("--yes");
    return confirm({ message: question, default: false }, this.prompting());
  }

  /** Whether somebody is there to ask. */
  get asks(): boolean {
    return process.stdin.isTTY === true && !this.options.json;
  }

  /** @throws CliError where nobody can be asked: `instead` names the flag that answers. */
  needTerminal(instead: string): void {
    if (this.asks) return;
    throw new CliError(`nobody is there to ask; give ${instead}`, EXIT.input, { field: instead });
  }

  /** For @inquirer/prompts: questions go to stderr, as stdout is for the answer, and Ctrl-C ends them. */
  prompting(): { output: NodeJS.WriteStream; signal: AbortSignal } {
    return { output: process.stderr, signal: this.signal };
  }

  private async findStack(): Promise<string> {
    const given = this.options.stack ?? process.env.PULUMI_STACK;
    if (given) return given;
    const { code, stdout } = await pulumiOutput(["stack", "--show-name", "--non-interactive"], this.root);
    if (code !== 0 || stdout.trim() === "") {
      throw wrongInput("--stack", undefined, "no stack is selected", 'the name of one, or "pulumi stack select" first');
    }
    return stdout.trim();
  }
}

function unknown(name: string, vms: readonly FleetVm[]): never {
  const names = vms.map((vm) => vm.name);
  const near = names.filter((one) => one.startsWith(name) || name.startsWith(one));
  const hint = near.length === 1 ? `; did you mean ${near[0]}?` : "";
  const message =
    near.length > 1 ? `is the beginning of ${near.length} VMs, and the name of none` : "is no VM of this stack";
  const allowed =
    names.length === 0 ? "none, as the stack has no VMs yet" : (near.length > 1 ? near : names).join(", ");
  throw wrongInput("vm", name, `${message}${hint}`, allowed);
}

function refuse(problems: readonly plan.Problem[]): never {
  throw new CliError(plan.formatProblems(problems), EXIT.input);
}
