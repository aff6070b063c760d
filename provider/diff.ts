import { isDeepStrictEqual } from "node:util";
import { isUnknown, Props } from "./inputs";
import { formatBytes } from "./parse";

/** What a change of inputs, or drift found by a refresh, leads to. */
export interface ResourceDiff {
  /** Inputs that replace the resource; for a Guest its domain restarts. */
  replaces: string[];
  /** Inputs that are applied in place. */
  updates: string[];
  /** Outputs that a refresh found different from what is wanted; the update makes them so. */
  drift: string[];
  /** One phrase a change, for people: "restarts, because ...". */
  reasons: string[];
}

interface Card {
  type: string;
  source: string;
  mac: string;
}

/** The two network cards when what is between them can be changed under the guest: then the line that describes it says nothing more. */
function cards(olds: Props, news: Props): [Card, Card] | undefined {
  const [before, after] = [olds["nic"], news["nic"]] as (Card | undefined)[];
  return before && after ? [before, after] : undefined;
}

/** These come with a new domain, so the guest is stopped before and made anew after it. */
const replacing = new Set(["domainId", "uuid", "domain", "network", "accelerator"]);
/** These need a restart in the same domain. The rest is applied to the running guest. */
const restarting = new Set(["imageDigest", "overlayPath", "memoryMaximumMiB", "vcpusMaximum"]);
/** These say how a change goes, and are none. */
const manner = new Set(["goBack", "retry", "snapshots", "restoreData", "rollout"]);

/** The inputs for which a running guest has to restart. Without a maximum its shape is fixed while it runs; processors only come. */
function restartsFor(updates: string[], olds: Props, news: Props): string[] {
  const fewer = Number(news["vcpus"]) < Number(olds["vcpus"]);
  const [before, after] = cards(olds, news) ?? [];
  const shape = { memoryMiB: "memoryMaximumMiB", vcpus: "vcpusMaximum" };
  return updates.filter(
    (key) =>
      restarting.has(key) ||
      (key === "vcpus" && fewer) ||
      (key === "nic" && before?.mac !== after?.mac) ||
      (key in shape && typeof news[shape[key as keyof typeof shape]] !== "number"),
  );
}

/**
 * Compares inputs with inputs: what the guest reported is no wish. Of the outputs only three count, and only after a
 * refresh has found them wrong: another image, not healthy, not running.
 */
export function diffGuest(oldInputs: Props, news: Props, olds: Props = {}): ResourceDiff {
  const replaces: string[] = [];
  const updates: string[] = [];
  for (const key of [...new Set([...Object.keys(oldInputs), ...Object.keys(news)])].sort()) {
    if (key.startsWith("__") || manner.has(key) || same(oldInputs[key], news[key])) continue;
    if (key === "network" && cards(oldInputs, news)) continue;
    (replacing.has(key) ? replaces : updates).push(key);
  }
  const drift = driftOf(olds, news);
  return { replaces, updates, drift, reasons: reasons(replaces, updates, drift, oldInputs, news, olds) };
}

/** True when the guest is stopped and started for it: it is on, and stays on. */
export function restarts(diff: ResourceDiff, olds: Props, news: Props): boolean {
  const on = olds["running"] !== false && news["running"] !== false;
  return on && diff.replaces.length + restartsFor(diff.updates, olds, news).length > 0;
}

/** True when only the engine's question "and if its domain were replaced?" is in the inputs. */
export function onlyDomainUnknown(diff: ResourceDiff, news: Props): boolean {
  return diff.replaces.length === 1 && diff.updates.length === 0 && isUnknown(news["domainId"]);
}

function same(a: unknown, b: unknown): boolean {
  return isDeepStrictEqual(a ?? undefined, b ?? undefined);
}

function driftOf(olds: Props, news: Props): string[] {
  if (news["running"] === false) return olds["state"] === "running" ? ["state"] : [];
  const drift: string[] = [];
  const wanted = news["imageId"];
  const found = olds["imageId"];
  if (
    typeof wanted === "string" &&
    !isUnknown(wanted) &&
    typeof found === "string" &&
    found !== "" &&
    found !== wanted
  ) {
    drift.push("imageId");
  }
  if (olds["healthy"] === false) drift.push("healthy");
  if (typeof olds["state"] === "string" && olds["state"] !== "running") drift.push("state");
  return drift;
}

function reasons(
  replaces: string[],
  updates: string[],
  drift: string[],
  olds: Props,
  news: Props,
  oldOutputs: Props,
): string[] {
  const off = news["running"] === false || olds["running"] === false;
  const restarts = [...replaces, ...restartsFor(updates, olds, news)];
  const causes = restarts.filter((key) => causing(key, restarts)).map((key) => cause(key, olds, news));
  // A new domain is the effect of the other causes where there are any.
  if (causes.length === 0 && replaces.includes("domainId")) causes.push("its domain is replaced");
  const lines: string[] = [];
  if (causes.length > 0) lines.push(`${off ? "while it is off, " : "restarts, because "}${causes.join(" and ")}`);
  if (restarts.length > 0 && !off) return lines;
  for (const key of ["memoryMiB", "vcpus"].filter((one) => updates.includes(one) && !restarts.includes(one))) {
    lines.push(`${off ? "while it is off, " : ""}${cause(key, olds, news)}${off ? "" : " live, no restart"}`);
  }
  const moved = updates.includes("nic") && cards(olds, news);
  if (moved) {
    const [from, to] = moved.map(({ type, source }) => `${type} ${show(source, "")}`);
    const way = off ? "" : " live, no restart";
    lines.push(`${off ? "while it is off, " : ""}its network card moves from ${from} to ${to}${way}`);
  }
  if (updates.includes("lease")) lines.push(`${off ? "while it is off, " : ""}${reserved(news["lease"])}`);
  if (updates.includes("egress")) {
    const what = news["egress"] ? "what it may send to private networks" : "it may send to private networks again";
    lines.push(
      `${off ? "while it is off, " : ""}${what}${news["egress"] ? " is set on the host" : ""}${off ? "" : ", no restart"}`,
    );
  }
  if (updates.includes("seedDigest")) lines.push("applies a new seed live, no restart");
  if (updates.includes("ejectSeed") && !off) {
    lines.push(
      news["ejectSeed"] === true
        ? "its seed leaves the drive once it is healthy, no restart"
        : "its seed stays in the drive from its next start on, no restart",
    );
  }
  if (updates.includes("checks")) lines.push(`health checks change: ${off ? "" : "asked again, "}no restart`);
  if (updates.includes("persistBytes")) lines.push(growth(olds["persistBytes"], news["persistBytes"]));
  if (updates.includes("running")) lines.push(news["running"] === false ? "is stopped cleanly" : "is started");
  if (drift.includes("state") && !updates.includes("running")) {
    const was = String(oldOutputs["state"]);
    const back = was === "paused" ? "is resumed" : "is started again";
    lines.push(news["running"] === false ? "is stopped again" : `${back} (it was ${was})`);
  }
  if (drift.includes("imageId")) {
    lines.push(`runs image ${String(oldOutputs["imageId"])} instead of ${String(news["imageId"])}`);
  }
  if (drift.includes("healthy") && drift.length === 1) lines.push("was not healthy and is checked again");
  return lines;
}

/** Whether an input is a cause of its own: another image means another overlay, another maximum often another amount. */
function causing(key: string, among: string[]): boolean {
  if (key === "domainId") return false;
  return !(key === "overlayPath" && among.includes("imageDigest"));
}

function cause(key: string, olds: Props, news: Props): string {
  const change = (unit = "") => `changes from ${show(olds[key], unit)} to ${show(news[key], unit)}`;
  switch (key) {
    case "imageDigest":
      return `the image changes from ${imageName(olds)} to ${imageName(news)}`;
    case "overlayPath":
      return "its overlay changes";
    case "memoryMiB":
      return `the memory ${change(" MiB")}`;
    case "memoryMaximumMiB":
      return `the maximum of the memory ${change(" MiB")}`;
    case "vcpus":
      return `the number of vCPUs ${change()}`;
    case "vcpusMaximum":
      return `the maximum of vCPUs ${change()}`;
    case "network":
      return `the network ${change()}`;
    case "nic":
      return `the MAC address changes from ${show((olds["nic"] as Card).mac, "")} to ${show((news["nic"] as Card).mac, "")}`;
    case "domain":
      return `the domain's name ${change()}`;
    case "uuid":
      return `the domain's UUID ${change()}`;
    default:
      return `the accelerator ${change()}`;
  }
}

/** The id tells people more; the digest tells two builds of one id apart. */
function imageName(props: Props): string {
  const digest = props["imageDigest"];
  const short = isUnknown(digest) || typeof digest !== "string" ? "one not known yet" : digest.slice(0, 12);
  const id = props["imageId"];
  return typeof id === "string" && !isUnknown(id) ? `${id} (${short})` : short;
}

function reserved(lease: unknown): string {
  const { address, names } = (lease ?? {}) as { address?: unknown; names?: unknown };
  if (address === undefined) return "its address is no longer kept for it in its network";
  return `${show(address, "")} is kept for it in its network, as ${Array.isArray(names) ? names.join(" and ") : show(names, "")}`;
}

function growth(from: unknown, to: unknown): string {
  if (typeof to !== "number") return "persist changes live";
  if (typeof from !== "number") return `persist is checked to be ${formatBytes(to)}`;
  return `persist grows from ${formatBytes(from)} to ${formatBytes(to)} live`;
}

function show(value: unknown, unit: string): string {
  if (isUnknown(value)) return "(not known yet)";
  return typeof value === "string" || typeof value === "number" ? `${value}${unit}` : "(none)";
}
