import type { Problems, Segment } from "./errors";
import type { HostConfig, ImageConfig, NetworkConfig } from "./model";
import { networkName } from "./names";
import { formatIpv4, overlaps, parseSubnet } from "./network";
import { LOCAL_HOST, type Scope } from "./scope";
import type { HostPlan, ImagePlan, NetworkPlan } from "./types";

/** Contract versions that this program speaks with guests. */
const CONTRACTS: readonly number[] = [1];

const byName = <T>(map: Readonly<Record<string, T>>): [string, T][] =>
  Object.entries(map).sort(([a], [b]) => (a < b ? -1 : 1));

/** Plans all hosts, by name. Hosts that are wrong are missing. */
export function planHosts(scope: Scope): Map<string, HostPlan> {
  const hosts = new Map<string, HostPlan>();
  const config = scope.config.hosts ?? {};
  const defaults = scope.context.defaults ?? {};
  // Entries of the config are read by own key only: a reference called `constructor` must not find anything.
  for (const name of [...scope.names("hosts")].sort()) {
    // A host that could not be read has no entry; the stand-in for an empty section has none either.
    if (!Object.hasOwn(config, name) && name !== LOCAL_HOST) continue;
    const written: HostConfig | null | undefined = lookup(config, name);
    const host = planHost(scope, name, written ?? {}, defaults);
    for (const other of hosts.values()) {
      if (other.uri !== host.uri || other.pool.name !== host.pool.name) continue;
      const message = `is the pool of host ${other.name} too, on the same libvirt`;
      scope.problems.add(
        ["hosts", name, "pool", "name"],
        host.pool.name,
        message,
        "one host for each libvirt, or pools of different names",
      );
    }
    hosts.set(name, host);
  }
  return hosts;
}

function planHost(
  scope: Scope,
  name: string,
  written: HostConfig,
  defaults: NonNullable<Scope["context"]["defaults"]>,
): HostPlan {
  const pool = written.pool ?? {};
  const poolName = pool.name ?? scope.prefix;
  const create = pool.create ?? true;
  const root = defaults.poolRoot?.replace(/\/+$/, "");
  if (pool.path === undefined && (!create || root === undefined)) {
    const message = create ? "is missing" : "is missing, and needed for an existing pool";
    scope.problems.add(
      ["hosts", name, "pool", "path"],
      undefined,
      message,
      "the folder of the pool on the host, an absolute path",
    );
  }
  return {
    name,
    uri: written.uri ?? defaults.uri ?? "qemu:///system",
    accelerator: written.accelerator ?? defaults.accelerator ?? "kvm",
    pool: { name: poolName, path: pool.path ?? `${root ?? ""}/${poolName}`, create },
    consoleDir: written.consoleDir ?? defaults.consoleDir ?? "/var/log/libvirt/qemu",
    firmware: written.firmware ?? null,
  };
}

/** An image without its host, with what its file name says. */
export type ImageSource = Omit<ImagePlan, "key" | "host">;

/** Reads all images, by name. Wrong ones are reported and missing. */
export function planImages(scope: Scope): Map<string, ImageSource> {
  const images = new Map<string, ImageSource>();
  for (const [name, written] of byName(scope.config.images ?? {})) {
    const image = planImage(scope, name, written);
    if (image !== undefined) images.set(name, image);
  }
  return images;
}

function planImage(scope: Scope, name: string, written: ImageConfig): ImageSource | undefined {
  const { problems } = scope;
  const path = ["images", name];
  const given = (["path", "url", "flake", "digest"] as const).filter((field) => written[field] !== undefined);
  if (given.length === 0) {
    problems.add(
      path,
      undefined,
      "has no path, url, flake or digest",
      "path: <file>, or url: <address> with sha256: <64 hex digits>, or flake: <flake>#<attribute>, or digest: <of a kept image>",
    );
    return undefined;
  }
  for (const second of given.slice(1)) {
    problems.add([...path, second], written[second], `stands beside ${given[0]}`, "one of path, url, flake and digest");
  }
  if (written.buildHost !== undefined && written.flake === undefined) {
    problems.add([...path, "buildHost"], undefined, "stands without a flake to build there", "flake, or no buildHost");
  }
  if (written.url !== undefined && written.sha256 === undefined) {
    problems.add(
      [...path, "sha256"],
      undefined,
      "is missing, and needed with a url",
      "64 lower-case hex digits, as printed by `sha256sum`",
    );
  }
  const facts = lookup(scope.context.images, name);
  if (facts?.contract !== undefined && !CONTRACTS.includes(facts.contract)) {
    const message = `holds a guest of contract version ${facts.contract}`;
    problems.add(
      path,
      undefined,
      message,
      `an image of contract version ${CONTRACTS.join(" or ")}; build it again with this release`,
    );
  }
  const file = (written.path ?? fileOfUrl(written.url ?? "")).toLowerCase();
  const packed = file.endsWith(".zst") ? "zstd" : null;
  const inner = packed === null ? file : file.slice(0, -".zst".length);
  const format =
    written.format ??
    facts?.format ??
    // A kept image has no file of that name: what format it has is known with its digest, and asked for later.
    // What is built of a flake has a name that is known once it is built.
    (inner.endsWith(".qcow2") || given[0] === "digest" || given[0] === "flake"
      ? "qcow2"
      : /\.(raw|img)$/.test(inner)
        ? "raw"
        : undefined);
  if (format === undefined) {
    problems.add([...path, "format"], undefined, "is missing, and the file's name does not tell it", "qcow2, raw");
    return undefined;
  }
  return {
    name,
    path: written.path ?? null,
    url: written.url ?? null,
    sha256: written.sha256 ?? null,
    format,
    packed,
    id: written.id ?? facts?.id ?? null,
  };
}

/** The part of an address that names the file: no query, no fragment. */
function fileOfUrl(url: string): string {
  return url.replace(/[?#].*$/, "");
}

/** Plans all networks, by name. Wrong ones are reported and missing. */
export function planNetworks(scope: Scope): Map<string, NetworkPlan> {
  const networks = new Map<string, NetworkPlan>();
  for (const [name, written] of byName(scope.config.networks ?? {})) {
    const path = ["networks", name];
    const host = scope.hostOf([...path, "host"], written.host);
    if (host === undefined) continue;
    const network = planNetwork(scope, name, host, written);
    if (network.create && network.subnet === null) {
      scope.problems.add([...path, "subnet"], undefined, "is missing", "an IPv4 network such as 192.168.77.0/24");
    }
    for (const other of networks.values()) checkPair(scope.problems, path, network, other);
    networks.set(name, network);
  }
  return networks;
}

function planNetwork(scope: Scope, name: string, host: string, written: NetworkConfig): NetworkPlan {
  const create = written.create ?? true;
  const subnet = parseSubnet(written.subnet);
  return {
    name,
    host,
    libvirtName: written.name ?? (create ? networkName(scope.prefix, name) : name),
    create,
    mode: written.mode ?? "nat",
    subnet:
      subnet === undefined
        ? null
        : { cidr: subnet.cidr, prefixLength: subnet.prefixLength, gateway: formatIpv4(subnet.gateway) },
    dhcp: written.dhcp ?? true,
    domain: written.domain ?? null,
    bridge: written.bridge ?? null,
  };
}

function checkPair(problems: Problems, path: readonly Segment[], network: NetworkPlan, other: NetworkPlan): void {
  if (network.host !== other.host) return;
  if (network.libvirtName === other.libvirtName) {
    problems.add(
      [...path, "name"],
      network.libvirtName,
      `is libvirt's name of network ${other.name} too`,
      "a name of its own on each host",
    );
  }
  if (network.bridge !== null && network.bridge === other.bridge) {
    problems.add(
      [...path, "bridge"],
      network.bridge,
      `is the bridge of network ${other.name} too`,
      "a bridge of its own for each network",
    );
  }
  const [a, b] = [parseSubnet(network.subnet?.cidr), parseSubnet(other.subnet?.cidr)];
  if (a !== undefined && b !== undefined && overlaps(a, b)) {
    const message = `shares addresses with network ${other.name} (${b.cidr}) on the same host`;
    problems.add([...path, "subnet"], a.cidr, message, "networks that do not overlap");
  }
}

/** An entry of a map by its own key. */
export function lookup<T>(map: Readonly<Record<string, T>> | undefined, name: string): T | undefined {
  return map !== undefined && Object.hasOwn(map, name) ? map[name] : undefined;
}
