import { createHash } from "node:crypto";
import { type Graph, totals } from "./graphFacts";
import { hostSection, type Ids, plural, troubleOf } from "./graphStack";
import { STYLE } from "./graphStyle";
import { Html, markup, type Part } from "./markup";
import { roughSize } from "./output";
import { type PendingWave } from "./pending";
import { type StatusRow } from "./statusRow";

/** The whole page: one file that asks nobody for anything. It is the policy, and no promise, that lets nothing in. */
export function graphPage(graph: Graph): string {
  const hash = createHash("sha256").update(STYLE).digest("base64");
  const policy = `default-src 'none'; style-src 'sha256-${hash}'; base-uri 'none'; form-action 'none'`;
  const hosts = [...new Set(graph.vms.map(({ row }) => row.host))].sort();
  const ids = new Map(graph.vms.map(({ row }, index) => [row.name, `vm-${index}`]));
  const nav = markup`<nav aria-label="Sections">
    <a href="#rollout">Pending rollout</a
    >${hosts.map((host, index) => markup` <a href="#host-${index}">Host ${host}</a>`)}
  </nav>`;
  return markup`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta http-equiv="Content-Security-Policy" content="${policy}" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <title>nixvm: ${graph.stack}</title>
        <style>${new Html(STYLE)}</style>
      </head>
      <body>
        <header>
          <h1>Fleet ${graph.stack}</h1>
          <p class="soft">As it was on ${timeText(graph.at)}</p>
          ${tiles(graph)} ${nav} ${legend()}
        </header>
        <main>
          ${troubles(graph, ids)} ${rollout(graph, ids)}
          ${hosts.map((host, index) => hostSection(host, index, graph, ids))}
          ${graph.vms.length === 0 ? markup`<p>This stack has no VMs yet.</p>` : ""}
        </main>
        <footer>
          Sizes are what volumes take of their pools, unless it says "of". Each base image is counted once for each
          host. "-" is what nobody could say.
        </footer>
      </body>
    </html> `.text;
}

const timeText = (at: number): string => `${new Date(at).toISOString().slice(0, 16).replace("T", " ")} UTC`;

function tiles(graph: Graph): Html {
  const { vms, bases, pending } = graph;
  const { shared, own, unshared } = totals(graph);
  const count = (test: (row: StatusRow) => boolean) => vms.filter(({ row }) => test(row)).length;
  const healthy = count(({ health }) => health.healthy === true);
  const drifted = count(({ drift }) => (drift?.length ?? 0) > 0);
  const waiting = "waves" in pending ? pending.waves.reduce((sum, wave) => sum + wave.vms.length, 0) : undefined;
  const tile = (label: string, value: string, more: string) =>
    markup`<div class="tile">
      <dt>${label}</dt>
      <dd>${value}<small>${more}</small></dd>
    </div> `;
  const saved = Math.max(0, unshared - own - shared);
  return markup`<dl class="tiles">
    ${tile("VMs", String(vms.length), `${healthy} healthy, ${drifted} with drift`)}${tile(
      "On disk",
      roughSize(shared + own),
      `${roughSize(shared)} shared, ${roughSize(own)} own`,
    )}${tile("Saved by sharing", roughSize(saved), `${plural(bases.length, "base image")} below ${plural(vms.length, "VM")}`)}${tile(
      "Pending",
      waiting === undefined ? "-" : plural(waiting, "VM"),
      "waves" in pending ? plural(pending.waves.length, "wave") : "cannot be told",
    )}
  </dl>`;
}

function legend(): Html {
  const layers = [
    ["base", "base image, shared, read-only"],
    ["overlay", "overlay, new with each image"],
    ["persist", "persistent volume"],
    ["scratch", "scratch disk"],
    ["seed", "seed"],
    ["domain", "domain"],
  ] as const;
  return markup`<ul class="legend" aria-label="Layers">
    ${layers.map(([name, text]) => markup`<li><i class="${name}"></i>${text}</li>`)}
  </ul>`;
}

function troubles({ vms }: Graph, ids: Ids): Part {
  const found = vms.flatMap(({ row }) => {
    const trouble = troubleOf(row);
    const link = markup`<a href="#${ids.get(row.name)}">${row.name}</a>`;
    return trouble ? [markup`<li class="${trouble.kind}">${link}: ${trouble.why.join("; ")}</li> `] : [];
  });
  if (found.length === 0) return undefined;
  return markup`<section aria-labelledby="troubles">
    <h2 id="troubles">Needs a look (${found.length})</h2>
    <ul class="troubles">
      ${found}
    </ul>
  </section>`;
}

function rollout({ pending }: Graph, ids: Ids): Html {
  const body =
    "unknown" in pending
      ? markup`<p>What is pending cannot be told: ${pending.unknown}</p>`
      : pending.waves.length === 0
        ? markup`<p class="soft">Nothing: all VMs are there, on the images of the stack file.</p>`
        : markup`<ol class="waves">
            ${pending.waves.map((wave, index) => waveItem(wave, index, ids))}
          </ol>`;
  return markup`<section aria-labelledby="rollout">
    <h2 id="rollout">Pending rollout</h2>
    ${body}
  </section>`;
}

const KINDS = {
  new: "made, all at once",
  canary: "canary",
  batch: "batch",
  unhealthy: "not healthy now, so last",
} as const;

function waveItem({ kind, group, vms, lanes }: PendingWave, index: number, ids: Ids): Html {
  const lane = kind === "new" || vms.length === 1 ? "" : lanes === 1 ? ", one after the other" : `, ${lanes} at a time`;
  const chip = (name: string) => {
    const id = ids.get(name);
    return markup`<li>${id === undefined ? markup`<span>${name}</span>` : markup`<a href="#${id}">${name}</a>`}</li>`;
  };
  return markup`<li class="${kind}">
    <strong>Wave ${index + 1}</strong>
    <span class="soft">${KINDS[kind]}${group === undefined ? "" : `, group ${group}`}${lane}</span>
    <ul class="chips">
      ${vms.map(chip)}
    </ul>
  </li> `;
}
