import { type Command, Option } from "commander";
import * as plan from "../../components/plan";
import type { Context } from "../context";
import { currentDisks, made, noteWarnings, planned, saveAndUp } from "../declare";
import { Edited } from "../editedPlan";
import { applyEdits, type Shape, shapeEdits } from "../edits";
import { effectOf } from "../effects";
import { wrongInput, wrongState } from "../errors";
import { declaredPlace } from "../place";
import { memorySpelling, numberSpelling, sizeSpelling } from "../spelling";
import { type Answer, does, verb } from "../verb";

interface Options {
  memory?: string;
  vcpus?: string;
  disk?: string;
  yes: boolean;
}

/** `nixvm resize`: memory, processors and the persistent volume (T-44, T-62). */
export function addResize(program: Command): void {
  does<Options, [string]>(
    verb(program, "resize <vm>", "change memory, vCPUs or the size of the persistent volume")
      .option("--memory <size>", "such as 2GiB; a bare number is MiB")
      .option("--vcpus <number>", "number of virtual CPUs")
      .option("--disk <size>", "size of the persistent volume, which only grows")
      .addOption(new Option("--yes", "restart it without a question where that is needed").default(false)),
    resize,
  );
}

async function resize(context: Context, { memory, vcpus, disk, yes }: Options, name: string): Promise<Answer> {
  if (memory === undefined && vcpus === undefined && disk === undefined) {
    throw wrongInput("--memory", undefined, "nothing to change is given", "--memory, --vcpus, --disk, or several");
  }
  const edited = await Edited.open(context);
  const place = declaredPlace(edited.file, name);
  const before = await edited.plan();
  if (disk !== undefined && planned(before, name).persist === null) {
    throw wrongState(`${name} has no persistent volume that could grow`, { field: "--disk", value: disk });
  }
  planned(before, name);
  await made(context, name);
  const shape: Shape = {
    ...(memory === undefined ? {} : { memory: memorySpelling(memory) }),
    ...(vcpus === undefined ? {} : { vcpus: numberSpelling(vcpus) }),
    ...(disk === undefined ? {} : { size: sizeSpelling(disk) }),
  };
  applyEdits(edited.file, shapeEdits(place.where, shape));
  const after = await edited.plan({ current: await currentDisks(context) });
  noteWarnings(context, before, after);
  return change(context, edited, planned(after, name), yes);
}

/** Says what is about to happen, and makes it so. */
export async function change(
  context: Context,
  edited: Edited,
  vm: plan.VmPlan,
  yes: boolean,
  ...targets: string[]
): Promise<Answer> {
  const { reasons, restarts } = effectOf(await context.resources(), vm);
  const json = { vm: vm.name, changed: reasons, restart: restarts };
  if (reasons.length === 0 && !edited.file.changed) return { json, text: `${vm.name} is so already` };
  for (const line of reasons) context.note(`${vm.name}: ${line}`);
  if (restarts && !(await context.confirm(`${vm.name} restarts for this; its data stays. Go on?`, yes))) {
    return { json: { ...json, changed: [] }, text: "nothing was changed" };
  }
  await saveAndUp(context, edited, [vm.name], ...targets);
  return {
    json,
    text: reasons.length === 0 ? `${vm.name} stays as it is` : reasons.map((r) => `${vm.name}: ${r}`).join("\n"),
  };
}
