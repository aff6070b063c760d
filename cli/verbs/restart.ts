import type { Command } from "commander";
import { runChecks } from "../../provider/checks";
import { Cancelled } from "../../provider/clock";
import { consoleTail } from "../../provider/console";
import { type Deps, Gate, GuestFailure } from "../../provider/gate";
import type { GuestInputs } from "../../provider/inputs";
import { realInputs } from "../../provider/lifecycle";
import { stopGuest } from "../../provider/stop";
import { LibvirtError } from "../../provider/virsh";
import type { Context } from "../context";
import { CliError, Interrupted } from "../errors";
import type { FleetVm } from "../fleet";
import { depsFor, wantedOf } from "../lifecycle";
import { isOn, notRunning, powerOf } from "../power";
import { does, verb } from "../verb";
import { answer, find } from "./power";

/** `nixvm restart`: a clean stop and a start, with all that `pulumi up` demands of a VM that it has started. Nothing is declared. */
export function addRestart(program: Command): void {
  does(
    verb(program, "restart <vm...>", "stop VMs cleanly, start them, and wait until they are healthy"),
    async (context, _options, names: string[]) => {
      const found = await find(context, names);
      const off = found.find(({ state }) => !isOn(state) && state !== "paused");
      if (off) throw notRunning(off.vm, off.state);
      const wanted = await Promise.all(found.map(({ vm }) => guestOf(context, vm)));
      const results = [];
      for (const [i, one] of found.entries()) {
        const untouched = found.slice(i + 1).map(({ vm }) => vm.name);
        results.push(await restart(context, wanted[i]!, untouched));
        context.note(`${one.vm.name}: is healthy again`);
      }
      return answer(found, results);
    },
  );
}

/** What the stack's state has of a Guest: what it is to be, and how long it may take to get there. */
async function guestOf(context: Context, vm: FleetVm): Promise<{ want: GuestInputs; limitMs: number }> {
  const { want: declared, outputs, limitMs } = await wantedOf(context, vm.name);
  // One that was brought back runs its former image, whatever was tried.
  const want = await realInputs(declared, outputs, depsOf(context, declared));
  return { want, limitMs };
}

async function restart(
  context: Context,
  { want, limitMs }: { want: GuestInputs; limitMs: number },
  untouched: readonly string[],
): Promise<{ state: string; changed: boolean; text: string }> {
  const deps = depsOf(context, want);
  const rest = untouched.length > 0 ? `; not restarted: ${untouched.join(", ")}` : "";
  try {
    await stopAndStart(context, want, deps);
    const seen = await new Gate(want, deps, limitMs).wait();
    await runChecks(want.checks ?? [], want.uuid, deps, limitMs, seen);
  } catch (error) {
    if (error instanceof Cancelled) {
      throw new Interrupted(`${want.vm}: was started again, but its health was not waited for${rest}`);
    }
    if (!(error instanceof GuestFailure) && !(error instanceof LibvirtError)) throw error;
    const advice = error instanceof GuestFailure && error.advice ? `\nwhat to do: ${error.advice}` : "";
    throw new CliError(`${want.vm}: ${error.message}${rest}${advice}\n${await serialTail(want.consoleLog)}`);
  }
  return { state: "running", changed: true, text: "was restarted and is healthy" };
}

/** Ctrl-C must not leave it off: what was asked to stop is started again, and only the wait for its health is cut short. */
async function stopAndStart(
  context: Context,
  { uuid, stopTimeoutSeconds }: GuestInputs,
  deps: Deps & { uri: string },
): Promise<void> {
  const libvirt = context.libvirt(deps.uri);
  let stopped = false;
  const both = async (): Promise<void> => {
    if (!stopped) await stopGuest(uuid, stopTimeoutSeconds * 1000, { ...deps, signal: new AbortController().signal });
    stopped = true;
    if ((await powerOf(libvirt, uuid)) === "shut off") await libvirt.start(uuid);
  };
  try {
    await both();
  } catch (error) {
    // The terminal sends Ctrl-C to the virsh that was just at work as well.
    if (!context.signal.aborted) throw error;
    await both();
  }
}

const depsOf = (context: Context, { uri, vm }: GuestInputs): Deps & { uri: string } => ({
  uri,
  ...depsFor(context, uri, vm),
});

async function serialTail(log: string | undefined): Promise<string> {
  const tail = await consoleTail(log);
  if ("none" in tail) return `serial console: ${tail.none}`;
  const lines = tail.lines.map((line) => `  ${line}`).join("\n");
  return `last ${tail.lines.length} lines of the serial console (${log}):\n${lines}`;
}
