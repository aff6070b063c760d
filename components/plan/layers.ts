import type { Segment } from "./errors";
import { mergeHealth } from "./health";
import type { Config } from "./model";
import type { AllowlistConfig } from "./model-allowlist";
import type { VmConfig } from "./model-vm";
import { isBroken, type Parsed } from "./parse";
import { formatSize, GIB } from "./size";

type Maps<T> = Exclude<T, string | false | undefined>;

/** A VM's entry with every short form written out, so that layers can be merged field by field. */
export type LongForm = Omit<VmConfig, "network" | "home" | "update" | "vmDiskSize"> & {
  network?: Maps<VmConfig["network"]>;
  home?: Maps<VmConfig["home"]>;
  update?: Maps<VmConfig["update"]>;
};

/** One place where fields of a VM are written. */
interface Layer {
  readonly path: readonly Segment[];
  readonly written: VmConfig;
  readonly long: LongForm;
}

/** A VM with its layers merged; the presets are not in yet. */
export class LayeredVm {
  /** What all layers together say; the nearest wins. */
  readonly fields: LongForm;

  constructor(
    readonly name: string,
    readonly group: string | null,
    private readonly layers: readonly Layer[],
    private readonly parsed: Parsed,
  ) {
    this.fields = layers.reduceRight<LongForm>((lower, layer) => merge(layer.long, lower), {});
  }

  /** Whether there is to be nothing of it but its entry: checked like any other, since it can come back any time (T-54). */
  get absent(): boolean {
    return this.fields.state === "absent";
  }

  /** Where this VM is declared. */
  get path(): readonly Segment[] {
    return this.group === null ? ["fleet", this.name] : ["groups", this.group];
  }

  /** Whether a field was written wrongly in any layer: what depends on it is not known, and must not be reported on. */
  bad(...fields: readonly (keyof VmConfig)[]): boolean {
    return fields.some((field) => this.layers.some((layer) => isBroken(this.parsed, ...layer.path, field)));
  }

  /** Where a value comes from, so that a message names the line to change; the VM's own entry if nobody wrote it. */
  where(...segments: readonly Segment[]): Segment[] {
    for (const layer of this.layers) {
      if (at(layer.long, segments) === undefined) continue;
      if (at(layer.written, segments) !== undefined) return [...layer.path, ...segments];
      return [...layer.path, segments[0] === "scratch" ? "vmDiskSize" : (segments[0] ?? "")];
    }
    return [...this.path, ...segments];
  }

  /** Places that give the size of the scratch disk twice, in its two spellings (E-1, Q-2). */
  get scratchTwice(): Segment[][] {
    return this.layers
      .filter(({ written }) => written.scratch !== undefined && written.vmDiskSize !== undefined)
      .map(({ path }) => [...path, "vmDiskSize"]);
  }

  /** ` (VM web)` when the place named is shared by several VMs. */
  remark(path: readonly Segment[]): string {
    return path[0] === "fleet" ? "" : ` (VM ${this.name})`;
  }
}

/** All VMs of the config: entries of the fleet and members of groups, sorted by name. */
export function layeredVms(parsed: Parsed): LayeredVm[] {
  const { fleet, groups, defaults } = parsed.config;
  const shared = defaults ? [layer(["defaults"], defaults)] : [];
  const vms = Object.entries(fleet ?? {}).map(
    ([name, entry]) => new LayeredVm(name, null, [layer(["fleet", name], entry ?? {}), ...shared], parsed),
  );
  for (const [group, { count, rollout: _, members, ...entry }] of Object.entries(groups ?? {})) {
    const layers = [layer(["groups", group], entry), ...shared];
    for (let n = 1; n <= count; n++) {
      const own = members?.[n];
      const nearest = own ? [layer(["groups", group, "members", String(n)], own)] : [];
      vms.push(new LayeredVm(memberName(group, n), group, [...nearest, ...layers], parsed));
    }
  }
  // Plain comparison, not localeCompare: the order must be the same on every machine.
  return vms.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
}

/** Name of the n-th member of a group, from 1. */
export function memberName(group: string, n: number): string {
  return `${group}-${n}`;
}

/** Names of all members of a group. */
export function memberNames(config: Config, group: string): string[] {
  return Array.from({ length: config.groups?.[group]?.count ?? 0 }, (_, i) => memberName(group, i + 1));
}

/** One entry that says what several say together, the nearest first. */
export function mergedEntry(nearestFirst: readonly VmConfig[]): LongForm {
  return nearestFirst.map(longForm).reduceRight<LongForm>((lower, own) => merge(own, lower), {});
}

function layer(path: readonly Segment[], written: VmConfig): Layer {
  return { path, written, long: longForm(written) };
}

function longForm(entry: VmConfig): LongForm {
  const { network, home, update, vmDiskSize, ...rest } = entry;
  const long: LongForm = rest;
  if (network !== undefined) long.network = longNetwork(network);
  if (home !== undefined) long.home = typeof home === "string" ? { mode: home } : home;
  if (update !== undefined) long.update = typeof update === "string" ? { mode: update } : update;
  if (vmDiskSize !== undefined && long.scratch === undefined) {
    long.scratch = vmDiskSize === 0 ? false : { size: formatSize(vmDiskSize * GIB) };
  }
  return long;
}

function longNetwork(network: Exclude<VmConfig["network"], undefined>): Maps<VmConfig["network"]> {
  if (typeof network !== "string") {
    // A field that only one mode has names the mode.
    if (network.mode !== undefined) return network;
    if (network.bridge !== undefined) return { ...network, mode: "bridge" };
    if (network.sshPort !== undefined) return { ...network, mode: "user" };
    return network.network === undefined && network.address === undefined ? network : { ...network, mode: "nat" };
  }
  const [mode, name] = network.split(":");
  if (mode === "bridge") return { mode, ...(name === undefined ? {} : { bridge: name }) };
  return { mode: mode === "user" ? "user" : "nat", ...(name === undefined ? {} : { network: name }) };
}

/** Lists and plain values are replaced as a whole; maps are merged, unless they are about different modes. */
function merge(own: LongForm, lower: LongForm): LongForm {
  const merged: LongForm = { ...lower, ...own };
  if (own.network && lower.network) merged.network = mergeModes(own.network, lower.network);
  if (own.home && lower.home) merged.home = mergeModes(own.home, lower.home);
  if (own.update && lower.update) merged.update = mergeModes(own.update, lower.update);
  if (own.persist && lower.persist) merged.persist = { ...lower.persist, ...own.persist };
  if (own.scratch && lower.scratch) merged.scratch = { ...lower.scratch, ...own.scratch };
  if (own.allowlist && lower.allowlist) merged.allowlist = mergeLists(own.allowlist, lower.allowlist);
  if (own.health && lower.health) merged.health = mergeHealth(own.health, lower.health);
  if (own.hostsFile && lower.hostsFile) merged.hostsFile = mergeHosts(own.hostsFile, lower.hostsFile);
  if (own.egress && lower.egress) merged.egress = { ...lower.egress, ...own.egress };
  if (own.seed && lower.seed) merged.seed = { ...lower.seed, ...own.seed };
  if (own.identity && lower.identity) merged.identity = { ...lower.identity, ...own.identity };
  return merged;
}

// The maps of a list are merged like all maps, the lists in them replaced like all lists.
function mergeLists(own: AllowlistConfig, lower: AllowlistConfig): AllowlistConfig {
  const users = { ...lower.users, ...own.users };
  for (const [name, lists] of Object.entries(own.users ?? {})) users[name] = { ...lower.users?.[name], ...lists };
  return { ...lower, ...own, users };
}

function mergeHosts<T extends { lines?: object | undefined }>(own: T, lower: T): T {
  return { ...lower, ...own, lines: { ...lower.lines, ...own.lines } };
}

function mergeModes<T extends { mode?: string | undefined }>(own: T, lower: T): T {
  return own.mode !== undefined && lower.mode !== undefined && own.mode !== lower.mode ? own : { ...lower, ...own };
}

function at(value: unknown, segments: readonly Segment[]): unknown {
  let found = value;
  for (const segment of segments) {
    if (typeof found !== "object" || found === null) return undefined;
    found = (found as Record<Segment, unknown>)[segment];
  }
  return found;
}
