import { Document, DOMParser, Element, onErrorStopParsing, XMLSerializer } from "@xmldom/xmldom";

/** Readers and writers of libvirt's XML documents, pure. All that a document has and they do not name stays as it is. */

const parsed = (xml: string) => new DOMParser({ onError: onErrorStopParsing }).parseFromString(xml, "text/xml");

function textOf(element: Element, tag: string): string | undefined {
  return element.getElementsByTagName(tag)[0]?.textContent ?? undefined;
}

const bootDisks = (document: Document): Element[] =>
  [...document.getElementsByTagName("disk")].filter((disk) => textOf(disk, "serial") === "boot");

/** Where a domain's boot disk comes from; `none` while its Guest has not given it one, undefined when that is none of ours. */
function bootSource(document: Document): Element | "none" | undefined {
  const [disk, ...more] = bootDisks(document);
  if (disk === undefined) return "none";
  const source = more.length === 0 ? disk.getElementsByTagName("source")[0] : undefined;
  return source?.hasAttribute("file") ? source : undefined;
}

/** A network card on something of the host that can be changed under it. User-mode networking has none: its card is part of the chassis. */
export interface Nic {
  readonly type: "bridge" | "network";
  /** Name of the bridge or of the libvirt network. */
  readonly source: string;
  readonly mac: string;
}

/** What of a domain's definition its Guest decides; all else is the chassis, which `libvirt.Domain` makes. */
export interface Machine {
  /** File that it boots from; undefined before its first start. */
  bootPath: string | undefined;
  memoryMiB: number;
  /** What memory can grow to while it runs. */
  memoryMaximumMiB: number;
  vcpus: number;
  vcpusMaximum: number;
  /** Whether it has the device by which memory changes while it runs. */
  balloon: boolean;
  /** `down` while it is being moved. */
  nic: (Nic & { link: "up" | "down"; filter?: string }) | undefined;
}

/** A child of the root itself: libvirt uses the same names further down as well. */
function own(document: Document, tag: string): Element | undefined {
  return [...document.getElementsByTagName(tag)].find((found) => found.parentNode === document.documentElement);
}

/** What a definition, or the XML of a running domain, says of its machine; undefined when it is none of ours. */
export function machineOf(xml: string): Machine | undefined {
  const document = parsed(xml);
  const source = bootSource(document);
  const bootPath = source === "none" ? undefined : source?.getAttribute("file");
  // libvirt prints sizes in KiB, whatever was written.
  const mebibytes = (tag: string) => Number(own(document, tag)?.textContent) / 1024;
  const memoryMaximumMiB = mebibytes("memory");
  const vcpu = own(document, "vcpu");
  if (source === undefined || bootPath === null || Number.isNaN(memoryMaximumMiB) || !vcpu) return undefined;
  const vcpusMaximum = Number(vcpu.textContent);
  return {
    bootPath,
    memoryMiB: mebibytes("currentMemory") || memoryMaximumMiB,
    memoryMaximumMiB,
    vcpus: Number(vcpu.getAttribute("current") ?? vcpusMaximum),
    vcpusMaximum,
    balloon: document.getElementsByTagName("memballoon")[0]?.getAttribute("model") === "virtio",
    nic: nicOf(document),
  };
}

const interfaceOf = (document: Document): Element | undefined => document.getElementsByTagName("interface")[0];

function nicOf(document: Document): Machine["nic"] {
  const found = interfaceOf(document);
  const child = (tag: string, attribute: string) =>
    found?.getElementsByTagName(tag)[0]?.getAttribute(attribute) ?? undefined;
  // A running one on a libvirt network says both: the network, and what libvirt made of it.
  const network = child("source", "network");
  const source = network ?? child("source", "bridge");
  const mac = child("mac", "address");
  if (source === undefined || mac === undefined) return undefined;
  const link = child("link", "state") === "down" ? "down" : "up";
  const filter = child("filterref", "filter");
  const type = network === undefined ? "bridge" : "network";
  return { type, source, mac: mac.toLowerCase(), link, ...(filter === undefined ? {} : { filter }) };
}

/** Changes a card to where it belongs; its model, its place on the bus and its name on the host stay. */
function setNic(document: Document, card: Element, nic: NonNullable<Machine["nic"]>): void {
  const child = (tag: string): Element => {
    const found = card.getElementsByTagName(tag)[0];
    if (found) return found;
    const made = document.createElement(tag);
    card.appendChild(made);
    return made;
  };
  card.setAttribute("type", nic.type);
  child("mac").setAttribute("address", nic.mac);
  const source = document.createElement("source");
  source.setAttribute(nic.type, nic.source);
  card.replaceChild(source, child("source"));
  const [link] = card.getElementsByTagName("link");
  const [filter] = card.getElementsByTagName("filterref");
  if (nic.filter !== undefined) child("filterref").setAttribute("filter", nic.filter);
  else if (filter) card.removeChild(filter);
  if (nic.link === "down") child("link").setAttribute("state", "down");
  else if (link) card.removeChild(link);
}

/** The card of a running domain as a device that is somewhere else; the caller has read the domain with {@link machineOf}. */
export function movedNic(xml: string, nic: NonNullable<Machine["nic"]>): string {
  const document = parsed(xml);
  const card = interfaceOf(document) ?? document.createElement("interface");
  setNic(document, card, nic);
  return new XMLSerializer().serializeToString(card);
}

// Of type file: a volume trips AppArmor's helper on stock Debian and Ubuntu hosts (provider issue 1163).
const BOOT_DISK = `<disk type="file" device="disk">
      <driver name="qemu" type="qcow2" discard="unmap"/>
      <source/>
      <target dev="vda" bus="virtio"/>
      <serial>boot</serial>
      <boot order="1"/>
    </disk>`;

function newCard(document: Document): Element {
  const card = document.createElement("interface");
  const model = document.createElement("model");
  model.setAttribute("type", "virtio");
  card.appendChild(model);
  return card;
}

/** The definition of the same domain as another machine. The caller has read it with {@link machineOf}. */
export function withMachine(xml: string, machine: Machine & { bootPath: string }): string {
  const document = parsed(xml);
  const devices = document.getElementsByTagName("devices")[0];
  if (bootSource(document) === "none") {
    const disk = parsed(BOOT_DISK).documentElement;
    if (disk) devices?.insertBefore(document.importNode(disk, true), devices.firstChild);
    // libvirt writes an order of its own where there is none, and takes no second one beside it.
    const os = own(document, "os");
    for (const boot of [...(os?.getElementsByTagName("boot") ?? [])]) os?.removeChild(boot);
  }
  bootDisks(document)[0]?.getElementsByTagName("source")[0]?.setAttribute("file", machine.bootPath);
  const set = (tag: string, value: number, attribute: string, text: string): void => {
    const found = own(document, tag);
    const element = found ?? document.createElement(tag);
    element.textContent = String(value);
    element.setAttribute(attribute, text);
    if (!found) document.documentElement?.appendChild(element);
  };
  set("memory", machine.memoryMaximumMiB, "unit", "MiB");
  set("currentMemory", machine.memoryMiB, "unit", "MiB");
  set("vcpu", machine.vcpusMaximum, "current", String(machine.vcpus));
  const balloon = document.getElementsByTagName("memballoon")[0];
  if (machine.balloon !== (balloon?.getAttribute("model") === "virtio")) {
    // A new element, without the address of the former one: libvirt finds a place for it.
    const fresh = document.createElement("memballoon");
    fresh.setAttribute("model", machine.balloon ? "virtio" : "none");
    if (balloon) devices?.replaceChild(fresh, balloon);
    else devices?.appendChild(fresh);
  }
  if (machine.nic !== undefined) {
    const found = interfaceOf(document);
    const card = found ?? newCard(document);
    if (!found) devices?.appendChild(card);
    setNic(document, card, machine.nic);
  }
  return new XMLSerializer().serializeToString(document);
}
