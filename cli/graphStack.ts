import { type Graph, type GraphBase, type GraphVm, type Layer } from "./graphFacts";
import { type Html, markup, type Part } from "./markup";
import { roughDuration, roughSize } from "./output";
import { type StatusRow } from "./statusRow";

/** With more VMs than this on one base image they are shown closed, and each opens by itself. */
const OPEN_UP_TO = 24;

export const plural = (count: number, one: string): string => `${count} ${one}${count === 1 ? "" : "s"}`;

/** What keeps a VM from being as it should, in words: `bad` when it does not do its work, `note` when somebody should know. */
export function troubleOf({ health, drift = [], rebootRequired, quarantined }: StatusRow): Trouble | undefined {
  const { state, reasons } = health;
  const unwell = health.healthy === false || state === "host unreachable";
  const words: [string, string[]][] = [
    [state, unwell ? [`${state}${reasons.length > 0 ? `: ${reasons.join("; ")}` : ""}`] : []],
    ["drift", drift.map(({ text }) => `drift: ${text}`)],
    ["reboot required", rebootRequired === true ? ["reboot required"] : []],
    ["quarantine", quarantined.map((digest) => `image ${digest} is quarantined`)],
  ];
  const found = words.filter(([, why]) => why.length > 0);
  const [first] = found;
  return first && { kind: unwell ? "bad" : "note", word: first[0], why: found.flatMap(([, why]) => why) };
}

export interface Trouble {
  kind: "bad" | "note";
  /** The first of it. */
  word: string;
  why: string[];
}

/** Of the cards on the page, by the names of their VMs. */
export type Ids = ReadonlyMap<string, string>;

/** All base images of a host, each with what stands on it. */
export function hostSection(host: string, index: number, graph: Graph, ids: Ids): Html {
  const here = graph.vms.filter(({ row }) => row.host === host);
  const bases = graph.bases.filter((base) => base.host === host);
  const known = new Set(bases.map(({ path }) => path));
  const orphans = here.filter(({ base }) => base === undefined || !known.has(base));
  const most = Math.max(1, ...graph.vms.map(ownBytes));
  const stack = (vms: readonly GraphVm[], base: GraphBase | undefined) =>
    vms.length === 0 ? "" : stackOf(vms, base, ids, most);
  return markup`<section aria-labelledby="host-${index}">
    <h2 id="host-${index}">Host ${host} <span class="soft">${plural(here.length, "VM")}</span></h2>
    ${bases.map((base) =>
      stack(
        here.filter((vm) => vm.base === base.path),
        base,
      ),
    )}${stack(orphans, undefined)}
  </section> `;
}

/** A base image with all that stands on it, group by group. */
function stackOf(vms: readonly GraphVm[], base: GraphBase | undefined, ids: Ids, most: number): Html {
  const groups = [...new Set(vms.map(({ row }) => row.group))].sort((a, b) => ((a ?? "") < (b ?? "") ? -1 : 1));
  const many = vms.length > OPEN_UP_TO;
  const size = base?.usedBytes === undefined ? "size not known" : `${roughSize(base.usedBytes)}, counted once`;
  const slab =
    base === undefined
      ? markup`<div class="slab unknown">
          <strong>Base image not known</strong><span>${plural(vms.length, "VM")}</span>
        </div>`
      : markup`<div class="slab" title="${base.path}">
          <strong>Base image ${base.version ?? ""}</strong><span class="mono">${base.digest ?? "-"}</span
          ><span>${size}</span><span>${vms.length === 1 ? "below 1 VM" : `shared by ${vms.length} VMs`}</span>
        </div>`;
  const groupOf = (group: string | undefined, of: number) => {
    const name = group === undefined ? "No group" : `Group ${group}`;
    const cards = vms.filter(({ row }) => row.group === group).map((vm) => card(vm, ids, most, !many));
    // Where there are no groups nobody needs to be told.
    const heading = of === 1 && group === undefined ? "" : markup`<h3>${name}</h3>`;
    return markup`<div class="group">${heading}<div class="vms">${cards}</div></div> `;
  };
  return markup`<div class="stack${many ? " many" : ""}">
    ${slab}
    <div class="groups">
      ${groups.map((group) => groupOf(group, groups.length))}
    </div>
  </div> `;
}

const LAYERS = ["overlay", "persist", "scratch", "seed"] as const;

const ownBytes = (vm: GraphVm): number => LAYERS.reduce((sum, name) => sum + (vm[name]?.usedBytes ?? 0), 0);

function card(vm: GraphVm, ids: Ids, most: number, open: boolean): Html {
  const { row } = vm;
  const { health, memory, uptimeSeconds } = row;
  const trouble = troubleOf(row);
  const look = trouble?.kind ?? (health.healthy === true ? "ok" : "off");
  const sign = { bad: "✗", note: "!", ok: "✓", off: "○" }[look];
  const domain = [row.state ?? "-", memory === undefined ? "" : roughSize(memory.bytes)].filter((text) => text !== "");
  const up = uptimeSeconds === undefined ? "" : `, up ${roughDuration(uptimeSeconds)}`;
  const layer = (name: string, label: string, content: Part, title = "") =>
    markup`<div class="layer ${name}"${title === "" ? "" : markup` title="${title}"`}>
      <dt>${label}</dt>
      <dd>${content}</dd>
    </div> `;
  const age = row.image?.ageSeconds;
  const fill =
    row.disk && row.disk.mount !== "/" ? `, ${Math.round((100 * row.disk.usedBytes) / row.disk.sizeBytes)}% full` : "";
  return markup`<details class="vm ${look}" id="${ids.get(row.name)}"${open ? markup` open` : ""}>
    <summary>
      <span class="top"><span class="name">${row.name}</span><span class="pill">${sign} ${trouble?.word ?? health.state}</span></span
      >${bar(vm, most)}
    </summary>
    <dl class="layers">
      ${layer("overlay", "overlay", [sizeText(vm.overlay, false), age === undefined ? "" : markup` <span>for ${roughDuration(age)}</span>`], vm.overlay?.path)}${
        vm.persist
          ? layer("persist", "persistent", [sizeText(vm.persist), markup`<span>${fill}</span>`], vm.persist.path)
          : ""
      }${vm.scratch ? layer("scratch", "scratch", sizeText(vm.scratch), vm.scratch.path) : ""}${layer(
        "seed",
        "seed",
        sizeText(vm.seed, false),
        vm.seed?.path,
      )}${layer("domain", "domain", [`${domain.join(", ")}${up}`, row.address ? markup`<br /><span class="mono">${row.address}</span>` : ""], row.domain)}
    </dl>
    ${trouble && markup`<ul class="why">${trouble.why.map((text) => markup`<li>${text}</li>`)}</ul> `}
  </details> `;
}

function sizeText(layer: Layer | undefined, of = true): Part {
  if (layer?.usedBytes === undefined) return "-";
  const whole = of && layer.diskBytes !== undefined ? markup` <span>of ${roughSize(layer.diskBytes)}</span>` : "";
  return [roughSize(layer.usedBytes), whole];
}

/** Its own bytes, as long as they are beside those of the largest VM of the page. */
function bar(vm: GraphVm, most: number): Html {
  let x = 0;
  const parts = LAYERS.map((name) => {
    const width = (100 * (vm[name]?.usedBytes ?? 0)) / most;
    const at = x;
    x += width;
    return width === 0
      ? ""
      : markup`<rect class="${name}" x="${at.toFixed(2)}" y="0" width="${width.toFixed(2)}" height="6" />`;
  });
  return markup`<svg
    class="bar"
    viewBox="0 0 100 6"
    preserveAspectRatio="none"
    role="img"
    aria-label="${roughSize(ownBytes(vm))} of its own"
  >
    ${parts}
  </svg>`;
}
