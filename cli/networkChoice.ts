import { select } from "@inquirer/prompts";
import { hostFacts } from "../components/machine";
import type { Context } from "./context";
import { wrongInput } from "./errors";
import { sectionsOf } from "./editedPlan";

/** What a VM's host offers, as far as it is known. */
export interface Offer {
  /** Bridges; undefined when the host is another machine, whose bridges nobody here can see. */
  bridges: readonly string[] | undefined;
  /** Names from nixvm:networks. */
  networks: readonly string[];
}

/** Networks that can be chosen, in the stack file's own words. */
export function choices({ bridges, networks }: Offer): string[] {
  const named = networks.filter((name) => name !== "default").map((name) => `nat:${name}`);
  return ["nat", ...named, ...(bridges ?? []).map((name) => `bridge:${name}`), "user"];
}

/**
 * The network that a word stands for: itself, but for `bridge`, which is the only one that the host has (T-121).
 *
 * @returns undefined where there are several, and somebody has to choose.
 */
export function resolveNetwork(given: string, { bridges }: Offer, host: string): string | undefined {
  if (given !== "bridge") return given;
  const [only, ...more] = bridges ?? [];
  if (only !== undefined && more.length === 0) return `bridge:${only}`;
  if (only !== undefined) return undefined;
  const message =
    bridges === undefined
      ? `is not enough: the bridges of host ${host} cannot be seen from here`
      : `is not enough: host ${host} has no bridge`;
  throw wrongInput("network", given, message, "bridge:<name>, such as bridge:br0; or nat, nat:<network>, user");
}

/** What the host of a VM offers. */
export async function offerOf(context: Context, host: string): Promise<Offer> {
  const config = sectionsOf((await context.stackFile()).text());
  const networks = (config.networks ?? {}) as Record<string, { host?: string } | null>;
  return {
    bridges: hostFacts(config)[host]?.bridges,
    networks: Object.keys(networks).filter((name) => (networks[name]?.host ?? host) === host),
  };
}

/** The network that was given, or chosen on the terminal from those there are. */
export async function networkOf(context: Context, given: string | undefined, host: string): Promise<string> {
  const offer = await offerOf(context, host);
  const all = choices(offer);
  if (given === undefined) {
    if (!context.asks) throw wrongInput("network", undefined, "is missing, and nobody is there to ask", all.join(", "));
    return select({ message: "Network", choices: all.map((value) => ({ value })) }, context.prompting());
  }
  const found = resolveNetwork(given, offer, host);
  if (found !== undefined) return found;
  const bridges = all.filter((one) => one.startsWith("bridge:"));
  if (!context.asks) throw wrongInput("network", given, "is more than one", bridges.join(", "));
  return select({ message: "Bridge", choices: bridges.map((value) => ({ value })) }, context.prompting());
}
