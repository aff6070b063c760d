import { formatSize, MIB, parseIpv4, parseSubnet } from "../components/plan";
import { NETWORK_SHORTHAND } from "../components/plan/model-vm";
import { refuseAddress } from "../components/plan/network";
import { wrongInput } from "./errors";
import type { Left, Machine, MachineFiles } from "./machineDir";

/** How a machine becomes a VM of a stack file. */
export interface EntryOptions {
  name: string;
  image?: string;
  host?: string;
  /** As a stack file writes it; in place of the machine's own. */
  network?: string;
  newIdentity: boolean;
  /** Size of the disk as its guest saw it. */
  diskBytes: number;
  /** What VMs of this project get that name no network. */
  defaultNetwork: "nat" | "user";
  /** Subnets of the stack file's networks, by name. */
  subnets: Readonly<Record<string, string>>;
}

/** A fact that goes over. */
export interface Carried {
  file: string;
  /** Field of the VM in the stack file, or where it is in the guest. */
  to: string;
}

/** What becomes of a machine. */
export interface Imported {
  /** For the stack file, without the secret. */
  entry: Record<string, unknown>;
  /** Secret; for the field of that name. */
  rootPasswordHash?: string;
  persistBytes: number;
  carried: Carried[];
  left: Left[];
}

/** The VM that a machine becomes. Pure. */
export function entryOf(machine: Machine, files: MachineFiles, options: EntryOptions): Imported {
  const carried: Carried[] = [];
  const left: Left[] = [];
  const entry: Record<string, unknown> = {};
  const take = (file: string, field: string, value: unknown): void => {
    if (value === undefined) return;
    entry[field] = value;
    carried.push({ file, to: field });
  };
  if (options.image !== undefined) entry.image = options.image;
  if (options.host !== undefined) entry.host = options.host;
  entry.preset = "template";
  const image = options.image ?? "the stack's own";
  if (machine.profiles.length > 0) {
    const reason = `an image is not named by profiles: ${machine.profiles.join(", ")} must be in the image that the VM boots (${image})`;
    left.push({ file: "profile", reason });
  }
  // Another name than the VM's own is all that has to be written.
  if (machine.hostname !== undefined && options.newIdentity) {
    left.push({ file: "hostname", reason: "--new-identity: it is the VM's name" });
  } else if (machine.hostname !== undefined) {
    if (machine.hostname !== options.name) entry.hostname = machine.hostname;
    carried.push({ file: "hostname", to: "hostname" });
  }
  take("memory", "memory", machine.memoryMiB === undefined ? undefined : formatSize(machine.memoryMiB * MIB));
  take("vcpus", "vcpus", machine.vcpus);

  // The disk itself is the truth: what was resized there is not always written back.
  const persistBytes = Math.ceil(Math.max(options.diskBytes, machine.diskBytes ?? 0) / MIB) * MIB;
  entry.persist = { size: formatSize(persistBytes) };
  for (const file of ["disk_size", "var_size"].filter((one) => files.has(one))) {
    carried.push({ file, to: "persist.size" });
  }

  const { network, why } = networkOf(machine, options);
  if (network !== undefined) entry.network = network;
  if (files.has("network")) {
    if (why === undefined) carried.push({ file: "network", to: "network" });
    else left.push({ file: "network", reason: why });
  }
  if (machine.staticIp !== undefined) {
    const reason = addressReason(machine.staticIp, network, options);
    if (reason !== undefined) {
      left.push({ file: "static_ip", reason });
    } else {
      entry.network = { mode: "nat", network: network?.slice("nat:".length), address: machine.staticIp.address };
      carried.push({ file: "static_ip", to: "network.address" });
    }
  }

  take("admin_authorized_keys", "adminKeys", machine.adminKeys);
  take("user_authorized_keys", "userKeys", machine.userKeys);
  take("tcp_ports", "tcpPorts", machine.tcpPorts);
  take("udp_ports", "udpPorts", machine.udpPorts);
  take("resolv.conf", "dns", machine.dns);
  if (machine.rootPasswordHash !== undefined) {
    carried.push({ file: "root_password_hash", to: "rootPasswordHash, as a secret" });
  }

  const identity: Record<string, string> = {};
  for (const [file, field, value] of [
    ["uuid", "uuid", machine.uuid],
    ["machine-id", "machineId", machine.machineId],
    ["mac-address", "mac", machine.mac],
  ] as const) {
    if (value === undefined) continue;
    if (options.newIdentity) left.push({ file, reason: "--new-identity: the VM gets one of its own" });
    else {
      identity[field] = value;
      carried.push({ file, to: `identity.${field}` });
    }
  }
  if (Object.keys(identity).length > 0) entry.identity = identity;
  if (machine.hostKey && options.newIdentity) {
    left.push({ file: "ssh_host_ed25519_key", reason: "--new-identity: the guest makes one of its own" });
  }
  const hash = machine.rootPasswordHash;
  return { entry, persistBytes, carried, left, ...(hash === undefined ? {} : { rootPasswordHash: hash }) };
}

/** `why`: the machine's own is not taken. */
function networkOf(machine: Machine, options: EntryOptions): { network?: string; why?: string } {
  const { network: given, defaultNetwork } = options;
  if (given !== undefined) {
    if (!NETWORK_SHORTHAND.test(given)) {
      throw wrongInput("--network", given, "is not a network", "nat, nat:<network>, user or bridge:<bridge>");
    }
    const same = given === machine.network;
    return same || machine.network === undefined
      ? { network: given }
      : { network: given, why: `--network ${given} is in place of ${machine.network}` };
  }
  if (machine.network === "nat" && defaultNetwork === "user") {
    return {
      network: "user",
      why: "this project's own libvirt has no network for nat: user networking is in its place",
    };
  }
  return machine.network === undefined ? {} : { network: machine.network };
}

/** Why a fixed address cannot be had; undefined when it can. */
function addressReason(
  { address }: NonNullable<Machine["staticIp"]>,
  network: string | undefined,
  { subnets }: EntryOptions,
): string | undefined {
  const name = /^nat:(.+)$/.exec(network ?? "")?.[1];
  const again = `${address} has to be given by the DHCP server of that network, for the VM's MAC address`;
  if (name === undefined) {
    return network?.startsWith("bridge:")
      ? `on a bridge VMs get their addresses by DHCP: ${again}`
      : `only a network of the stack file has fixed addresses: declare one with that subnet and give --network nat:<name>`;
  }
  const subnet = parseSubnet(subnets[name] ?? "");
  const ip = parseIpv4(address);
  if (subnet === undefined || ip === undefined) return `the network ${name} has no subnet in the stack file`;
  const refused = refuseAddress(ip, subnet);
  return refused === undefined ? undefined : `${address} ${refused}`;
}
