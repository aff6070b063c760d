import type { Command } from "commander";
import { DURATION_ALLOWED, parseDuration } from "../../components/plan/duration";
import { systemClock } from "../../provider/clock";
import { wrongInput } from "../errors";
import { type GuestCommand, runInGuest, Stop } from "../guestCommand";
import { mustRun } from "../power";
import { type Answer, does, verb } from "../verb";

/** `nixvm exec`: a command in a VM as root, through its agent. */
export function addExec(program: Command): void {
  does<{ timeout?: string }, [string, string[]]>(
    verb(program, "exec <vm> <command...>", "run a command, given after --, as root in a VM; needs no network").option(
      "--timeout <duration>",
      "end the command after that, such as 90s; default: never",
    ),
    async (context, { timeout, json }, name, argv) => {
      const seconds = timeout === undefined ? undefined : parseDuration(timeout);
      if (timeout !== undefined && seconds === undefined) {
        throw wrongInput("--timeout", timeout, "is not a duration", DURATION_ALLOWED);
      }
      const vm = await context.vm(name);
      const libvirt = await mustRun(context, vm);
      const limit = seconds === undefined ? {} : { limitMs: seconds * 1000 };
      const stop = new Stop(context.signal);
      const run = (sinks: Pick<GuestCommand, "onOut" | "onErr">): Promise<number> =>
        runInGuest(libvirt, vm.uuid, { argv, ...limit, ...sinks }, systemClock, stop.signal);
      if (!json) return stop.code(run({ onOut: stop.to(process.stdout), onErr: stop.to(process.stderr) }));
      const [out, err]: [Buffer[], Buffer[]] = [[], []];
      const code = await run({ onOut: (data) => out.push(data), onErr: (data) => err.push(data) });
      return result(code, Buffer.concat(out), Buffer.concat(err));
    },
  );
}

/** JSON holds text only: what is none is written in base64, and says so. */
export function result(code: number, out: Buffer, err: Buffer): Answer {
  const isText = (data: Buffer): boolean => Buffer.from(data.toString("utf8"), "utf8").equals(data);
  const encoding = isText(out) && isText(err) ? "utf8" : "base64";
  const [stdout, stderr] = [out.toString(encoding), err.toString(encoding)];
  return { json: { code, stdout, stderr, ...(encoding === "utf8" ? {} : { encoding }) }, text: "", code };
}
