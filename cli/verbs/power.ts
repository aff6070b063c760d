import type { Command } from "commander";
import type { Virsh } from "../../provider/virsh";
import type { Context } from "../context";
import { CliError, EXIT, wrongState } from "../errors";
import type { FleetVm } from "../fleet";
import { placeOf } from "../place";
import { gone, isOn, notRunning, powerOf } from "../power";
import { PulumiFailed } from "../pulumi";
import { declareRunning } from "../running";
import { type Answer, does, verb } from "../verb";

/** A VM that a verb is about, and how it was before. */
interface Found {
  vm: FleetVm;
  libvirt: Virsh;
  state: string;
}

/** What became of a VM. */
interface Done {
  name: string;
  before: string;
  state: string;
  changed: boolean;
  text: string;
}

/** `start`, `stop`, `force-stop`: declared state (T-38 to T-40). `suspend`, `resume`: nothing that is declared. */
export function addPower(program: Command): void {
  does(verb(program, "start <vm...>", "start VMs, and declare that they run"), (context, _options, names: string[]) =>
    declare(context, names, true),
  );
  does(
    verb(program, "stop <vm...>", "have VMs shut themselves down, and declare that they are off"),
    (context, _options, names: string[]) => declare(context, names, false),
  );
  does<{ yes: boolean }, [string[]]>(
    verb(program, "force-stop <vm...>", "pull the plug of VMs at once, and declare that they are off").option(
      "--yes",
      "do not ask",
      false,
    ),
    (context, { yes }, names) => forceStop(context, names, yes),
  );
  does(
    verb(program, "suspend <vm...>", "freeze VMs where they are; they keep their memory"),
    (context, _options, names: string[]) => suspend(context, names),
  );
  does(verb(program, "resume <vm...>", "let suspended VMs go on"), (context, _options, names: string[]) =>
    resume(context, names),
  );
}

/** All VMs are looked at before the first one is touched. */
export async function find(context: Context, names: readonly string[]): Promise<Found[]> {
  const found = await Promise.all(
    (await context.chosen(names)).map(async (vm) => {
      const libvirt = context.libvirt(vm.uri);
      return { vm, libvirt, state: await powerOf(libvirt, vm.uuid) };
    }),
  );
  const lost = found.find(({ state }) => state === "gone");
  if (lost) throw gone(lost.vm);
  return found;
}

async function declare(context: Context, names: readonly string[], running: boolean): Promise<Answer> {
  const found = await find(context, names);
  const changed = await written(context, found, running);
  const isSo = ({ state }: Found): boolean => (running ? isOn(state) : state === "shut off");
  const behind = found.filter((one) => !isSo(one));
  // What the state of the stack has as it should be, and is not, only a refresh notices.
  const drifted = behind.some(({ vm }) => vm.running === running && !changed.has(vm.name));
  const touched = found.filter((one) => behind.includes(one) || changed.has(one.vm.name) || one.vm.running !== running);
  await up(context, touched, running, drifted ? ["--refresh"] : []);
  const [already, now] = running ? ["runs already", "runs"] : ["is off already", "is shut off"];
  return answer(
    found,
    await Promise.all(
      found.map(async (one) => {
        const did = behind.includes(one);
        const state = did ? await powerOf(one.libvirt, one.vm.uuid) : one.state;
        if (!isSo({ ...one, state })) throw new CliError(`${one.vm.name}: is ${state} although "pulumi up" went well`);
        return { state, changed: did || touched.includes(one), text: did ? now : already };
      }),
    ),
  );
}

/** Has the stack file say it. Gives those for which it did not yet. */
async function written(context: Context, found: readonly Found[], running: boolean): Promise<Set<string>> {
  const file = await context.stackFile();
  const entries = found.map(({ vm }) => {
    const entry = placeOf(file, vm.name)?.where;
    // It is still there because the run that would have removed it has not been.
    if (!entry)
      throw wrongState(`${vm.name}: is no longer in ${file.file}; "pulumi up" removes it`, { field: vm.name });
    return { name: vm.name, entry };
  });
  const changed = entries.filter(({ entry }) => declareRunning(file, entry, running));
  file.save();
  for (const { name } of changed) context.note(`${name}: running: ${running} written to ${file.file}`);
  return new Set(changed.map(({ name }) => name));
}

async function up(context: Context, touched: readonly Found[], running: boolean, more: string[]): Promise<void> {
  if (touched.length === 0) return;
  const names = touched.map(({ vm }) => vm.name);
  try {
    await context.up(names, ...more);
  } catch (error) {
    if (!(error instanceof PulumiFailed)) throw error;
    const code = error.code === EXIT.interrupted ? EXIT.interrupted : EXIT.failed;
    const said = `the stack file declares running: ${running} for ${names.join(", ")}`;
    throw new CliError(`${error.message}; ${said}, and "pulumi up" tries again`, code);
  }
}

async function forceStop(context: Context, names: readonly string[], yes: boolean): Promise<Answer> {
  const found = await find(context, names);
  const on = found.filter(({ state }) => state !== "shut off");
  for (const { vm } of on) {
    await context.confirmLoss(vm.name, [`what ${vm.name} has not yet written to its disks`], yes);
  }
  const changed = await written(context, found, false);
  for (const { vm, libvirt } of on) {
    try {
      await libvirt.destroy(vm.uuid);
    } catch (error) {
      // It may have gone off by itself in that very moment.
      if ((await powerOf(libvirt, vm.uuid)) === "shut off") continue;
      const said = `the stack file declares running: false for ${names.join(", ")}: "pulumi up" stops them cleanly`;
      throw new CliError(`${vm.name}: ${error instanceof Error ? error.message : String(error)}; ${said}`);
    }
  }
  const touched = found.filter(({ vm }) => changed.has(vm.name) || vm.running);
  await up(context, touched, false, []);
  return answer(
    found,
    found.map((one) => ({
      state: "shut off",
      changed: on.includes(one) || touched.includes(one),
      text: on.includes(one) ? "is shut off" : "is off already",
    })),
  );
}

async function suspend(context: Context, names: readonly string[]): Promise<Answer> {
  const found = await find(context, names);
  const off = found.find(({ state }) => !isOn(state) && state !== "paused");
  if (off) throw notRunning(off.vm, off.state);
  return inTurn(found, async ({ vm, libvirt, state }) => {
    if (state === "paused") return { state, changed: false, text: "is suspended already" };
    await libvirt.suspend(vm.uuid);
    return { state: "paused", changed: true, text: `is suspended; "nixvm resume ${vm.name}" lets it go on` };
  });
}

async function resume(context: Context, names: readonly string[]): Promise<Answer> {
  const found = await find(context, names);
  const off = found.find(({ state }) => !isOn(state) && state !== "paused");
  if (off) throw notRunning(off.vm, off.state);
  return inTurn(found, async ({ vm, libvirt, state }) => {
    if (isOn(state)) return { state, changed: false, text: "runs already" };
    await libvirt.resume(vm.uuid);
    const { state: now, reason } = await libvirt.state(vm.uuid);
    // A guest whose pool is full is paused again with its next write.
    if (!isOn(now)) throw new CliError(`${vm.name}: was resumed and is ${now} again (${reason})`);
    return { state: now, changed: true, text: "goes on" };
  });
}

type Result = Omit<Done, "name" | "before">;

async function inTurn(found: readonly Found[], work: (one: Found) => Promise<Result>): Promise<Answer> {
  const results: Result[] = [];
  for (const one of found) results.push(await work(one));
  return answer(found, results);
}

/** One line a VM. */
export function answer(found: readonly Found[], results: readonly Result[]): Answer {
  const done: Done[] = found.map(({ vm, state }, i) => ({ name: vm.name, before: state, ...results[i]! }));
  return {
    json: done.map(({ text: _, ...facts }) => facts),
    text: done.map(({ name, text }) => `${name}: ${text}`).join("\n"),
  };
}
