import { type Command, Option } from "commander";
import { Cancelled } from "../provider/clock";
import { LibvirtError } from "../provider/virsh";
import { Context } from "./context";
import { CliError, EXIT, Interrupted } from "./errors";
import { PulumiFailed } from "./pulumi";

/** Options that every verb has. */
export interface Shared {
  json: boolean;
  stack?: string;
}

/** What a verb has to say at its end: for programs, and for people. A verb that talks by itself has none. */
export interface Answer {
  json: unknown;
  text: string;
  /** Exit code: that of a command which was run for the user, or 1 when the answer says that something is wrong. Default 0. */
  code?: number;
}

/** What a verb does: the options as commander read them, then the arguments in order. A number is the exit code of a command that has spoken for itself. */
export type Work<Options, Args extends unknown[]> = (
  context: Context,
  options: Options & Shared,
  ...args: Args
) => Promise<Answer | number | void>;

/**
 * Declares a verb: `usage` is its name with its arguments, as commander writes them (`start <vm...>`). Gives the command, so that
 * options can be added, and takes the work to do.
 */
export function verb(program: Command, usage: string, description: string): Command {
  return program
    .command(usage)
    .description(description)
    .addOption(new Option("--stack <name>", "stack to work on; default: PULUMI_STACK, else the selected one"))
    .option("--json", "print one JSON document instead of text", false);
}

/** Binds the work to a verb: makes its context, prints its answer, and turns whatever goes wrong into one message and an exit code. */
export function does<Options, Args extends unknown[]>(command: Command, work: Work<Options, Args>): void {
  command.action(async (...given: unknown[]) => {
    // Commander gives the arguments, then the options, then the command itself.
    const options = given.at(-2) as Options & Shared;
    const args = given.slice(0, -2) as Args;
    process.exitCode = await run(options, (context) => work(context, options, ...args));
  });
}

async function run(options: Shared, work: (context: Context) => Promise<Answer | number | void>): Promise<number> {
  const context = new Context(options);
  try {
    const answer = await work(context);
    if (typeof answer === "number") return answer;
    if (answer) {
      process.stdout.write(options.json ? `${JSON.stringify(answer.json)}\n` : withNewline(answer.text));
    }
    return answer?.code ?? 0;
  } catch (error) {
    // Ctrl-C reaches the commands that a verb has started too, and that they have ended may be heard of before it is.
    await new Promise((resolve) => setTimeout(resolve, 20));
    return report(context.signal.aborted ? interrupted(error) : error, options.json);
  } finally {
    context.close();
  }
}

const withNewline = (text: string): string => (text === "" || text.endsWith("\n") ? text : `${text}\n`);

/** After Ctrl-C any failure is most likely its consequence; what it says may still matter. */
function interrupted(error: unknown): unknown {
  if (error instanceof CliError && error.code === EXIT.interrupted) return error;
  return error instanceof Cancelled ? new Interrupted() : new Interrupted(`broken off: ${messageOf(error)}`);
}

function report(error: unknown, json: boolean): number {
  const known = error instanceof CliError || error instanceof LibvirtError || error instanceof PulumiFailed;
  const code = error instanceof CliError ? error.code : EXIT.failed;
  if (json) {
    const details = error instanceof CliError ? error.details : {};
    process.stdout.write(`${JSON.stringify({ error: { message: messageOf(error), code, ...details } })}\n`);
  }
  // A fault of ours keeps its stack trace: nobody could find it otherwise.
  process.stderr.write(`nixvm: ${known || !(error instanceof Error) ? messageOf(error) : error.stack}\n`);
  return code;
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
