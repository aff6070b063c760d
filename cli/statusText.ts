import Table from "cli-table3";
import { roughDuration, roughSize } from "./output";
import { type Fill } from "./survey";
import { type StatusRow } from "./statusRow";

/** What is not known is shown as this, never as a guess. */
const UNKNOWN = "-";

/** Also what turns the direction of a line around, or begins another one. */
const CONTROL = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu;

/** Guests and libvirt say what they like; a terminal must not take any of it as a command. */
export const plain = (text: string): string => text.replace(CONTROL, " ").trim();

const HEAD = ["NAME", "GROUP", "HOST", "IMAGE", "ON IT FOR", "DRIFT", "DISK", "MEMORY", "UPTIME", "ADDRESS", "HEALTH"];

/** The cells of a VM, in the order of the table's head. */
export function cellsOf(row: StatusRow): string[] {
  const { image, drift, memory } = row;
  const age = image?.ageSeconds;
  const kinds = drift && [...new Set(drift.map(({ kind }) => kind))];
  return [
    row.name,
    row.group ?? UNKNOWN,
    row.host,
    image === undefined ? UNKNOWN : imageText(image),
    age === undefined ? UNKNOWN : roughDuration(age),
    kinds === undefined ? UNKNOWN : kinds.join(", ") || "none",
    row.disk === undefined ? UNKNOWN : fillText(row.disk),
    memory === undefined ? UNKNOWN : memoryText(memory),
    row.uptimeSeconds === undefined ? UNKNOWN : roughDuration(row.uptimeSeconds),
    row.address ?? UNKNOWN,
    healthText(row),
  ].map(plain);
}

const imageText = ({ digest, version }: NonNullable<StatusRow["image"]>): string =>
  version === undefined ? digest : `${version} (${digest})`;

const percent = (used: number, of: number): string => `${Math.round((100 * used) / of)}%`;

const fillText = ({ sizeBytes, usedBytes }: Fill): string =>
  `${percent(usedBytes, sizeBytes)} of ${roughSize(sizeBytes)}`;

const memoryText = ({ bytes, usedBytes }: NonNullable<StatusRow["memory"]>): string =>
  usedBytes === undefined ? roughSize(bytes) : `${percent(usedBytes, bytes)} of ${roughSize(bytes)}`;

/** The first reason has to do in a table. */
function healthText({ health: { state, reasons }, rebootRequired }: StatusRow): string {
  const more = reasons.length > 1 ? ` (+${reasons.length - 1})` : "";
  const reboot = rebootRequired === true ? ", reboot required" : "";
  return `${state}${reasons.length > 0 ? `: ${reasons[0]}${more}` : ""}${reboot}`;
}

/** All VMs as columns, and below them in words what differs. */
export function statusTable(rows: readonly StatusRow[]): string {
  if (rows.length === 0) return "no VMs yet";
  const notes = rows.flatMap(({ name, drift }) => (drift ?? []).map(({ text }) => plain(`${name}: ${text}`)));
  return [columns([HEAD, ...rows.map(cellsOf)]), ...(notes.length > 0 ? ["", ...notes] : [])].join("\n");
}

const BORDERS = ["top", "bottom", "mid", "left", "right"].flatMap((side) =>
  ["", "-mid", "-left", "-right"].map((part) => `${side}${part}`),
);

/** Without lines: they would double the height, and a line of a fleet is read across. */
function columns(rows: readonly (readonly string[])[]): string {
  const made = new Table({
    chars: { ...Object.fromEntries(BORDERS.map((name) => [name, ""])), "left-mid": "", "mid-mid": "", middle: "  " },
    style: { "padding-left": 0, "padding-right": 0, head: [], border: [] },
  });
  made.push(...rows.map((row) => [...row]));
  return made
    .toString()
    .split("\n")
    .map((line) => line.trimEnd())
    .join("\n");
}

/** What is told of one VM beyond its row. */
export interface Detail extends StatusRow {
  /** Snapshots inside its persistent volume. */
  snapshots?: number;
  /** All file systems of the guest. */
  disks?: Fill[];
  network: string;
  uuid: string;
  paths: { overlay: string; persist?: string; scratch?: string; seed: string; console?: string };
}

/** One VM, a fact a line. */
export function detailText(detail: Detail): string {
  const { image, memory, health, drift, paths, scratch, rebootRequired } = detail;
  const lines: [string, string | undefined][] = [
    ["name", detail.name],
    ["group", detail.group],
    ["host", detail.host],
    ["domain", `${detail.domain} (${detail.uuid})`],
    ["state", detail.state],
    ["health", [health.state, ...health.reasons].join("\n")],
    ["IP address", detail.ip],
    ["address", detail.address === detail.ip ? undefined : detail.address],
    ["network", detail.network],
    ["image", image && imageText(image)],
    [
      "on it for",
      image?.ageSeconds === undefined ? undefined : `${roughDuration(image.ageSeconds)} (since ${image.since})`,
    ],
    ["drift", drift && (drift.map(({ text }) => text).join("\n") || "none")],
    ["quarantined images", detail.quarantined.join("\n") || "none"],
    ["reboot required", rebootRequired === undefined ? undefined : rebootText(rebootRequired, detail.staged)],
    ["uptime", detail.uptimeSeconds === undefined ? undefined : roughDuration(detail.uptimeSeconds)],
    ["memory", memory && memoryText(memory)],
    ["disks", detail.disks?.map((disk) => `${disk.mount} ${fillText(disk)}`).join("\n") || undefined],
    ["snapshots", detail.snapshots === undefined ? undefined : String(detail.snapshots)],
    ["scratch", scratch && scratchText(scratch)],
    ["overlay", paths.overlay],
    ["persistent volume", paths.persist ?? "none"],
    ["scratch disk", paths.scratch ?? "none"],
    ["seed", paths.seed],
    ["console log", paths.console],
  ];
  const shown = lines.filter(([label, value]) => value !== undefined || label !== "address");
  const width = Math.max(...shown.map(([label]) => label.length)) + 2;
  return shown
    .flatMap(([label, value]) =>
      (value ?? UNKNOWN)
        .split("\n")
        .map((line, at) => `${(at === 0 ? label : "").padEnd(width)}${plain(line)}`.trimEnd()),
    )
    .join("\n");
}

const rebootText = (required: boolean, staged: string | undefined): string =>
  required ? `yes${staged === undefined ? "" : `, for ${staged}`}` : "no";

const scratchText = ({ state, reason, sizeBytes }: NonNullable<StatusRow["scratch"]>): string =>
  `${state}${sizeBytes > 0 ? `, ${roughSize(sizeBytes)}` : ""}${reason === "" ? "" : `: ${reason}`}`;
