import * as path from "node:path";
import { Argument, type Command } from "commander";
import { completionScript, SHELLS, type Shell } from "../completion";

/** `nixvm completion`: a script for a shell, made of the verbs that there are. */
export function addCompletion(program: Command): void {
  program
    .command("completion")
    .description("print a completion script: source <(nixvm completion bash)")
    .addArgument(new Argument("<shell>", "shell it is for").choices([...SHELLS]))
    .action((shell: Shell) => {
      // A file of its own: it starts in a tenth of the time that all verbs take.
      const names = [process.execPath, path.join(__dirname, "..", "vmNames.js")];
      process.stdout.write(completionScript(shell, program, names));
    });
}
