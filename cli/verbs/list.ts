import type { Command } from "commander";
import { systemClock } from "../../provider/clock";
import { groupsIn } from "../groups";
import { table } from "../output";
import { quickLibvirt } from "../quick";
import { plain } from "../statusText";
import { does, verb } from "../verb";
import { statesOf } from "../vmFacts";

/** `nixvm list`: the VMs of the stack with the state that libvirt has of them (T-56). */
export function addList(program: Command): void {
  does(verb(program, "list", "VMs of the stack and whether they run"), async (context) => {
    const [vms, groups] = [await context.vms(), await groupsIn(context)];
    const deps = { libvirt: quickLibvirt, clock: systemClock, signal: context.signal };
    const states = await statesOf(vms, deps);
    const rows = vms.map((vm, index) => {
      const group = groups.get(vm.name);
      return {
        name: vm.name,
        ...(group === undefined ? {} : { group }),
        host: vm.host,
        domain: vm.domain,
        state: states[index] ?? "",
        declared: vm.running ? "running" : "shut off",
      };
    });
    return {
      json: rows,
      text: table(
        ["name", "group", "host", "domain", "state", "declared"],
        rows.map(({ name, group = "-", host, domain, state, declared }) =>
          [name, group, host, domain, state, declared].map(plain),
        ),
      ),
    };
  });
}
