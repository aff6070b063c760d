import { type Command, Option } from "commander";
import { orCancelled, systemClock } from "../../provider/clock";
import { HEADER_BYTES, readHeader } from "../../provider/qcow2";
import { LibvirtError } from "../../provider/virsh";
import { type Context } from "../context";
import { wrongInput } from "../errors";
import { type FleetVm } from "../fleet";
import { lookAtFleet } from "../fleetLook";
import { quickDisks } from "../quick";
import { type StatusRow } from "../statusRow";
import { type Detail, detailText, statusTable } from "../statusText";
import { type Answer, does, type Shared, verb } from "../verb";
import { type VmFacts } from "../vmFacts";
import { rounds, watchOn } from "../watch";

/** Often enough to see a rollout go on, and a state is read each time. */
const EVERY_SECONDS = 5;

interface Options extends Shared {
  watch?: string | true;
}

/** `nixvm status [vm...]`: all VMs as a table, or one in detail (T-57). */
export function addStatus(program: Command): void {
  const command = verb(program, "status [vm...]", "how the VMs are: image, drift, health, fill; one VM in detail");
  command.addOption(new Option("--watch [seconds]", `look again and again; default: every ${EVERY_SECONDS} s`));
  does<Options, [string[]]>(command, async (context, options, names) => {
    if (options.watch === undefined) return look(context, await context.chosen(names), names.length === 1);
    const seconds = secondsOf(options.watch);
    if (!options.json && !process.stdout.isTTY) {
      throw wrongInput("--watch", undefined, "draws on a terminal, and there is none", "a terminal, or --json");
    }
    return watch(context, options, names, seconds);
  });
}

function secondsOf(given: string | true): number {
  if (given === true) return EVERY_SECONDS;
  const seconds = Number(given);
  if (given.trim() !== "" && seconds >= 1 && seconds <= 86_400) return seconds;
  throw wrongInput("--watch", given, "is no number of seconds", "1 to 86400; names of VMs stand before --watch");
}

async function watch(context: Context, { json }: Shared, names: string[], seconds: number): Promise<void> {
  const { signal } = context;
  // Not all that was asked for may be there for as long as it is watched.
  let vms = await context.chosen(names);
  const next = async (): Promise<Answer> => {
    vms = (await freshVms(context, names)) ?? vms;
    return look(context, vms, names.length === 1);
  };
  const timing = { seconds, clock: systemClock, signal };
  if (!json) return watchOn(screen(), async () => (await next()).text, timing);
  const controller = new AbortController();
  signal.addEventListener("abort", () => controller.abort(), { once: true });
  // Who reads may have read enough: `| head`.
  process.stdout.on("error", () => controller.abort());
  return rounds({ ...timing, signal: controller.signal }, async () => {
    process.stdout.write(`${JSON.stringify((await next()).json)}\n`);
  });
}

/** Undefined while the state cannot be read, as in the moment in which a run writes it: the next round may do better. */
async function freshVms(context: Context, names: readonly string[]): Promise<FleetVm[] | undefined> {
  context.forget();
  try {
    const all = await orCancelled(context.vms(), context.signal);
    return names.length === 0 ? all : all.filter(({ name }) => names.includes(name));
  } catch (error) {
    if (context.signal.aborted) throw error;
    return undefined;
  }
}

const screen = () => ({
  write: (text: string) => void process.stdout.write(text),
  get rows() {
    return process.stdout.rows;
  },
  get columns() {
    return process.stdout.columns;
  },
});

async function look(context: Context, vms: readonly FleetVm[], one: boolean): Promise<Answer> {
  const { facts, rows } = await lookAtFleet(context, vms);
  const [[first], [row]] = [facts, rows];
  if (!one || first === undefined || row === undefined) return { json: rows, text: statusTable(rows) };
  const detail = await detailOf(context, first, row);
  return { json: detail, text: detailText(detail) };
}

async function detailOf(context: Context, facts: VmFacts, row: StatusRow): Promise<Detail> {
  const { vm, guest } = facts;
  const snapshots = await snapshotsOf(context, facts);
  return {
    ...row,
    ...(snapshots === undefined ? {} : { snapshots }),
    ...(guest === undefined ? {} : { disks: guest.disks }),
    network: vm.network,
    uuid: vm.uuid,
    paths: {
      overlay: vm.overlayPath,
      ...(vm.persistPath === undefined ? {} : { persist: vm.persistPath }),
      ...(vm.scratchPath === undefined ? {} : { scratch: vm.scratchPath }),
      seed: vm.seedPath,
      ...(vm.consoleLog === undefined ? {} : { console: vm.consoleLog }),
    },
  };
}

/** The file says it, whoever took them. */
async function snapshotsOf(context: Context, { vm, hostProblem }: VmFacts): Promise<number | undefined> {
  if (vm.persistPath === undefined || hostProblem !== undefined) return undefined;
  try {
    const head = quickDisks(vm.uri).read(vm.persistPath, { offset: 0, bytes: HEADER_BYTES });
    return readHeader(await orCancelled(head, context.signal))?.snapshots.count;
  } catch (error) {
    if (error instanceof LibvirtError) return undefined;
    throw error;
  }
}
