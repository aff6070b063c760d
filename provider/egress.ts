import { createHash } from "node:crypto";
import { isIPv6 } from "node:net";
import { DOMParser, type Element, onErrorStopParsing } from "@xmldom/xmldom";
import { orCancelled } from "./clock";
import { Deps } from "./gate";
import { GuestInputs } from "./inputs";

/** What a VM may send where, as a Guest has it. */
export type Egress = NonNullable<GuestInputs["egress"]>;

/** Networks that are nobody's in the internet, and ways to reach all neighbours at once. */
const PRIVATE = [
  ["10.0.0.0/8", "private (RFC 1918)"],
  ["172.16.0.0/12", "private (RFC 1918)"],
  ["192.168.0.0/16", "private (RFC 1918)"],
  ["100.64.0.0/10", "shared by carriers (RFC 6598)"],
  ["169.254.0.0/16", "link-local, and cloud metadata"],
  ["0.0.0.0/8", "this network"],
  ["127.0.0.0/8", "loopback"],
  ["224.0.0.0/4", "multicast"],
  ["255.255.255.255/32", "broadcast"],
  ["fc00::/7", "unique local (RFC 4193)"],
  ["fe80::/10", "link-local"],
  ["ff00::/8", "multicast"],
] as const;

const DHCP = " protocol='udp' srcportstart='68' dstportstart='67'";

/** Name of the filter of a VM; like all that we make in libvirt it begins with the stack's prefix. */
export const filterName = (domain: string): string => `${domain}-egress`;

/** The filter's UUID: without one of its own libvirt would take it for another filter of that name each time. */
function filterUuid(vmUuid: string): string {
  const hex = createHash("sha256").update(`egress ${vmUuid}`).digest("hex");
  return [hex.slice(0, 8), hex.slice(8, 12), `8${hex.slice(13, 16)}`, `a${hex.slice(17, 20)}`, hex.slice(20, 32)].join(
    "-",
  );
}

/**
 * The filter as libvirt's XML. It has rules of the link layer only: they hold on every host, bridge and network as they are, look at
 * each frame by itself, and need neither connection tracking nor `br_netfilter`. So answers to a private network are kept back too.
 */
export function filterXml({ domain, uuid }: Pick<GuestInputs, "domain" | "uuid">, egress: Egress): string {
  let priority = 100;
  const rule = (action: "accept" | "drop", match: string): string =>
    `  <rule action='${action}' direction='out' priority='${priority++}'>${match}</rule>`;
  const to = (cidr: string, more = ""): string => {
    const [address, bits] = cidr.split("/");
    const six = isIPv6(address ?? "");
    return `<${six ? "ipv6" : "ip"} dstipaddr='${address}' dstipmask='${bits ?? (six ? 128 : 32)}'${more}/>`;
  };
  const dns = egress.dns.flatMap((server) =>
    ["udp", "tcp"].map((protocol) => rule("accept", to(server, ` protocol='${protocol}' dstportstart='53'`))),
  );
  return [
    `<filter name='${filterName(domain)}' chain='root'>`,
    `  <uuid>${filterUuid(uuid)}</uuid>`,
    rule("accept", "<arp/>"),
    // A lease is asked for by broadcast, and renewed at the server that gave it.
    ...(egress.dhcp === undefined ? [""] : ["255.255.255.255/32", egress.dhcp]).map((server) =>
      rule("accept", server === "" ? `<ip${DHCP}/>` : to(server, DHCP)),
    ),
    rule("accept", "<ipv6 protocol='udp' srcportstart='546' dstportstart='547'/>"),
    // Who is there on the wire, and which way is out.
    rule("accept", "<ipv6 protocol='icmpv6' type='133' typeend='136'/>"),
    ...dns,
    ...egress.allow.map((cidr) => rule("accept", to(cidr))),
    ...PRIVATE.map(([cidr]) => rule("drop", to(cidr))),
    rule("accept", "<ip/>"),
    rule("accept", "<ipv6/>"),
    // Frames with a VLAN tag, and whatever else could carry one of the above.
    `  <rule action='drop' direction='out' priority='1000'/>`,
    "</filter>",
  ].join("\n");
}

/** The rules of a filter in a form in which those that mean the same are the same: libvirt prints attributes in an order of its own. */
export function rulesOf(xml: string): string[] {
  const document = new DOMParser({ onError: onErrorStopParsing }).parseFromString(xml, "text/xml");
  const attributes = (element: Element): string =>
    [...element.attributes]
      .map(({ name, value }) => `${name}=${value}`)
      .sort()
      .join(" ");
  return [...document.getElementsByTagName("rule")].map((rule) => {
    const matches = [...rule.childNodes].filter((node): node is Element => node.nodeType === 1);
    return [attributes(rule), ...matches.map((match) => `${match.tagName} ${attributes(match)}`)].join("; ");
  });
}

async function filterHolds(want: GuestInputs, { networks, signal }: Deps): Promise<boolean> {
  if (want.egress === undefined) return true;
  const there = await orCancelled(networks.filter(filterName(want.domain)), signal);
  return there !== undefined && rulesOf(there).join("\n") === rulesOf(filterXml(want, want.egress)).join("\n");
}

/** Makes the filter that a VM's card is going to refer to. A running VM that refers to it already goes by its new rules at once. */
export async function keepFilter(want: GuestInputs, deps: Deps): Promise<void> {
  if (want.egress === undefined || (await filterHolds(want, deps))) return;
  deps.progress("what it may send to private networks is set on the host");
  await orCancelled(deps.networks.defineFilter(filterXml(want, want.egress)), deps.signal);
}

/** Removes the filter that nothing refers to any more. */
export async function dropFilter(domain: string, { networks, signal }: Deps): Promise<void> {
  await orCancelled(networks.removeFilter(filterName(domain)), signal);
}

/** Whether the host still keeps to what a Guest wants: its card refers to the filter, and the filter has our rules. */
export async function egressHolds(want: GuestInputs, cardFilter: string | undefined, deps: Deps): Promise<boolean> {
  if (want.egress === undefined) return true;
  return cardFilter === filterName(want.domain) && (await filterHolds(want, deps));
}
