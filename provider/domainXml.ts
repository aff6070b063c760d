import { Document, DOMParser, Element, onErrorStopParsing, XMLSerializer } from "@xmldom/xmldom";

/** Readers and writers of libvirt's XML documents, pure. All that a document has and they do not name stays as it is. */

const parsed = (xml: string) => new DOMParser({ onError: onErrorStopParsing }).parseFromString(xml, "text/xml");

function textOf(element: Element, tag: string): string | undefined {
  return element.getElementsByTagName(tag)[0]?.textContent ?? undefined;
}

/** Where a domain's boot disk comes from; undefined when it has none or more than one, or one that is no file. */
function bootSource(domain: { getElementsByTagName: Element["getElementsByTagName"] }): Element | undefined {
  const disks = [...domain.getElementsByTagName("disk")].filter((disk) => textOf(disk, "serial") === "boot");
  const source = disks.length === 1 ? disks[0]?.getElementsByTagName("source")[0] : undefined;
  return source?.hasAttribute("file") ? source : undefined;
}

/** What of a domain's definition its Guest decides; all else is the chassis, which `libvirt.Domain` makes. */
export interface Machine {
  /** File that it boots from. */
  bootPath: string;
  memoryMiB: number;
  /** What memory can grow to while it runs. */
  memoryMaximumMiB: number;
  vcpus: number;
  vcpusMaximum: number;
  /** Whether it has the device by which memory changes while it runs. */
  balloon: boolean;
}

/** A child of the root itself: libvirt uses the same names further down as well. */
function own(document: Document, tag: string): Element | undefined {
  return [...document.getElementsByTagName(tag)].find((found) => found.parentNode === document.documentElement);
}

/** What a definition, or the XML of a running domain, says of its machine; undefined when it is none of ours. */
export function machineOf(xml: string): Machine | undefined {
  const document = parsed(xml);
  const bootPath = bootSource(document)?.getAttribute("file") ?? undefined;
  // libvirt prints sizes in KiB, whatever was written.
  const mebibytes = (tag: string) => Number(own(document, tag)?.textContent) / 1024;
  const memoryMaximumMiB = mebibytes("memory");
  const vcpu = own(document, "vcpu");
  if (bootPath === undefined || Number.isNaN(memoryMaximumMiB) || vcpu === undefined) return undefined;
  const vcpusMaximum = Number(vcpu.textContent);
  return {
    bootPath,
    memoryMiB: mebibytes("currentMemory") || memoryMaximumMiB,
    memoryMaximumMiB,
    vcpus: Number(vcpu.getAttribute("current") ?? vcpusMaximum),
    vcpusMaximum,
    balloon: document.getElementsByTagName("memballoon")[0]?.getAttribute("model") === "virtio",
  };
}

/** The definition of the same domain as another machine. The caller has read it with {@link machineOf}. */
export function withMachine(xml: string, machine: Machine): string {
  const document = parsed(xml);
  bootSource(document)?.setAttribute("file", machine.bootPath);
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
    const devices = document.getElementsByTagName("devices")[0];
    if (balloon) devices?.replaceChild(fresh, balloon);
    else devices?.appendChild(fresh);
  }
  return new XMLSerializer().serializeToString(document);
}
