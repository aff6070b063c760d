import type { Command } from "commander";
import { stringify } from "yaml";
import { LOCAL_HOST } from "../../components/plan/scope";
import type { Context } from "../context";
import { noteWarnings, planned, saveAndUp, sharedTargets } from "../declare";
import { Edited } from "../editedPlan";
import { applyEdits, type Edit, newEntryEdits, presentEdits, type Shape, shapeEdits } from "../edits";
import { wrongInput, wrongState } from "../errors";
import { networkOf } from "../networkChoice";
import { type Place, placeOf } from "../place";
import { memorySpelling, numberSpelling, sizeSpelling } from "../spelling";
import { type Answer, does, verb } from "../verb";

type Field = "image" | "memory" | "vcpus" | "size" | "network";
type Options = Partial<Record<Field, string>>;

const FIELDS: Record<Field, string> = {
  image: "name from nixvm:images",
  memory: "such as 2GiB; a bare number is MiB",
  vcpus: "number of virtual CPUs",
  size: "size of the persistent volume, such as 20GiB",
  network: "nat, nat:<network>, bridge, bridge:<bridge> or user",
};
const NAMES = Object.keys(FIELDS) as Field[];

/** `nixvm create`: an entry in the stack file, and the VM (T-32, T-106, T-125). */
export function addCreate(program: Command): void {
  const command = verb(
    program,
    `create <name> ${NAMES.map((name) => `[${name}]`).join(" ")}`,
    "declare a VM and make it, or bring back one that is absent; what is left out is the default",
  );
  for (const [name, what] of Object.entries(FIELDS)) command.option(`--${name} <${name}>`, what);
  does<Options, [string, ...(string | undefined)[]]>(command, create);
}

/** Fields by place or by option, the same thing in two ways. */
export function givenFields(words: readonly (string | undefined)[], options: Options): Options {
  const pairs = NAMES.flatMap((name, i) => {
    const [word, option] = [words[i], options[name]];
    if (word !== undefined && option !== undefined && word !== option) {
      throw wrongInput(`--${name}`, option, `differs from what stands in its place, ${word}`, "one of the two");
    }
    const value = word ?? option;
    return value === undefined ? [] : [[name, value] as const];
  });
  return Object.fromEntries(pairs);
}

async function create(
  context: Context,
  options: Options,
  name: string,
  ...words: (string | undefined)[]
): Promise<Answer> {
  const edited = await Edited.open(context);
  const before = await edited.plan();
  const given = givenFields(words.slice(0, NAMES.length), options);
  const shape = await shapeOf(context, edited, given);
  const place = placeOf(edited.file, name);
  const there = (await context.vms()).some((vm) => vm.name === name);
  const present = before.vms.some((vm) => vm.name === name);
  applyEdits(edited.file, editsFor(name, place, shape, { present, there, edited }));
  let after = await edited.plan();
  if (place && !after.vms.some((vm) => vm.name === name)) {
    applyEdits(edited.file, presentEdits(place, true));
    after = await edited.plan();
  }
  noteWarnings(context, before, after);
  const vm = planned(after, name);
  const targets = await sharedTargets(context, edited, vm);
  const where = placeOf(edited.file, name)?.where ?? [];
  const entry = edited.file.get(where) ?? {};
  context.note(`${where.join(".")}:\n${stringify(entry).replace(/^/gm, "  ").trimEnd()}`);
  await saveAndUp(context, edited, [name], ...targets);
  const json = { vm: name, entry, image: vm.image, memoryMiB: vm.memoryMiB, vcpus: vm.vcpus, host: vm.host };
  return { json, text: `${name} is there` };
}

interface Now {
  present: boolean;
  there: boolean;
  edited: Edited;
}

/** What to write for a VM that is to be there. An entry that is there already is never written over (T-106). */
function editsFor(name: string, place: Place | undefined, shape: Shape, { present, there, edited }: Now): Edit[] {
  if (place === undefined) {
    if (!there) return newEntryEdits(name, shape);
    throw wrongState(`${name} was taken out of the stack file and is still there: "pulumi up" removes it first`);
  }
  const fields = shapeEdits(place.where, shape);
  if (!present) return [...presentEdits(place, false), ...fields];
  // One that was broken off is finished, if it is the same that is asked for.
  const same = fields.every(({ where, value }) => edited.file.get(where) === value);
  if (!there && same) return [];
  const message = "has an entry in the stack file already, which stays as it is";
  throw wrongInput("name", name, message, 'another name; "nixvm resize" and the like change one that is there');
}

async function shapeOf(context: Context, edited: Edited, given: Options): Promise<Shape> {
  const { image, memory, vcpus, size, network } = given;
  return {
    ...(image === undefined ? {} : { image }),
    ...(memory === undefined ? {} : { memory: memorySpelling(memory) }),
    ...(vcpus === undefined ? {} : { vcpus: numberSpelling(vcpus) }),
    ...(size === undefined ? {} : { size: sizeSpelling(size) }),
    ...(network === undefined ? {} : { network: await networkOf(context, network, defaultHost(edited)) }),
  };
}

/** Host of a VM that names none. */
function defaultHost(edited: Edited): string {
  const { hosts, defaults } = edited.config() as {
    hosts?: Record<string, unknown> | null;
    defaults?: { host?: string } | null;
  };
  return defaults?.host ?? Object.keys(hosts ?? {})[0] ?? LOCAL_HOST;
}
