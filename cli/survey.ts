import { z } from "zod";
import { guestExec } from "../provider/agent";
import { type Clock } from "../provider/clock";
import { parseStatus, type StatusRecord } from "../provider/status";
import { type Libvirt } from "../provider/virsh";

/** A file system of a guest. */
export interface Fill {
  mount: string;
  sizeBytes: number;
  usedBytes: number;
}

/** What a guest says of itself; what it does not say is left out. */
export interface Survey {
  /** Answer of `systemctl is-system-running`. */
  system: string;
  status?: StatusRecord;
  /** Why a record that is there cannot be used. */
  statusProblem?: string;
  uptimeSeconds?: number;
  memoryBytes?: number;
  memoryUsedBytes?: number;
  disks: Fill[];
  /** Its first IPv4 address. */
  ip?: string;
}

const MARK = "--nixvm--";
const MOUNTS = ["/", "/var", "/persist", "/home", "/scratch"];

const SCRIPT = [
  "systemctl is-system-running 2>/dev/null",
  "cat /run/nixvm/status.json 2>/dev/null",
  "cat /proc/uptime /proc/meminfo 2>/dev/null",
  "ip -o -4 addr show scope global 2>/dev/null",
  `df -P -k ${MOUNTS.join(" ")} 2>/dev/null`,
]
  .map((part) => `${part}; echo; echo ${MARK}`)
  .join("; ");

/** A guest under emulation takes a second for it; one that takes longer than this is as good as silent. */
const LIMIT_MS = 10_000;

/** Asks a guest for all of it with one command: each round trip through its agent is two virsh processes. */
export async function survey(libvirt: Libvirt, uuid: string, clock: Clock, signal: AbortSignal): Promise<Survey> {
  const { out } = await guestExec(libvirt, uuid, SCRIPT, clock, signal, LIMIT_MS);
  return parseSurvey(out);
}

/** Reads what that command printed. Guests are of many makes: what is missing, or looks otherwise, is not known. */
export function parseSurvey(out: string): Survey {
  const [system, status, numbers, addresses, disks] = out.split(`${MARK}\n`).map((part) => part.trim());
  const kib = (key: string) => bytesOf(new RegExp(`^${key}:\\s*(\\d+) kB$`, "m").exec(numbers ?? "")?.[1]);
  const [memoryBytes, available] = [kib("MemTotal"), kib("MemAvailable")];
  const uptime = /^(\d+(?:\.\d+)?) \d/.exec(numbers ?? "")?.[1];
  const ip = /\binet (\d{1,3}(?:\.\d{1,3}){3})\//.exec(addresses ?? "")?.[1];
  return {
    system: system || "unknown",
    ...recordOf(status ?? ""),
    ...(uptime === undefined ? {} : { uptimeSeconds: Number(uptime) }),
    ...(memoryBytes === undefined ? {} : { memoryBytes }),
    ...(memoryBytes === undefined || available === undefined ? {} : { memoryUsedBytes: memoryBytes - available }),
    ...(ip === undefined ? {} : { ip }),
    disks: fillsOf(disks ?? ""),
  };
}

const bytesOf = (kib: string | undefined): number | undefined => (kib === undefined ? undefined : Number(kib) * 1024);

function recordOf(text: string): Pick<Survey, "status" | "statusProblem"> {
  if (text === "") return {};
  const parsed = parseStatus(text);
  return "record" in parsed ? { status: parsed.record } : { statusProblem: parsed.problem };
}

/** Of `df -P`: a path that is part of another file system is shown under the mount of that one, which is told once. */
function fillsOf(text: string): Fill[] {
  const found = new Map<string, Fill>();
  for (const line of text.split("\n")) {
    const match = /\s(\d+)\s+(\d+)\s+(\d+)\s+(?:\d+%|-)\s+(\/.*)$/.exec(line);
    if (!match) continue;
    const [, size, used, free, mount] = match as unknown as [string, string, string, string, string];
    // What is kept for root, or for other datasets of a pool, is nobody's to use: fill is used of used and free.
    const usedBytes = Number(used) * 1024;
    const sizeBytes = Math.min(Number(size) * 1024, usedBytes + Number(free) * 1024);
    if (sizeBytes > 0) found.set(mount, { mount, sizeBytes, usedBytes });
  }
  return [...found.values()];
}

const parts = z.looseObject({
  persist: z
    .looseObject({ state: z.string(), mount: z.string().catch("") })
    .optional()
    .catch(undefined),
  scratch: z
    .looseObject({ state: z.string(), reason: z.string().catch(""), sizeBytes: z.number().catch(0) })
    .optional()
    .catch(undefined),
  update: z
    .looseObject({ staged: z.string().catch("") })
    .optional()
    .catch(undefined),
});

/** The parts of a status record that only people look at. */
export function partsOf(status: StatusRecord | undefined): z.infer<typeof parts> {
  return status === undefined ? {} : parts.parse(status);
}

/** The file system that fills up: the persistent volume, or the root of an image that has no record of one. */
export function fillOf({ status, disks }: Survey): Fill | undefined {
  const mount = status === undefined ? "/" : partsOf(status).persist?.mount;
  return mount === undefined || mount === "" ? undefined : disks.find((disk) => disk.mount === mount);
}
