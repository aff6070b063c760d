import type { Attachment, EgressPlan, VmPlan } from "./plan";

/** The card of a VM; none with user networking, where QEMU itself is the network. */
export function cardOf<Text>(
  network: Attachment,
  mac: Text,
  networkName?: Text,
): { nic?: { type: "bridge" | "network"; source: string | Text; mac: Text } } {
  switch (network.mode) {
    case "user":
      return {};
    case "bridge":
      return { nic: { type: "bridge", source: network.bridge, mac } };
    case "nat":
      return { nic: { type: "network", source: networkName ?? network.network, mac } };
  }
}

/** One line, shown in a preview when it changes. */
export function describeNetwork(network: Attachment): string {
  switch (network.mode) {
    case "user":
      return `user, ssh on 127.0.0.1:${network.sshPort}`;
    case "bridge":
      return `bridge ${network.bridge}`;
    case "nat":
      return `network ${network.network}${network.address ? `, ${network.address.ip}` : ""}`;
  }
}

/** Only in a network that this stack has made: one that is somebody else's is never changed. `of` is libvirt's id of it. */
export function leaseOf<Text>(
  { network, hostname }: VmPlan,
  of: Text | undefined,
): { lease?: { address: string; names: string[]; of: Text } } {
  if (network.mode !== "nat" || network.address === null || of === undefined) return {};
  return { lease: { address: network.address.ip, names: [hostname], of } };
}

/** What a VM may reach besides the internet, for its host to see to. */
export function egressOf(egress: EgressPlan | null): {
  egress?: { allow: string[]; dns: string[]; dhcp?: NonNullable<EgressPlan["dhcp"]> };
} {
  if (egress === null) return {};
  const { allow, dns, dhcp } = egress;
  return { egress: { allow: [...allow], dns: [...dns], ...(dhcp === null ? {} : { dhcp }) } };
}
