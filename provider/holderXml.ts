import { DOMParser, Element, onErrorStopParsing, XMLSerializer } from "@xmldom/xmldom";

const TEMPLATE = `<domain><name/><uuid/><memory unit="MiB">1</memory><os/><devices><disk type="file" device="disk"
><driver name="qemu" type="qcow2"/><source/><target dev="vda" bus="virtio"/></disk></devices></domain>`;

const parsed = (xml: string) => new DOMParser({ onError: onErrorStopParsing }).parseFromString(xml, "text/xml");

/**
 * A domain of nothing but one disk of another domain, run on the same machine type. It has no firmware, so that libvirt does not refuse
 * snapshots for its variables' sake, and nobody could boot it by mistake.
 */
export function holderXml(definition: string, path: string, name: string, uuid: string): string {
  const guest = parsed(definition);
  const sources = [...guest.getElementsByTagName("source")];
  if (!sources.some((source) => source.getAttribute("file") === path)) {
    throw new Error(`${path} is no disk of the domain ${guest.getElementsByTagName("name")[0]?.textContent ?? ""}`);
  }
  const holder = parsed(TEMPLATE);
  const first = (tag: string, of = holder): Element => {
    const found = of.getElementsByTagName(tag)[0];
    if (found === undefined) throw new Error(`the definition of the domain of ${path} has no <${tag}>`);
    return found;
  };
  first("domain").setAttribute("type", first("domain", guest).getAttribute("type") ?? "");
  first("name").textContent = name;
  first("uuid").textContent = uuid;
  first("source").setAttribute("file", path);
  // The first <type> of a domain is the one of its <os>.
  first("os").appendChild(holder.importNode(first("type", guest), true));
  for (const emulator of guest.getElementsByTagName("emulator")) {
    first("devices").insertBefore(holder.importNode(emulator, true), first("disk"));
  }
  return new XMLSerializer().serializeToString(holder);
}

/** Tells libvirt of a snapshot that is in the disk of this domain. The name is one of ours, and needs no escapes. */
export function snapshotXml(name: string, domain: string): string {
  const disks = `<disks><disk name="vda" snapshot="internal"/></disks>`;
  return `<domainsnapshot><name>${name}</name><state>shutoff</state><creationTime>0</creationTime>${disks}${domain}</domainsnapshot>`;
}
