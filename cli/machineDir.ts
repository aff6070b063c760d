import { isIPv4, isIP } from "node:net";
import { parseIpv4 } from "../components/plan";
import * as text from "../components/plan/text";
import { wrongInput, wrongState } from "./errors";

/**
 * Reader of a machine config directory of nixos-vm-template: one small text file a fact. Pure; whoever calls reads the files. A text is
 * a file's content, `null` a folder.
 */
export type MachineFiles = ReadonlyMap<string, string | null>;

/** What a machine config directory says; what it does not say is left out. */
export interface Machine {
  profiles: string[];
  memoryMiB?: number;
  vcpus?: number;
  diskBytes?: number;
  uuid?: string;
  mac?: string;
  /** `nat`, or `bridge:<bridge>`. */
  network?: string;
  hostname?: string;
  machineId?: string;
  adminKeys?: string[];
  userKeys?: string[];
  tcpPorts?: number[];
  udpPorts?: number[];
  dns?: string[];
  staticIp?: { address: string; prefixLength: number };
  /** Secret. */
  rootPasswordHash?: string;
  /** Whether there is a file with the SSH host key. */
  hostKey?: true;
}

/** Something that is not taken over, and why. */
export interface Left {
  file: string;
  reason: string;
}

/** Files that only VMs of kinds have that are no libvirt VMs with a data disk of their own. */
const CONTAINER = ["privileged", "mounts", "nas_passwd", "nas_acl", "nfs_clients"];

const SERVICE = "is for a service of their profiles; the copy on the data disk, /var/identity, comes along";

/** Files that have no counterpart. */
const NO_COUNTERPART: Readonly<Record<string, string>> = {
  hosts: "there is no field for more lines of /etc/hosts; put them into the image or into a name server",
  "ca-cert.pem": "there is no field for a certificate authority; put it into the image",
  allowed_cidrs: "egress of a guest is not limited from inside; do it on its host or network",
  "woodpecker.env": SERVICE,
  deploy_keys: SERVICE,
  samba_credentials: SERVICE,
  samba_client_shares: SERVICE,
  vmid: "is Proxmox's number of the VM",
  pci_devices: "there is no field for devices of the host",
  "ssh_host_ed25519_key.pub": "is made of the private key",
};

/** Names of files of which the content is wanted. */
export const MACHINE_FILES: readonly string[] = [
  ...[
    "profile",
    "memory",
    "vcpus",
    "disk_size",
    "var_size",
    "uuid",
    "mac-address",
    "network",
    "hostname",
    "machine-id",
  ],
  ...["admin_authorized_keys", "user_authorized_keys", "tcp_ports", "udp_ports", "resolv.conf", "hosts", "static_ip"],
  ...["root_password_hash", "ssh_host_ed25519_key", "mutable"],
];

const KNOWN = new Set([...MACHINE_FILES, ...CONTAINER, ...Object.keys(NO_COUNTERPART), "var.qcow2"]);

/** What is written in a file, without comments and empty lines. */
function lines(content: string): string[] {
  return content
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"));
}

/**
 * What a machine config directory says, and what of it is not taken over. A mistake names the file.
 *
 * @throws CliError when a file does not say what it should, or when it is of a machine that cannot be taken over.
 */
export function readMachine(files: MachineFiles): { machine: Machine; left: Left[] } {
  const reader = new Reader(files);
  refuseKinds(files, reader);
  const machine: Machine = {
    profiles: profilesOf(files),
    ...said("memoryMiB", reader.whole("memory", 64, 16_777_216, "MiB")),
    ...said("vcpus", reader.whole("vcpus", 1, 255, "virtual CPUs")),
    ...said("diskBytes", reader.size("disk_size") ?? reader.size("var_size")),
    ...said("uuid", reader.word("uuid", text.UUID_PATTERN, "is not a UUID", "a UUID")?.toLowerCase()),
    ...said("mac", reader.mac()),
    ...said("network", reader.network()),
    ...said("hostname", reader.word("hostname", text.HOSTNAME_PATTERN, "is not a host name", text.HOSTNAME_ALLOWED)),
    ...said("machineId", reader.machineId()),
    ...said("adminKeys", reader.keys("admin_authorized_keys")),
    ...said("userKeys", reader.keys("user_authorized_keys")),
    ...said("tcpPorts", reader.ports("tcp_ports")),
    ...said("udpPorts", reader.ports("udp_ports")),
    ...said("dns", reader.nameServers()),
    ...said("staticIp", reader.staticIp()),
    ...said("rootPasswordHash", reader.passwordHash()),
    ...said("hostKey", reader.hostKey()),
  };
  return { machine, left: [...reader.left, ...withoutCounterpart(files)] };
}

const said = <K extends string, V>(key: K, value: V | undefined): Partial<Record<K, V>> =>
  (value === undefined ? {} : { [key]: value }) as Partial<Record<K, V>>;

function profilesOf(files: MachineFiles): string[] {
  return (files.get("profile") ?? "")
    .split(/[\s,]+/)
    .map((one) => one.trim())
    .filter((one) => one !== "");
}

/** Machines that have no data disk to take over. */
function refuseKinds(files: MachineFiles, reader: Reader): void {
  if (!files.has("profile") && !files.has("uuid") && !files.has("machine-id")) {
    throw wrongInput(
      "directory",
      undefined,
      "is no machine config directory: it has neither profile, uuid nor machine-id",
      "a folder such as ~/.config/nixos-vm-template/machines/libvirt/local/<name>",
    );
  }
  const container = CONTAINER.find((file) => files.has(file));
  if (container !== undefined) {
    throw wrongState(
      `${container}: this is an LXC container; it has no disk of its own that a VM could boot with, so it cannot be imported`,
    );
  }
  const profiles = profilesOf(files);
  if (profiles.includes("mutable") || files.has("mutable")) {
    throw wrongState(
      "profile: this is a mutable machine: system and data are on one disk, so there is no data disk to import. " +
        "Copy what you want to keep into a new VM",
    );
  }
  if (profiles.includes("semi-mutable")) {
    reader.leave("profile", "semi-mutable: the writable layer of its store, /var/nix-overlay, is of its former image");
  }
}

function withoutCounterpart(files: MachineFiles): Left[] {
  const left: Left[] = [];
  for (const [file, content] of files) {
    const reason = NO_COUNTERPART[file];
    const empty = file === "hosts" && typeof content === "string" && lines(content).length === 0;
    if (reason !== undefined && !empty) left.push({ file, reason });
    else if (!KNOWN.has(file)) left.push({ file, reason: "is no file that nixos-vm-template writes" });
  }
  return left;
}

class Reader {
  readonly left: Left[] = [];

  constructor(private readonly files: MachineFiles) {}

  leave(file: string, reason: string): void {
    this.left.push({ file, reason });
  }

  /** Content without space around it; undefined when there is none, as those who made the file take it. */
  private content(file: string): string | undefined {
    const content = this.files.get(file);
    if (content === null) throw wrongInput(file, undefined, "is a folder", "a file");
    const trimmed = content?.trim();
    return trimmed === "" ? undefined : trimmed;
  }

  word(file: string, pattern: RegExp, message: string, allowed: string): string | undefined {
    const found = this.content(file);
    if (found !== undefined && !pattern.test(found)) throw wrongInput(file, short(found), message, allowed);
    return found;
  }

  whole(file: string, min: number, max: number, what: string): number | undefined {
    const found = this.content(file);
    if (found === undefined) return undefined;
    const number = /^[0-9]{1,9}$/.test(found) ? Number(found) : NaN;
    if (number >= min && number <= max) return number;
    throw wrongInput(file, short(found), `is not a number of ${what}`, `a whole number from ${min} to ${max}`);
  }

  /** `30G`, `500M`, and `30`, which is GiB there. */
  size(file: string): number | undefined {
    const found = this.content(file);
    if (found === undefined) return undefined;
    const match = /^([1-9][0-9]{0,8})([MGT])?(iB|B)?$/i.exec(found);
    const power = { M: 20, G: 30, T: 40 }[(match?.[2] ?? "G").toUpperCase()] ?? NaN;
    const bytes = Number(match?.[1]) * 2 ** power;
    if (match !== null && (match[2] !== undefined || match[3] === undefined) && Number.isSafeInteger(bytes))
      return bytes;
    throw wrongInput(file, short(found), "is not a size", "a whole number of GiB, or one with M, G or T, such as 30G");
  }

  mac(): string | undefined {
    const found = this.word("mac-address", text.MAC_PATTERN, "is not a MAC address", text.MAC_ALLOWED);
    if (found !== undefined && !text.isUnicastMac(found)) {
      throw wrongInput("mac-address", found, "is not a MAC address of one NIC", text.MAC_ALLOWED);
    }
    return found?.toLowerCase();
  }

  machineId(): string | undefined {
    const allowed = "32 lower-case hex digits, not all zero";
    const found = this.word("machine-id", text.MACHINE_ID_PATTERN, "is not a machine-id", allowed);
    if (found !== undefined && /^0+$/.test(found)) {
      throw wrongInput("machine-id", found, "is not a machine-id", allowed);
    }
    return found;
  }

  network(): string | undefined {
    const found = this.content("network");
    if (found === undefined || found === "nat") return found;
    const bridge = /^bridge:(.*)$/.exec(found)?.[1];
    if (bridge !== undefined && text.INTERFACE_PATTERN.test(bridge)) return found;
    throw wrongInput("network", short(found), "is not a network", "nat, or bridge:<bridge> such as bridge:br0");
  }

  keys(file: string): string[] | undefined {
    const content = this.files.get(file);
    if (content === undefined) return undefined;
    const found = lines(this.content(file) ?? "");
    const wrong = found.find((line) => !text.isSshPublicKey(line));
    if (wrong !== undefined) throw wrongInput(file, short(wrong), "is not an SSH public key", text.SSH_KEY_ALLOWED);
    return [...new Set(found)];
  }

  ports(file: string): number[] | undefined {
    if (!this.files.has(file)) return undefined;
    const found = lines(this.content(file) ?? "");
    const wrong = found.find((line) => !/^[0-9]{1,5}$/.test(line) || Number(line) < 1 || Number(line) > 65_535);
    if (wrong !== undefined) {
      throw wrongInput(
        file,
        short(wrong),
        "is not a port",
        "a whole number from 1 to 65535 on each line, # for comments",
      );
    }
    return [...new Set(found.map(Number))].sort((a, b) => a - b);
  }

  nameServers(): string[] | undefined {
    const content = this.content("resolv.conf");
    if (content === undefined) return undefined;
    const servers: string[] = [];
    for (const line of lines(content).filter((one) => !one.startsWith(";"))) {
      const [word, ...values] = line.split(/\s+/);
      if (word !== "nameserver") {
        this.leave("resolv.conf", `only name servers are taken over, not "${short(line)}"`);
        continue;
      }
      const server = values[0] ?? "";
      // A zone, as in fe80::1%eth0, is of a NIC that has another name elsewhere.
      if (isIP(server) === 0 || server.includes("%")) {
        const allowed = "nameserver <IPv4 or IPv6 address>";
        throw wrongInput("resolv.conf", short(line), "names no address of a name server", allowed);
      }
      servers.push(server);
    }
    return servers.length === 0 ? undefined : [...new Set(servers)];
  }

  staticIp(): Machine["staticIp"] {
    const content = this.content("static_ip");
    if (content === undefined) return undefined;
    const address = lines(content)
      .map((line) => /^address=(.*)$/.exec(line)?.[1]?.trim())
      .find((value) => value !== undefined);
    if (address === undefined || address === "") return undefined;
    const [ip = "", bits = ""] = address.split("/");
    if (isIPv4(ip) && parseIpv4(ip) !== undefined && /^([0-9]|[12][0-9]|3[0-2])$/.test(bits)) {
      return { address: ip, prefixLength: Number(bits) };
    }
    throw wrongInput(
      "static_ip",
      short(address),
      "is not an address",
      "address=<IPv4 address>/<bits>, such as 10.56.0.5/24",
    );
  }

  passwordHash(): string | undefined {
    const found = this.content("root_password_hash");
    if (found === undefined || text.CRYPT_PATTERN.test(found)) return found;
    // Its value is a secret, be it wrong.
    throw wrongInput("root_password_hash", undefined, "is not a password hash", text.CRYPT_ALLOWED);
  }

  hostKey(): true | undefined {
    const found = this.content("ssh_host_ed25519_key");
    if (found === undefined) return undefined;
    if (/^-----BEGIN OPENSSH PRIVATE KEY-----\n[\s\S]+\n-----END OPENSSH PRIVATE KEY-----$/.test(found)) return true;
    throw wrongInput("ssh_host_ed25519_key", undefined, "is not an SSH private key", "a key as ssh-keygen writes it");
  }
}

const short = (value: string): string => {
  const line = value.split("\n")[0] ?? "";
  return line.length > 80 ? `${line.slice(0, 76)}…` : line;
};
