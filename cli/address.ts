import type { FleetVm } from "./fleet";

/** The machine that a host's libvirt is on, when that is another than this one. */
export interface RemoteHost {
  host: string;
  /** What `ssh -J` takes; undefined when libvirt is not reached by SSH, so that there may be no such way. */
  jump?: string;
}

/** A host of a libvirt URI; undefined for this machine. */
export function remoteHost(uri: string): RemoteHost | undefined {
  if (!URL.canParse(uri)) return undefined;
  const { protocol, hostname, port, username } = new URL(uri);
  if (hostname === "") return undefined;
  // qemu+ssh, qemu+libssh, qemu+libssh2
  if (!/\+(lib)?ssh2?:$/.test(protocol)) return { host: hostname };
  const user = username === "" ? "" : `${decodeURIComponent(username)}@`;
  return { host: hostname, jump: `${user}${hostname}${port === "" ? "" : `:${port}`}` };
}

/** Where the SSH server of a VM answers. */
export interface Endpoint {
  host: string;
  port: number;
  /** Machine to go through. */
  jump?: string;
}

/** An address of a VM's network card. */
export interface CardAddress {
  mac: string;
  family: string;
  address: string;
}

/** Reads `virsh domifaddr --full`: `eth0  52:54:00:…  ipv4  10.0.0.7/24`. */
export function parseAddresses(text: string): CardAddress[] {
  return text.split("\n").flatMap((line) => {
    const found = /\s([0-9a-f]{2}(?::[0-9a-f]{2}){5})\s+(ipv[46])\s+([0-9a-f.:]+)(?:\/\d+)?\s*$/i.exec(line);
    return found ? [{ mac: found[1]!.toLowerCase(), family: found[2]!.toLowerCase(), address: found[3]! }] : [];
  });
}

/** MAC addresses of a domain's network cards. */
export function macsOf(xml: string): string[] {
  return [...xml.matchAll(/<mac address=['"]([0-9a-f:]{17})['"]/gi)].map((match) => match[1]!.toLowerCase());
}

/**
 * The address to speak to: one of the domain's own cards, since a guest also has bridges of its own (containers) that nobody reaches
 * from outside. IPv4 first; those of a link or of the guest itself never.
 */
export function bestAddress(found: readonly CardAddress[], macs: readonly string[]): string | undefined {
  const usable = found.filter(
    ({ mac, address }) => macs.includes(mac) && !/^(127\.|169\.254\.|::1$|fe[89ab][0-9a-f]:)/i.test(address),
  );
  return (usable.find(({ family }) => family === "ipv4") ?? usable[0])?.address;
}

/** Where it is by what is declared alone: a forwarded port of its host, or a fixed address. `why`: it cannot be reached at all. */
export function declaredEndpoint(vm: FleetVm): Endpoint | { why: string } | undefined {
  const remote = remoteHost(vm.uri);
  const through = remote?.jump === undefined ? {} : { jump: remote.jump };
  if (vm.network.startsWith("user")) {
    if (vm.sshPort === undefined) return { why: "its user network forwards no port" };
    if (remote !== undefined && remote.jump === undefined) {
      return { why: `its port is open on ${remote.host} for that machine only, and ${vm.uri} is no way to it by SSH` };
    }
    return { host: "127.0.0.1", port: vm.sshPort, ...through };
  }
  const fixed = /^network [^,]+, (\S+)$/.exec(vm.network)?.[1];
  return fixed === undefined ? undefined : { host: fixed, port: 22, ...through };
}

/** The same of an address that was found out. */
export function endpointAt(vm: FleetVm, address: string): Endpoint {
  const jump = remoteHost(vm.uri)?.jump;
  return { host: address, port: 22, ...(jump === undefined ? {} : { jump }) };
}
