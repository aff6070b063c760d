import { type Command, Option } from "commander";
import type { Context } from "../context";
import { saveAndUp } from "../declare";
import { Edited } from "../editedPlan";
import { absentEdits, applyEdits, purgeEdits } from "../edits";
import { wrongState } from "../errors";
import { checkGone, detachTargets, letGo, lossOf, partsOf } from "../letGo";
import { declaredPlace, type Place } from "../place";
import { type Answer, does, verb } from "../verb";

interface Options {
  yes: boolean;
}

const LOSS = "lose its data without a question";

/** `nixvm destroy`: VM and disks go, its entry stays (T-54). */
export function addDestroy(program: Command): void {
  does<Options, [string]>(
    verb(program, "destroy <vm>", "remove a VM and its disks; its entry and with it its identity stay").addOption(
      new Option("--yes", LOSS).default(false),
    ),
    destroy,
  );
}

/** `nixvm purge`: as destroy, and the entry goes too (T-55). */
export function addPurge(program: Command): void {
  does<Options, [string]>(
    verb(program, "purge <vm>", "remove a VM, its disks and its entry in the stack file").addOption(
      new Option("--yes", LOSS).default(false),
    ),
    purge,
  );
}

async function destroy(context: Context, { yes }: Options, name: string): Promise<Answer> {
  const edited = await Edited.open(context);
  const place = declaredPlace(edited.file, name);
  const gone = await remove(context, edited, name, place, { yes, also: [] });
  return {
    json: { vm: name, state: "absent", removed: gone },
    text: gone
      ? `${name} and its disks are removed; its entry stays, and "nixvm create ${name}" makes the same VM again`
      : `${name} was not there; its entry stays, and says that it is absent`,
  };
}

async function purge(context: Context, { yes }: Options, name: string): Promise<Answer> {
  const edited = await Edited.open(context);
  const place = declaredPlace(edited.file, name);
  checkLast(name, place);
  // Whether the file is good without it has to be known before anything is lost.
  const rest = await Edited.open(context);
  applyEdits(rest.file, purgeEdits(rest.file, place));
  await rest.plan();
  const also = [`its entry in the stack file: ${place.where.join(".").replace(/^nixvm:/, "")}`];
  const gone = await remove(context, edited, name, place, { yes, also });
  // Last of all: as long as the entry is there, a purge that is broken off can be run again.
  applyEdits(edited.file, purgeEdits(edited.file, place));
  edited.file.save();
  return { json: { vm: name, state: "purged", removed: gone }, text: `${name} is gone, with its disks and its entry` };
}

function checkLast(name: string, { member }: Place): void {
  if (member === undefined || member.number === member.count) return;
  const last = `${member.group}-${member.count}`;
  throw wrongState(
    `${name} is not the last of group ${member.group}, and the others would get its name: "nixvm purge ${last}" first, or "nixvm destroy ${name}", which keeps its place`,
    { field: "vm", value: name, allowed: last },
  );
}

/** Removes what there is of a VM and marks its entry. Gives whether there was anything. */
async function remove(
  context: Context,
  edited: Edited,
  name: string,
  place: Place,
  { yes, also }: { yes: boolean; also: string[] },
): Promise<boolean> {
  const hostKey = await hostKeyOf(edited, name);
  applyEdits(edited.file, absentEdits(place));
  await edited.plan();
  const resources = await context.resources();
  const facts = (await context.vms()).find((vm) => vm.name === name);
  const parts = partsOf(resources, name);
  const detach = parts.length === 0 ? [] : await detachTargets(context, edited.file, name);
  const lost = [...lossOf(facts, hostKey), ...also];
  // Of a guest that was never finished there are disks all the same.
  if (facts === undefined && parts.length > 0)
    lost.unshift("all that there is of it: it was never finished, or not all was removed");
  if (lost.length > 0) await context.confirmLoss(name, lost, yes);
  if (parts.length === 0) {
    edited.file.save();
    return false;
  }
  await letGo(context, edited.file, name, place);
  await saveAndUp(context, edited, [name], ...detach);
  const left = partsOf(await context.resources(), name);
  if (left.length > 0) {
    throw wrongState(`${name} could not be removed: the state still has ${left.map(({ urn }) => urn).join(", ")}`);
  }
  if (facts) await checkGone(context, facts, [facts.persistPath, facts.scratchPath, facts.overlayPath, facts.seedPath]);
  return true;
}

async function hostKeyOf(edited: Edited, name: string): Promise<"guest" | "stack"> {
  const plan = await edited.plan();
  return plan.vms.find((vm) => vm.name === name)?.identity.sshHostKey ?? "guest";
}
