import { type Document, DOMParser, type Element, onErrorStopParsing } from "@xmldom/xmldom";
import { orCancelled } from "./clock";
import { Deps } from "./gate";
import { GuestInputs } from "./inputs";
import { Definition, NetworkChange } from "./networks";

/** What a network keeps for a VM with a fixed address. */
export type Lease = NonNullable<GuestInputs["lease"]>;
/** A lease with what it hangs on. */
interface Held extends Lease {
  network: string;
  mac: string;
}

const DEFINITIONS: readonly Definition[] = ["live", "config"];

/** Entry of the DHCP server: nobody else gets the address, and the VM gets no other. */
interface DhcpHost {
  mac: string | undefined;
  ip: string | undefined;
  name: string | undefined;
}

/** Names that the network's DNS server has for an address. */
interface DnsHost {
  ip: string | undefined;
  names: string[];
}

/** The entries of a network, whosoever they are. `dhcp` is undefined for one that hands out no addresses. */
interface Entries {
  dhcp: DhcpHost[] | undefined;
  dns: DnsHost[];
}

/** A network has entries of somebody else in the way; nothing was changed. */
export class LeaseError extends Error {}

/** Reads the entries of a network's XML. */
export function entriesOf(xml: string): Entries {
  const document: Document = new DOMParser({ onError: onErrorStopParsing }).parseFromString(xml, "text/xml");
  const all = (within: Document | Element, tag: string): Element[] => [...within.getElementsByTagName(tag)];
  const value = (element: Element, name: string): string | undefined => element.getAttribute(name) ?? undefined;
  const servers = all(document, "dhcp");
  const dhcp = servers.flatMap((server) => all(server, "host"));
  const dns = all(document, "dns").flatMap((server) => all(server, "host"));
  return {
    dhcp:
      servers.length === 0
        ? undefined
        : dhcp.map((host) => ({
            mac: value(host, "mac")?.toLowerCase(),
            ip: value(host, "ip"),
            name: value(host, "name"),
          })),
    dns: dns.map((host) => ({
      ip: value(host, "ip"),
      names: all(host, "hostname").map((name) => name.textContent ?? ""),
    })),
  };
}

const sameNames = (a: readonly string[], b: readonly string[]): boolean =>
  [...a].sort().join(" ") === [...b].sort().join(" ");

const isOurs =
  ({ address, names }: Lease) =>
  (host: DnsHost): boolean =>
    host.ip === address && sameNames(host.names, names);

/** Whether a network has all of a lease. */
export function holds({ dhcp, dns }: Entries, lease: Held): boolean {
  const [name] = lease.names;
  const reserved = dhcp?.some((host) => host.mac === lease.mac && host.ip === lease.address && host.name === name);
  return (reserved ?? true) && dns.some(isOurs(lease));
}

/**
 * What makes a network hold a lease, of which it may have held a former one. Entries of others stay; one that is in the way is an
 * error. Ours are the DHCP entry with our MAC address, and the DNS entry that has exactly our names for our address.
 */
export function changesFor({ dhcp, dns }: Entries, want: Held | undefined, former: Held | undefined): NetworkChange[] {
  const changes: NetworkChange[] = [];
  const mac = want?.mac ?? former?.mac;
  const reserved = dhcp?.find((host) => host.mac === mac);
  const stale = former && !(want && isOurs(want)({ ip: former.address, names: [...former.names] }));
  if (stale && dns.some(isOurs(former))) changes.push(dnsChange("delete", former));
  if (want === undefined) {
    // One with our MAC address but another address was made by somebody, for whatever reason.
    if (former && reserved?.ip === former.address) changes.push(dhcpChange("delete", former));
    return changes;
  }
  const [name] = want.names;
  const others = dns.filter((host) => !isOurs(want)(host) && !(former && isOurs(former)(host)));
  const taken =
    dhcp?.find((host) => host.mac !== want.mac && host.ip === want.address)?.mac ??
    others.find((host) => host.ip === want.address)?.names.join(", ");
  if (taken !== undefined)
    throw new LeaseError(
      `network "${want.network}" has given ${want.address} to ${taken}, by an entry that is not ours`,
    );
  const named = others.find((host) => host.names.some((one) => want.names.includes(one)));
  const claimed = named?.ip ?? dhcp?.find((host) => host.mac !== want.mac && host.name === name)?.ip;
  if (claimed !== undefined)
    throw new LeaseError(
      `network "${want.network}" has given the name ${want.names.join(" or ")} to ${claimed}, by an entry that is not ours`,
    );
  if (dhcp && !reserved) changes.push(dhcpChange("add-last", want));
  else if (reserved && (reserved.ip !== want.address || reserved.name !== name))
    changes.push(dhcpChange("modify", want));
  if (!dns.some(isOurs(want))) changes.push(dnsChange("add-last", want));
  return changes;
}

// Addresses and host names hold nothing that XML would have to escape: both were checked by pattern.
function dhcpChange(command: NetworkChange["command"], { mac, address, names }: Held): NetworkChange {
  return { command, section: "ip-dhcp-host", xml: `<host mac='${mac}' name='${names[0]}' ip='${address}'/>` };
}

function dnsChange(command: "add-last" | "delete", { address, names }: Held): NetworkChange {
  const hostnames = names.map((name) => `<hostname>${name}</hostname>`).join("");
  return { command, section: "dns-host", xml: `<host ip='${address}'>${hostnames}</host>` };
}

function heldBy({ lease, nic }: Pick<GuestInputs, "lease" | "nic">): Held | undefined {
  return lease && nic?.type === "network" ? { ...lease, network: nic.source, mac: nic.mac.toLowerCase() } : undefined;
}

/**
 * Has the networks hold what a Guest wants, and no more of what it had before. Each definition of a network by itself, since one of
 * them may have been changed by hand, or by a run that was broken off between the two.
 */
export async function keepLease(
  want: GuestInputs | undefined,
  before: Pick<GuestInputs, "lease" | "nic"> | undefined,
  { networks, signal, ...say }: Deps,
): Promise<void> {
  const [now, former] = [want && heldBy(want), before && heldBy(before)];
  const moved = former !== undefined && former.network !== now?.network;
  const plans = [
    ...(moved ? [{ network: former.network, want: undefined, former }] : []),
    ...(now ? [{ network: now.network, want: now, former: moved ? undefined : former }] : []),
  ];
  for (const plan of plans) {
    const wanted: [Definition, NetworkChange[]][] = [];
    for (const which of DEFINITIONS) {
      const xml = await orCancelled(networks.xml(plan.network, which), signal);
      if (xml !== undefined) wanted.push([which, changesFor(entriesOf(xml), plan.want, plan.former)]);
    }
    if (wanted.some(([, changes]) => changes.length > 0) && plan.want)
      say.progress(`${plan.want.address} is kept for it in network ${plan.network}`);
    for (const [which, changes] of wanted)
      for (const change of changes) await orCancelled(networks.update(plan.network, which, change), signal);
  }
}

/** Whether its network holds the lease of a Guest, in every definition that the network has. */
export async function leaseHolds(want: GuestInputs, { networks, signal }: Deps): Promise<boolean> {
  const held = heldBy(want);
  if (held === undefined) return true;
  const found = await Promise.all(DEFINITIONS.map((which) => orCancelled(networks.xml(held.network, which), signal)));
  const there = found.filter((xml) => xml !== undefined);
  return there.length > 0 && there.every((xml) => holds(entriesOf(xml), held));
}
