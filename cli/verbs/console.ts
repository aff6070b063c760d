import type { Command } from "commander";
import { wrongState } from "../errors";
import { mustRun } from "../power";
import { onTerminal } from "../terminal";
import { does, verb } from "../verb";

/** `nixvm console`: the serial console of a VM on this terminal (T-60). */
export function addConsole(program: Command): void {
  does(
    verb(program, "console <vm>", "attach to the serial console; ^] leaves it"),
    async (context, options, name: string) => {
      const vm = await context.vm(name);
      await mustRun(context, vm);
      // --safe: somebody who is attached already keeps it.
      const args = ["-c", vm.uri, "console", vm.uuid, "--safe"];
      if (options.json) return { json: { command: ["virsh", ...args] }, text: "" };
      if (!process.stdin.isTTY || !process.stdout.isTTY) {
        throw wrongState(
          `${name}: a console needs a terminal; "nixvm logs ${name} --serial" shows what it has printed`,
        );
      }
      context.note(`${name}: ^] leaves the console; press Enter when nothing shows`);
      return onTerminal("virsh", args);
    },
  );
}
