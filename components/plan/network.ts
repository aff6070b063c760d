import { isIPv6 } from "node:net";

/** An IPv4 network. Numbers are unsigned 32-bit values. */
export interface Subnet {
  /** As written, such as `192.168.77.0/24`. */
  readonly cidr: string;
  /** Length of the prefix in bits, 8 to 30. */
  readonly prefixLength: number;
  /** First address: the network itself. */
  readonly network: number;
  /** Last address: the broadcast. */
  readonly broadcast: number;
  /** First usable address: libvirt gives it to the host's end of the bridge. */
  readonly gateway: number;
}

export const SUBNET_ALLOWED = "an IPv4 network with a prefix of 8 to 30 bits, such as 192.168.77.0/24";

/** An IPv4 or IPv6 network, as packet filters take it. Bits behind the prefix are refused for IPv4, where they are easily mistaken. */
export function isCidr(text: string): boolean {
  const [address = "", bits = "", ...more] = text.split("/");
  if (more.length > 0 || !/^(0|[1-9][0-9]{0,2})$/.test(bits)) return false;
  const length = Number(bits);
  if (isIPv6(address)) return length <= 128;
  const value = parseIpv4(address);
  return value !== undefined && length <= 32 && value % 2 ** (32 - length) === 0;
}

/** Four numbers from 0 to 255 without leading zeros, which some programs read as octal. */
export const IPV4_PATTERN =
  /^(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\.(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3}$/;

/** The 32-bit value of an IPv4 address; `undefined` when it is not one. */
export function parseIpv4(text: unknown): number | undefined {
  if (typeof text !== "string" || !IPV4_PATTERN.test(text)) return undefined;
  return text.split(".").reduce((sum, part) => sum * 256 + Number(part), 0);
}

/** The dotted form of a 32-bit value. */
export function formatIpv4(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join(".");
}

/** An IPv4 network in CIDR form; `undefined` when it is not one. Bits after the prefix are refused, see `suggestSubnet`. */
export function parseSubnet(text: unknown): Subnet | undefined {
  const parts = splitCidr(text);
  if (parts === undefined || parts.base !== parts.address) return undefined;
  const broadcast = parts.base + 2 ** (32 - parts.prefixLength) - 1;
  return {
    cidr: `${formatIpv4(parts.base)}/${parts.prefixLength}`,
    prefixLength: parts.prefixLength,
    network: parts.base,
    broadcast,
    gateway: parts.base + 1,
  };
}

/** The network that a text with bits after the prefix lies in: `192.168.77.1/24` gives `192.168.77.0/24`. */
export function suggestSubnet(text: unknown): string | undefined {
  const parts = splitCidr(text);
  return parts === undefined ? undefined : `${formatIpv4(parts.base)}/${parts.prefixLength}`;
}

function splitCidr(text: unknown): { address: number; base: number; prefixLength: number } | undefined {
  if (typeof text !== "string") return undefined;
  const match = /^([^/]*)\/([1-9]|[12][0-9]|30)$/.exec(text);
  const address = parseIpv4(match?.[1]);
  const prefixLength = Number(match?.[2]);
  if (address === undefined || prefixLength < 8) return undefined;
  const size = 2 ** (32 - prefixLength);
  return { address, base: Math.floor(address / size) * size, prefixLength };
}

/** Why an address cannot be given to a VM of a subnet; `undefined` when it can. */
export function refuseAddress(address: number, subnet: Subnet): string | undefined {
  if (address < subnet.network || address > subnet.broadcast) return `is outside the network ${subnet.cidr}`;
  if (address === subnet.network) return `is the address of the network ${subnet.cidr} itself`;
  if (address === subnet.broadcast) return `is the broadcast address of ${subnet.cidr}`;
  if (address === subnet.gateway) return `is the gateway of ${subnet.cidr}, held by the host`;
  return undefined;
}

/** The addresses a VM may have in a subnet, in words. */
export function usableRange(subnet: Subnet): string {
  return `${formatIpv4(subnet.gateway + 1)} to ${formatIpv4(subnet.broadcast - 1)}`;
}

/** Whether two networks share an address: routing to either would be undefined. */
export function overlaps(a: Subnet, b: Subnet): boolean {
  return a.network <= b.broadcast && b.network <= a.broadcast;
}
