/** Readers of virsh's output (LC_ALL=C), kept apart because they are pure. */

/** A domain as libvirt lists it. */
export interface DomainRef {
  uuid: string;
  name: string;
}

/** Run state of a domain, with the reason libvirt gives ("booted", "crashed", "I/O error"). */
export interface DomainState {
  state: string;
  reason: string;
}

const uuidPattern = /^\s*([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\s+(.*\S)\s*$/;

/** `virsh list --all --uuid --name`: one line a domain, "uuid name"; the name may hold spaces. */
export function parseDomains(text: string): DomainRef[] {
  const found: DomainRef[] = [];
  for (const line of text.split("\n")) {
    const match = uuidPattern.exec(line);
    if (match) found.push({ uuid: match[1]!, name: match[2]! });
  }
  return found;
}

/** `virsh domstate --reason`: "shut off (destroyed)", "running (booted)". */
export function parseState(text: string): DomainState {
  const line = text.trim();
  const match = /^(.*?)\s*\((.*)\)$/.exec(line);
  return match ? { state: match[1]!, reason: match[2]! } : { state: line, reason: "" };
}

/** The bytes behind "Capacity:" of `virsh domblkinfo` or `virsh vol-info --bytes`; undefined when there is none. */
export function parseCapacity(text: string): number | undefined {
  const match = /^\s*Capacity:\s*(\d+)(?:\s+bytes)?\s*$/m.exec(text);
  return match ? Number(match[1]) : undefined;
}

/** The bytes behind a word of `virsh vol-info --bytes` or `virsh pool-info --bytes`; undefined when it is not there. */
export function parseBytes(text: string, word: "Capacity" | "Allocation" | "Available"): number | undefined {
  const match = new RegExp(`^\\s*${word}:\\s*(\\d+)(?:\\s+bytes)?\\s*$`, "m").exec(text);
  return match ? Number(match[1]) : undefined;
}

/** `virsh vol-list`: a name and a path a line, columns of spaces between them; both may hold spaces. */
export function parseVolumes(text: string): { name: string; path: string }[] {
  return text.split("\n").flatMap((line) => {
    const match = /^\s*(\S.*?)\s{2,}(\/.*\S)\s*$/.exec(line);
    // A name that fills its column has fewer spaces behind it.
    const [, name, path] = match ?? /^\s*(\S+)\s+(\/.*\S)\s*$/.exec(line) ?? [];
    return name === undefined || path === undefined ? [] : [{ name, path }];
  });
}

/** virsh's own words: its "error: " lines joined, without the prefix; virsh puts the cause on the second line. */
export function parseError(stderr: string): string {
  const lines = stderr
    .split("\n")
    .map((line) => line.replace(/^error:\s*/, "").trim())
    .filter((line) => line !== "");
  return lines.join(": ");
}

/** Ports on this machine that a domain forwards to its guest, read from the QEMU arguments in its XML. */
export function parseForwardedPorts(xml: string): number[] {
  return [...xml.matchAll(/hostfwd=tcp:[^:,'"\s]*:(\d+)-/g)].map((match) => Number(match[1]));
}

/** MiB that a running guest has, of `virsh dommemstat`; undefined when its balloon does not say. */
export function parseBalloon(text: string): number | undefined {
  const match = /^actual (\d+)$/m.exec(text);
  return match ? Number(match[1]) / 1024 : undefined;
}

/** What `virsh domjobinfo` says of a job. */
export interface JobState {
  /** `None`, `Bounded`, `Unbounded`; of one that has ended `Completed`, `Failed` or `Cancelled`. */
  type: string;
  /** Rough, as libvirt rounds them for people. */
  processedBytes: number;
  totalBytes: number;
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** `virsh domjobinfo`: "Job type: Unbounded", "File processed: 449.000 MiB". */
export function parseJob(text: string): JobState {
  const size = (label: string): number => {
    const [, value, unit] = new RegExp(`^${label}:\\s*([\\d.]+) (\\w+)`, "m").exec(text) ?? [];
    return value === undefined || unit === undefined ? 0 : Number(value) * 1024 ** Math.max(0, UNITS.indexOf(unit));
  };
  const type = /^Job type:\s*(\S+)/m.exec(text)?.[1] ?? "None";
  return { type, processedBytes: size("File processed"), totalBytes: size("File total") };
}

/** First IPv4 address of `guest-network-get-interfaces` that is not a loopback one; undefined when there is none yet. */
export function firstAddress(reply: unknown): string | undefined {
  if (!Array.isArray(reply)) return undefined;
  for (const nic of reply as Array<Record<string, unknown> | null>) {
    const addresses = nic?.["ip-addresses"];
    if (nic?.["name"] === "lo" || !Array.isArray(addresses)) continue;
    for (const entry of addresses as Array<Record<string, unknown> | null>) {
      const address = entry?.["ip-address"];
      if (entry?.["ip-address-type"] === "ipv4" && typeof address === "string" && !address.startsWith("127.")) {
        return address;
      }
    }
  }
  return undefined;
}

/** A size for people: exact where a unit divides it, else bytes, so that two different sizes never look the same. */
export function formatBytes(bytes: number): string {
  for (const [unit, factor] of [
    ["TiB", 2 ** 40],
    ["GiB", 2 ** 30],
    ["MiB", 2 ** 20],
    ["KiB", 2 ** 10],
  ] as const) {
    if (bytes >= factor && bytes % factor === 0) return `${bytes / factor} ${unit}`;
  }
  return `${bytes} bytes`;
}
