import { DOMParser, Element, onErrorStopParsing, XMLSerializer } from "@xmldom/xmldom";

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

/** Path of the disk that a domain boots from, read from its definition. */
export function bootDiskOf(xml: string): string | undefined {
  return bootSource(parsed(xml))?.getAttribute("file") ?? undefined;
}

/** The definition with another file as the disk that the domain boots from. */
export function withBootDisk(xml: string, path: string): string | undefined {
  const document = parsed(xml);
  const source = bootSource(document);
  source?.setAttribute("file", path);
  return source && new XMLSerializer().serializeToString(document);
}

/** When a volume's file was written to last, of `virsh vol-dumpxml`, in seconds; 0 when it does not say. */
export function modifiedOf(xml: string): number {
  const root = parsed(xml).documentElement;
  return Number((root && textOf(root, "mtime")) ?? 0);
}
