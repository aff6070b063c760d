import type { Command } from "commander";
import { orCancelled } from "../../provider/clock";
import { lookAtFleet, versionsOf } from "../fleetLook";
import { layersOf } from "../graphFacts";
import { graphPage } from "../graphPage";
import { pendingRollout } from "../pending";
import { quickLibvirt } from "../quick";
import { does, type Shared, verb } from "../verb";
import { mustBeWritable, writeWhole } from "../wholeFile";

interface Options extends Shared {
  output?: string;
}

/** `nixvm graph`: the layers of all VMs as one page. */
export function addGraph(program: Command): void {
  const command = verb(program, "graph", "the layers of all VMs and the pending rollout as one HTML page");
  command.option("-o, --output <file>", "file to write; default: nixvm-<stack>.html in this folder");
  does<Options, []>(command, async (context, { output }) => {
    const stack = await context.stack();
    const file = context.path(output ?? `nixvm-${stack}.html`);
    await mustBeWritable("--output", file);
    const resources = await context.resources();
    const [look, pending] = await Promise.all([
      context.vms().then((vms) => lookAtFleet(context, vms)),
      pendingRollout(context),
    ]);
    const layers = layersOf(look, resources, versionsOf(resources), (uri, path) =>
      orCancelled(quickLibvirt(uri).volume(path), context.signal),
    );
    const graph = { stack, at: Date.now(), pending, ...(await layers) };
    writeWhole(file, graphPage(graph));
    return { json: { file, ...graph }, text: file };
  });
}
