import type { Command } from "commander";
import { Edited } from "../editedPlan";
import { table } from "../output";
import { declaredNames, placeOf } from "../place";
import { does, verb } from "../verb";

/** `nixvm list-machines`: all entries of the stack file, those without a VM too (T-59). */
export function addListMachines(program: Command): void {
  const command = verb(
    program,
    "list-machines",
    "all VMs of the stack file, also those that are absent or not made yet",
  );
  does(command, async (context) => {
    const edited = await Edited.open(context);
    const declared = new Map((await edited.plan()).vms.map((vm) => [vm.name, vm]));
    const vms = await context.vms();
    const made = new Set(vms.map(({ name }) => name));
    const names = declaredNames(edited.file);
    const machines = names.map((name) => {
      const vm = declared.get(name);
      const group = placeOf(edited.file, name)?.member?.group;
      return {
        name,
        state: vm === undefined ? "absent" : "present",
        made: made.has(name),
        ...(group === undefined ? {} : { group }),
        ...(vm === undefined ? {} : { host: vm.host, image: vm.image, memoryMiB: vm.memoryMiB, vcpus: vm.vcpus }),
      };
    });
    const strays = vms.filter(({ name }) => !names.includes(name)).map(({ name }) => name);
    return {
      json: [...machines, ...strays.map((name) => ({ name, state: "removed", made: true }))],
      text: table(
        ["name", "declared", "made", "image", "host"],
        [
          ...machines.map((one) => [one.name, one.state, one.made ? "yes" : "no", one.image ?? "", one.host ?? ""]),
          ...strays.map((name) => [name, "not any more", "yes", "", ""]),
        ],
      ),
    };
  });
}
