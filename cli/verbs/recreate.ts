import { type Command, Option } from "commander";
import type { Context } from "../context";
import {
  currentDisks,
  generationOf,
  made,
  noteWarnings,
  planned,
  saveAndUp,
  sharedTargets,
  volumeOf,
} from "../declare";
import { Edited } from "../editedPlan";
import { applyEdits, generationEdits, shapeEdits } from "../edits";
import { checkGone, leftovers, letGo, lossOf, partsOf } from "../letGo";
import { networkOf } from "../networkChoice";
import { declaredPlace } from "../place";
import { sizeSpelling } from "../spelling";
import { type Answer, does, verb } from "../verb";

interface Options {
  yes: boolean;
}

/** `nixvm recreate`: the same VM with empty disks (T-14, T-50 to T-52, T-107). */
export function addRecreate(program: Command): void {
  does<Options, [string, string | undefined, string | undefined]>(
    verb(program, "recreate <vm> [size] [network]", "give a VM empty disks; its identity and entry stay").addOption(
      new Option("--yes", "lose its data without a question").default(false),
    ),
    recreate,
  );
}

async function recreate(
  context: Context,
  { yes }: Options,
  name: string,
  size: string | undefined,
  network: string | undefined,
): Promise<Answer> {
  const edited = await Edited.open(context);
  const place = declaredPlace(edited.file, name);
  const before = await edited.plan();
  const entry = planned(before, name);
  const resources = await context.resources();
  const facts = (await context.vms()).find((vm) => vm.name === name);
  // A run that was broken off may have left disks, and no guest yet.
  if (partsOf(resources, name).length === 0) await made(context, name);
  const volume = volumeOf(resources, name)?.id;
  const old = generationOf(resources, name) ?? entry.generation;
  // One that was broken off has raised it already, and the engine has not got through.
  const begun = entry.generation > old || leftovers(resources, name).length > 0 || facts === undefined;
  const generation = begun ? entry.generation : entry.generation + 1;
  applyEdits(edited.file, [
    ...shapeEdits(place.where, {
      ...(size === undefined ? {} : { size: sizeSpelling(size) }),
      ...(network === undefined ? {} : { network: await networkOf(context, network, entry.host) }),
    }),
    ...(begun ? [] : generationEdits(place, generation)),
  ]);
  const after = await edited.plan({ current: await currentDisks(context) });
  noteWarnings(context, before, after);
  const wanted = planned(after, name);
  const targets = await sharedTargets(context, edited, wanted);
  if (begun) context.note(`${name}: a run that made its disks anew was broken off, and goes on`);
  if (generation > old) {
    const disks = { overlayPath: facts?.overlayPath, persistPath: volume };
    await context.confirmLoss(name, lossOf(disks, wanted.identity.sshHostKey), yes);
    await letGo(context, edited.file, name, place);
  }
  await saveAndUp(context, edited, [name], ...targets);
  const now = await made(context, name);
  await checkGone(
    context,
    now,
    [volume, facts?.overlayPath].filter((disk) => disk !== now.persistPath && disk !== now.overlayPath),
  );
  const json = { vm: name, generation: wanted.generation, uuid: now.uuid };
  return { json, text: `${name} has new, empty disks (generation ${wanted.generation})` };
}
