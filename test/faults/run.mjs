// Kills real runs of `pulumi up` at random moments, and checks what the next one makes of it. docs/faults.md tells more.
//
//   npm run faults -- --count 500 --seed 1 [--workers 2] [--preview 5] [--real] [--keep] [--json]
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { changed, configOf, FIRST, PLAYED, REAL } from "./fleet.mjs";
import { violations } from "./invariants.mjs";
import { Kill, planKill } from "./kills.mjs";
import { endRuns, Project, ROOT } from "./project.mjs";
import { randomOf } from "./random.mjs";
import { RealWorld } from "./real.mjs";
import { Report } from "./report.mjs";
import { PlayedWorld } from "./world.mjs";

/** Kills before a fleet is begun anew, so that first runs are hit as well. */
const KILLS_PER_FLEET = 20;
/** Part of the kills after which the stack file goes back to what it was. */
const THINKS_BETTER = 0.3;

const { values } = parseArgs({
  options: {
    /** How many kills. */
    count: { type: "string", default: "20" },
    /** The same seed gives the same changes and kill points; what runs at the same time still differs. */
    seed: { type: "string", default: "1" },
    /** Fleets at a time. */
    workers: { type: "string", default: "2" },
    /** Every how many kills a preview has to find nothing to do. */
    preview: { type: "string", default: "1" },
    /** Real guests instead of the test driver. */
    real: { type: "boolean", default: false },
    keep: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
  },
});
const [count, seed, workers, previewEvery] = ["count", "seed", "workers", "preview"].map(whole);
const [shape, World] = values.real ? [REAL, RealWorld] : [PLAYED, PlayedWorld];

function whole(name) {
  const value = Number(values[name]);
  if (Number.isInteger(value) && value > 0) return value;
  console.error(`--${name}: "${values[name]}" is not allowed; allowed: a whole number from 1`);
  process.exit(2);
}

/** Short, since the sockets of libvirt lie in it. */
const base = mkdtempSync(join(tmpdir(), "nixvm-faults-"));
const report = new Report();
let left = count;
let failures = 0;
let stopped = false;

const digestOf = (file) => createHash("sha256").update(readFileSync(file)).digest("hex");

/** Two images: real ones, or two small files that differ. */
function images() {
  return ["v1", "v2"].map((name) => {
    const file = values.real ? join(ROOT, `.nixvm/images/reference-${name}.qcow2`) : join(base, `${name}.qcow2`);
    if (!values.real) {
      execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", file, "1M"]);
      // Behind the last cluster, where nothing of the format is.
      appendFileSync(file, Buffer.alloc(65536, name));
    }
    return { file, digest: digestOf(file) };
  });
}

/** One fleet in a world of its own, hit until it has had its share. */
class Fleet {
  known = new Map();
  wish = FIRST;
  kind = "first";
  kills = 0;
  /** What a run of each kind takes, as seen so far. */
  #seen = new Map();

  constructor(name, number, random, sources) {
    Object.assign(this, { name, random, sources, ports: 20_000 + number * 100 });
    this.dir = join(base, name);
  }

  async live() {
    mkdirSync(this.dir);
    this.world = await World.start(this.dir);
    try {
      this.project = new Project(this.dir, this.name, values.real ? 20 * 60_000 : 120_000);
      await this.project.init();
      while (this.kills < KILLS_PER_FLEET && left > 0 && (await this.#hit())) this.kind = "later";
    } finally {
      await this.world.stop();
      if (!values.keep) rmSync(this.dir, { recursive: true, force: true });
    }
  }

  #configure(wish) {
    const { world, sources, ports } = this;
    this.project.configure(configOf(shape, wish, { host: world.host, images: sources, ports }));
  }

  /** One change, one kill, one more run; false when something was wrong after that. */
  async #hit() {
    const { world, project, random } = this;
    const first = this.kind === "first";
    const { kind, wish: next } = first ? { kind: "first", wish: this.wish } : changed(shape, this.wish, random);
    const size = this.#seen.get(kind) ?? { calls: 30, ms: values.real ? 120_000 : 4000 };
    const kill = new Kill(planKill(random, size, world.fill !== undefined), { world, project, random });
    this.#configure(next);
    const hit = await project.up((pid) => kill.arm(pid));
    const { count: calls, deleted } = world.wire;
    const wrong = await kill.disarm();
    if (kill.at !== undefined) {
      left--;
      this.kills++;
    }
    // Most go on; some think better of it.
    const back = kill.at !== undefined && !first && random.chance(THINKS_BETTER);
    if (!back) this.wish = next;
    this.#configure(this.wish);
    // That a guest is off although nothing is to be changed is found by a refresh, which is what people then ask for.
    const after = await project.up(undefined, kill.plan.target === "a guest");
    deleted.push(...world.wire.deleted);
    if (!back && after.code === 0) {
      const ms = 1000 * Math.max(hit.seconds, after.seconds);
      this.#seen.set(kind, { calls: Math.max(4, calls + world.wire.count), ms });
    }
    wrong.push(...(await this.#wrong(after, deleted)));
    // Somebody ended the harness: what it was at says nothing.
    if (stopped) return false;
    const one = { fleet: this.name, kind, back, ...kill.plan, at: kill.at, seconds: after.seconds, wrong };
    report.add(one);
    console.error(line(one));
    if (wrong.length > 0) keep(one, hit, after);
    return wrong.length === 0;
  }

  async #wrong(after, deleted) {
    if (after.code !== 0) return ["the next up failed"];
    const { world, project, wish, sources, known } = this;
    const wrong = await violations({ world, project, shape, wish, images: sources, known, deleted });
    if (this.kills % previewEvery === 0) {
      const preview = await project.run(["preview", "--expect-no-changes"]);
      if (preview.code !== 0) wrong.push(`a third run has something to do:\n${preview.text}`);
    }
    return wrong;
  }
}

function line({ fleet, kind, back, target, at, call, seconds, wrong }) {
  const where = at === undefined ? "not reached" : `${at}${call === undefined ? "" : ` (change ${call})`}`;
  const outcome = wrong.length === 0 ? "ok" : `WRONG: ${wrong.map((text) => text.split("\n")[0]).join("; ")} (${base})`;
  const after = `${back ? ", and back" : ""}: ${outcome}, ${seconds.toFixed(1)} s`;
  return `${String(count - left).padStart(4)} ${fleet} ${kind}: ${target} at ${where}${after}`;
}

function keep(one, hit, after) {
  const text = `${JSON.stringify(one, null, 1)}\n\n=== hit\n${hit.text}\n=== next (exit ${after.code})\n${after.text}\n`;
  writeFileSync(join(base, `failure-${++failures}.txt`), text);
}

// Ended by hand: what is at work ends, the rest as after the last kill.
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.on(signal, () => {
    left = 0;
    stopped = true;
    endRuns();
  });
}

async function worker(number, sources) {
  const random = randomOf(seed * 1000 + number);
  for (let i = 0; left > 0; i++) await new Fleet(`w${number}f${i}`, number, random, sources).live();
}

const began = performance.now();
const sources = images();
await Promise.all(Array.from({ length: workers }, (_, number) => worker(number, sources)));
const seconds = (performance.now() - began) / 1000;
console.log(values.json ? JSON.stringify(report.summary(seconds)) : report.table(seconds));
process.exitCode = report.bad > 0 ? 1 : 0;
if (report.bad === 0 && !values.keep) rmSync(base, { recursive: true, force: true });
else console.error(`kept: ${base}`);
