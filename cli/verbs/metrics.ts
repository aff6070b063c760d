import type { Command } from "commander";
import { lookAtFleet } from "../fleetLook";
import { metricsText } from "../metricsText";
import { pendingRollout } from "../pending";
import { does, type Shared, verb } from "../verb";
import { mustBeWritable, writeWhole } from "../wholeFile";

interface Options extends Shared {
  textfile?: string;
}

/** `nixvm metrics`: the fleet for Prometheus, once a call. */
export function addMetrics(program: Command): void {
  const command = verb(program, "metrics", "the fleet as Prometheus metrics, for node_exporter's textfile collector");
  command.option("--textfile <path>", "write them to that file, all at once, instead of stdout");
  does<Options, []>(command, async (context, { textfile }) => {
    const file = textfile === undefined ? undefined : context.path(textfile);
    if (file !== undefined) await mustBeWritable("--textfile", file);
    const stack = await context.stack();
    const [{ facts, rows }, pending] = await Promise.all([
      context.vms().then((vms) => lookAtFleet(context, vms)),
      pendingRollout(context),
    ]);
    const text = await metricsText({ stack, facts, rows, pending, at: Date.now() });
    if (file === undefined) return { json: { text, rows, pending }, text };
    writeWhole(file, text);
    return { json: { file, vms: rows.length }, text: "" };
  });
}
