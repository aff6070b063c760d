import { type Command, Option } from "commander";
import type { Attachment } from "../../components/plan";
import type { Context } from "../context";
import { made, noteWarnings, networkTargets, planned } from "../declare";
import { Edited } from "../editedPlan";
import { applyEdits } from "../edits";
import { networkOf } from "../networkChoice";
import { declaredPlace } from "../place";
import { type Answer, does, verb } from "../verb";
import { change } from "./resize";

interface Options {
  yes: boolean;
}

/** `nixvm network`: how a VM is connected (T-121 to T-123). */
export function addNetwork(program: Command): void {
  does<Options, [string, string | undefined]>(
    verb(
      program,
      "network <vm> [network]",
      "connect a VM by nat, nat:<network>, bridge, bridge:<bridge> or user; asks when none is given",
    )
      .alias("network-config")
      .addOption(new Option("--yes", "restart it without a question where that is needed").default(false)),
    network,
  );
}

async function network(context: Context, { yes }: Options, name: string, given: string | undefined): Promise<Answer> {
  const edited = await Edited.open(context);
  const place = declaredPlace(edited.file, name);
  const before = await edited.plan();
  const now = planned(before, name);
  await made(context, name);
  const wanted = await networkOf(context, given, now.host);
  if (!isSo(now.network, wanted)) {
    const where = [...place.where, "network"];
    const mac = (edited.file.get(where) as { mac?: string } | string | undefined | null) ?? undefined;
    const kept = typeof mac === "object" ? mac.mac : undefined;
    applyEdits(edited.file, [{ where, value: written(wanted, kept) }]);
    // A network that the group or the defaults name would be meant by the mere word.
    if (wanted === "nat" && !isSo(planned(await edited.plan(), name).network, wanted)) {
      applyEdits(edited.file, [{ where, value: written("nat:default", kept) }]);
    }
  }
  const after = await edited.plan();
  noteWarnings(context, before, after);
  const vm = planned(after, name);
  return change(context, edited, vm, yes, ...(await networkTargets(context, vm)));
}

/** As the stack file has it: a word, or a map where a MAC address has to be kept. */
export function written(wanted: string, mac: string | undefined): unknown {
  if (mac === undefined) return wanted;
  const [mode = "", name] = wanted.split(":");
  const named = name === undefined ? {} : mode === "bridge" ? { bridge: name } : { network: name };
  return { mode, ...named, mac };
}

/** Whether a VM is connected like that already; then its fixed address or port stays too. */
export function isSo(network: Attachment, wanted: string): boolean {
  switch (network.mode) {
    case "user":
      return wanted === "user";
    case "bridge":
      return wanted === `bridge:${network.bridge}`;
    case "nat":
      return (wanted === "nat" ? "nat:default" : wanted) === `nat:${network.entry ?? network.network}`;
  }
}
