import { runChecks } from "../provider/checks";
import { type Deps, Gate } from "../provider/gate";
import { type GuestInputs, guestInputs, readInputs } from "../provider/inputs";
import { stopGuest } from "../provider/stop";
import type { Virsh } from "../provider/virsh";
import { runApart } from "./apart";
import type { Context } from "./context";
import { CliError, wrongState } from "./errors";
import type { FleetVm } from "./fleet";
import { depsFor } from "./lifecycle";

/** Of a VM that the stack file no longer has. */
const limitSeconds = 600;

/** Takes a VM off and brings it on again as the last run of Pulumi left it: clean stop, start, health with all checks. */
export class OffAndOn {
  private touched = false;

  private constructor(
    private readonly context: Context,
    private readonly want: GuestInputs,
    private readonly limitMs: number,
    private readonly virsh: Virsh,
    /** Whether it was on when this began. */
    readonly wasOn: boolean,
  ) {}

  static async of(context: Context, vm: FleetVm, virsh: Virsh): Promise<OffAndOn> {
    const resources = await context.resources();
    const guest = resources.find(
      (one) => one.type === "nixvm:index:Guest" && one.delete !== true && one.inputs?.["vm"] === vm.name,
    );
    const want = readInputs("Guest", guestInputs, guest?.inputs ?? {});
    const seconds = await context.plan().then(
      ({ vms }) => vms.find(({ name }) => name === vm.name)?.gateTimeoutSeconds,
      (error: unknown) => {
        // A stack file that is broken has nothing to do with the VM that is there.
        if (error instanceof CliError) return undefined;
        throw error;
      },
    );
    const wasOn = (await virsh.state(vm.uuid)).state !== "shut off";
    return new OffAndOn(context, want, (seconds ?? limitSeconds) * 1000, virsh, wasOn);
  }

  /** A clean stop, as an upgrade does it: past the limit it is powered off, and a line says so. */
  async stop(): Promise<void> {
    this.touched = true;
    const { uuid, stopTimeoutSeconds, vm } = this.want;
    this.context.note(`${vm}: stopping`);
    await stopGuest(uuid, stopTimeoutSeconds * 1000, this.deps(this.context.signal));
    const { state } = await this.virsh.state(uuid);
    if (state !== "shut off") throw wrongState(`${vm}: is not off, but ${state}`);
  }

  /** Waits until it is healthy with what it has now. */
  async startHealthy(): Promise<void> {
    this.context.note(`${this.want.vm}: starting`);
    const deps = this.deps(this.context.signal);
    const look = await new Gate(this.want, deps, this.limitMs).wait();
    await runChecks(this.want.checks ?? [], this.want.uuid, deps, this.limitMs, look);
  }

  /** Off for certain, also after Ctrl-C: its data is about to change. */
  async off(): Promise<void> {
    if (!this.touched) return;
    const seconds = Math.min(30, this.want.stopTimeoutSeconds);
    await stopGuest(this.want.uuid, seconds * 1000, this.deps(new AbortController().signal));
  }

  /** On, if it was on before; says what became of it. Whether it is healthy is not waited for: it is what it was. */
  async asBefore(): Promise<string> {
    if (!this.wasOn) return "is off";
    if (!this.touched) return "is on";
    try {
      await this.virsh.start(this.want.uuid);
      return "is started again";
    } catch (error) {
      return `does not start: ${(error as Error).message}`;
    }
  }

  private deps(signal: AbortSignal): Deps {
    const { uri, vm } = this.want;
    // Ctrl-C goes to the whole group of the terminal: what is under way here must come to its end.
    return { ...depsFor(this.context, uri, vm, signal, runApart), libvirt: this.virsh, progress: () => undefined };
  }
}
