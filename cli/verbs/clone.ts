import type { Command } from "commander";
import { Clone } from "../clone";
import { does, verb } from "../verb";

/** `nixvm clone`: another VM with the data of one, and an identity of its own. */
export function addClone(program: Command): void {
  does<object, [string, string]>(
    verb(program, "clone <vm> <new>", "make a new VM with the data of another, and an identity of its own"),
    async (context, _options, vm, name) => {
      const clone = await Clone.of(context, vm, name);
      const made = await clone.make();
      const state = made.running ? "running and healthy" : "off, as its source is declared";
      return { json: made, text: `${name} has the data of ${vm} and an identity of its own, and is ${state}` };
    },
  );
}
