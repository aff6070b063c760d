import { systemClock } from "../provider/clock";
import { VirshDisks } from "../provider/disks";
import type { Deps } from "../provider/gate";
import { type GuestInputs, guestInputs, readInputs } from "../provider/inputs";
import { defaultGateSeconds } from "../provider/lifecycle";
import { VirshNetworks } from "../provider/networks";
import { run as realRun, type Run } from "../provider/run";
import { Virsh } from "../provider/virsh";
import type { Context } from "./context";
import { wrongState } from "./errors";

/** What the provider's steps need, on a terminal instead of under the engine. */
export type CliDeps = Deps & { readonly libvirt: Virsh };

/** For the steps of one VM: what they say is said with its name. `signal`: another than Ctrl-C, for what must not be broken off. */
export function depsFor(
  context: Pick<Context, "libvirt" | "note" | "signal">,
  uri: string,
  vm: string,
  signal: AbortSignal = context.signal,
  run: Run = realRun,
): CliDeps {
  const say = (line: string): void => context.note(`${vm}: ${line}`);
  // Steps that wait say every second that they do; a terminal that scrolls wants to hear of another phase only.
  let last = "";
  return {
    libvirt: context.libvirt(uri),
    libvirtAt: (other) => context.libvirt(other),
    disks: new VirshDisks(uri, run),
    networks: new VirshNetworks(uri, run),
    clock: systemClock,
    begun: systemClock.now(),
    failed: {},
    signal,
    progress: (line) => {
      const phase = line.replace(/ \(\d+ s\)$/, "");
      if (phase !== last) say(phase);
      last = phase;
    },
    info: say,
    warn: say,
  };
}

/** What the last run wanted of a VM, and how long it may take to get there. */
export interface Wanted {
  readonly want: GuestInputs;
  readonly limitMs: number;
}

/** With what the guest said then. @throws CliError for a VM whose run was broken off before there was anything to want. */
export async function wantedOf(context: Context, vm: string): Promise<Wanted & { outputs: Record<string, unknown> }> {
  const found = (await context.resources()).find(
    ({ type, inputs, delete: gone }) => type === "nixvm:index:Guest" && inputs?.["vm"] === vm && gone !== true,
  );
  if (!found) throw wrongState(`${vm} is not in the state of this stack; run "pulumi up" first`);
  const limits = found["customTimeouts"] as { update?: number } | undefined;
  return {
    want: readInputs("Guest", guestInputs, found.inputs ?? {}),
    limitMs: (limits?.update || defaultGateSeconds) * 1000,
    outputs: found.outputs ?? {},
  };
}
