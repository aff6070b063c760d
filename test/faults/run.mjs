// Kills real runs of `pulumi up` at random moments, and checks what the next one makes of it. docs/faults.md tells more.
//
//   npm run faults -- --count 500 --seed 1 [--workers 2] [--keep]
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { changed, configOf, firstWish } from "./fleet.mjs";
import { violations } from "./invariants.mjs";
import { Kill, planKill } from "./kills.mjs";
import { Project } from "./project.mjs";
import { randomOf } from "./random.mjs";
import { Report } from "./report.mjs";
import { World } from "./world.mjs";

/** Kills before a fleet is begun anew, so that first runs are hit as well. */
const KILLS_PER_FLEET = 20;

const { values } = parseArgs({
  options: {
    count: { type: "string", default: "20" },
    seed: { type: "string", default: "1" },
    workers: { type: "string", default: "2" },
    /** Every how many kills a preview has to find nothing to do. */
    preview: { type: "string", default: "1" },
    keep: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
  },
});
const count = whole("count");
const seed = whole("seed");
const workers = whole("workers");
const previewEvery = whole("preview");

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

/** Two images that differ. */
function makeImages() {
  return ["one", "two"].map((name) => {
    const file = join(base, `${name}.qcow2`);
    execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", file, "1M"]);
    // Behind the last cluster, where nothing of the format is.
    appendFileSync(file, Buffer.alloc(65536, name));
    return { file, digest: createHash("sha256").update(readFileSync(file)).digest("hex") };
  });
}

/** One fleet in a world of its own, hit until it has had its share. */
async function fleet(random, images, name) {
  const dir = join(base, name);
  mkdirSync(dir);
  const world = await World.start(dir);
  try {
    const project = new Project(dir, name);
    await project.init();
    const here = { uri: world.uri, pool: `/${name}`, images, ports: 20_000 };
    const known = new Map();
    /** What a run of each kind takes, as seen so far. */
    const seen = new Map();
    let wish = firstWish();
    let kind = "first";
    for (let kills = 0; kills < KILLS_PER_FLEET && left > 0;) {
      const before = kind === "first" ? wish : { ...wish };
      let next = wish;
      if (kind !== "first") ({ kind, wish: next } = changed(wish, random));
      project.configure(configOf(next, here));
      const size = seen.get(kind) ?? { calls: 30, ms: 4000 };
      const kill = new Kill(planKill(random, size), world);
      const hit = await project.up((pid) => kill.arm(pid));
      const calls = world.wire.count;
      const deleted = world.wire.deleted;
      await kill.disarm();
      if (kill.at !== undefined) {
        left--;
        kills++;
      }
      // Most go on; some think better of it.
      const back = kill.at !== undefined && kind !== "first" && random.chance(0.3);
      wish = back ? before : next;
      project.configure(configOf(wish, here));
      const after = await project.up();
      deleted.push(...world.wire.deleted);
      if (!back && after.code === 0) {
        seen.set(kind, {
          calls: Math.max(4, calls + world.wire.count),
          ms: 1000 * Math.max(hit.seconds, after.seconds),
        });
      }
      const wrong = after.code === 0 ? [] : ["the next up failed"];
      if (after.code === 0) {
        wrong.push(...(await violations({ world, project, wish, images, known, deleted })));
        if (kills % previewEvery === 0) {
          const preview = await project.run(["preview", "--expect-no-changes"]);
          if (preview.code !== 0) wrong.push(`a third run has something to do:\n${preview.text}`);
        }
      }
      const one = { fleet: name, kind, back, ...kill.plan, at: kill.at, seconds: after.seconds, wrong };
      report.add(one, { hit: hit.text, after: after.text });
      console.error(line(one));
      if (wrong.length > 0) {
        keep(one, hit, after);
        return;
      }
      kind = "later";
    }
  } finally {
    await world.stop();
    if (!values.keep) rmSync(dir, { recursive: true, force: true });
  }
}

function line({ fleet: name, kind, back, target, at, call, seconds, wrong }) {
  const where = at === undefined ? "not reached" : `${at}${call === undefined ? "" : ` (change ${call})`}`;
  const outcome = wrong.length === 0 ? "ok" : `WRONG: ${wrong.map((text) => text.split("\n")[0]).join("; ")}`;
  return `${String(count - left).padStart(4)} ${name} ${kind}: ${target} at ${where}${back ? ", and back" : ""}: ${outcome}, ${seconds.toFixed(1)} s`;
}

let failures = 0;
function keep(one, hit, after) {
  const file = join(base, `failure-${++failures}.txt`);
  writeFileSync(
    file,
    `${JSON.stringify(one, null, 1)}\n\n=== hit\n${hit.text}\n=== next (exit ${after.code})\n${after.text}\n`,
  );
  console.error(`     ${file}`);
}

async function worker(number, images) {
  const random = randomOf(seed * 1000 + number);
  for (let i = 0; left > 0; i++) await fleet(random, images, `w${number}f${i}`);
}

const began = performance.now();
const images = makeImages();
await Promise.all(Array.from({ length: workers }, (_, number) => worker(number, images)));
const seconds = (performance.now() - began) / 1000;
console.log(values.json ? JSON.stringify(report.summary(seconds)) : report.table(seconds));
process.exitCode = report.bad > 0 ? 1 : 0;
if (report.bad === 0 && !values.keep) rmSync(base, { recursive: true, force: true });
else console.error(`kept: ${base}`);
