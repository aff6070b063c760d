import { execFileSync, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { type EngineEvent, LocalWorkspace, type OutputMap, type PulumiFn, type Stack } from "@pulumi/pulumi/automation";
import wholeProgram from "../../index";
import type { VmSummary } from "../../components/VirtualMachine";
import { LiveVm } from "../../cli/guests";

/** One operation of the engine, with what it said. */
export interface Operation {
  /** `<op> <type> <name>`, in the order in which the steps began. */
  steps: string[];
  /** Everything that was shown. */
  text: string;
  /** Message of the failure; empty when there was none. */
  error: string;
}

/** Project root of this checkout. */
export const ROOT = path.resolve(__dirname, "..", "..");
export const IMAGES = path.join(ROOT, ".nixvm", "images");

/** A stack of the real program, or of a part of it, on the real engine and a real libvirt, with a state and a pool of its own. */
export class LiveStack {
  /** Those of the last `up`, which has asked for them: each question is another start of Pulumi. */
  private outputs?: OutputMap;

  private constructor(
    readonly dir: string,
    readonly name: string,
    private readonly stack: Stack,
  ) {}

  /** `name` must differ between the tests that run on one host. */
  static async make(name: string, program: PulumiFn = wholeProgram): Promise<LiveStack> {
    // A space in the path, on purpose.
    const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm live "));
    const state = path.join(dir, "state");
    fs.mkdirSync(state);
    const stack = await LocalWorkspace.createOrSelectStack(
      { stackName: name, projectName: "nixvm", program },
      {
        workDir: dir,
        envVars: {
          PULUMI_BACKEND_URL: `file://${state}`,
          PULUMI_CONFIG_PASSPHRASE: "test",
          PATH: `${path.join(ROOT, "provider")}${path.delimiter}${process.env.PATH ?? ""}`,
        },
      },
    );
    return new LiveStack(dir, name, stack);
  }

  /** Writes another stack file, as its users do. */
  async configure(config: Record<string, unknown>): Promise<void> {
    const { workspace } = this.stack;
    const settings = await workspace.stackSettings(this.name);
    const named = Object.entries(config).map(([key, value]) => [`nixvm:${key}`, value]);
    await workspace.saveStackSettings(this.name, { ...settings, config: Object.fromEntries(named) });
  }

  up(
    options: { refresh?: boolean; signal?: AbortSignal; onEvent?: (event: EngineEvent) => void } = {},
  ): Promise<Operation> {
    this.outputs = undefined;
    return this.run(options.onEvent, async (watch) => {
      const { outputs } = await this.stack.up({
        ...watch,
        ...(options.refresh === undefined ? {} : { refresh: options.refresh }),
        ...(options.signal === undefined ? {} : { signal: options.signal }),
      });
      this.outputs = outputs;
    });
  }

  preview(options: { refresh?: boolean; expectNoChanges?: boolean } = {}): Promise<Operation> {
    return this.run(undefined, (watch) => this.stack.preview({ ...watch, ...options }));
  }

  /** `pulumi destroy` as somebody would type it, with the preview that Automation API leaves out. */
  destroyByHand(): { code: number; text: string } {
    const result = spawnSync(
      "pulumi",
      ["destroy", "--yes", "--non-interactive", "--stack", this.name, "-C", this.dir],
      {
        encoding: "utf8",
        env: { ...process.env, ...this.stack.workspace.envVars },
      },
    );
    return { code: result.status ?? 1, text: result.stdout + result.stderr };
  }

  /** An output of the last `up`. */
  async output(name: string): Promise<unknown> {
    this.outputs ??= await this.stack.outputs();
    return this.outputs[name]?.value;
  }

  async vms(): Promise<Map<string, LiveVm>> {
    const vms = ((await this.output("vms")) ?? {}) as Record<string, VmSummary>;
    return new Map(Object.entries(vms).map(([name, vm]) => [name, new LiveVm(name, vm)]));
  }

  async vm(name: string): Promise<LiveVm> {
    const found = (await this.vms()).get(name);
    if (!found) {
      throw new Error(`the stack has no VM ${name}`);
    }
    return found;
  }

  /** State in clear text as it lies on disk: what somebody who reads the file sees. */
  stateText(): string {
    return fs.readFileSync(path.join(this.dir, "state", ".pulumi", "stacks", "nixvm", `${this.name}.json`), "utf8");
  }

  /** Removes everything, data included. */
  async remove(config: Record<string, unknown>): Promise<void> {
    const defaults = config.defaults as Record<string, unknown>;
    await this.configure({
      ...config,
      defaults: { ...defaults, persist: { ...(defaults.persist as object), protect: false, retain: false } },
    });
    // The pool goes with its volumes. The key comes along for a stack that lost it to a destroy that was broken off:
    // without it no identity can be derived.
    await this.stack.up({ target: ["**PersistentVolume**", "**::pool-*", "**::fleet-key"] });
    await this.stack.destroy();
    fs.rmSync(this.dir, { recursive: true, force: true });
  }

  private async run(
    listener: ((event: EngineEvent) => void) | undefined,
    operation: (watch: { onEvent: (e: EngineEvent) => void; onOutput: (text: string) => void }) => Promise<unknown>,
  ): Promise<Operation> {
    const result: Operation = { steps: [], text: "", error: "" };
    const onEvent = (event: EngineEvent): void => {
      const step = event.resourcePreEvent?.metadata;
      if (step && step.op !== "same" && step.op !== "refresh" && !step.type.startsWith("pulumi:")) {
        result.steps.push(`${step.op} ${step.type} ${step.urn.slice(step.urn.lastIndexOf("::") + 2)}`);
      }
      listener?.(event);
    };
    try {
      await operation({ onEvent, onOutput: (text) => (result.text += text) });
    } catch (error) {
      result.error = error instanceof Error ? error.message : String(error);
    }
    return result;
  }
}

/** Runs virsh on the libvirt under test. */
export function virsh(...args: string[]): string {
  const uri = process.env.LIBVIRT_DEFAULT_URI ?? "qemu:///system";
  return execFileSync("virsh", ["-q", "-c", uri, ...args], { encoding: "utf8" });
}
