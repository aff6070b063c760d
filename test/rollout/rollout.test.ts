import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { violations } from "./invariants";
import { scenarios } from "./scenarios";
import { Simulation } from "./simulation";

/** What was decided in each scenario. After a change that is meant: NIXVM_WRITE_DECISIONS=1, then read the difference. */
const file = join(__dirname, "decisions.txt");
const HEAD = "== ";

function readDecisions(): Map<string, string> {
  const text = existsSync(file) ? readFileSync(file, "utf8") : "";
  const parts = text.split(new RegExp(`^${HEAD}`, "m")).slice(1);
  return new Map(
    parts.map((part) => [part.slice(0, part.indexOf("\n")), part.slice(part.indexOf("\n") + 1).trimEnd()]),
  );
}

// A guest that boots makes an error at each look, and nobody reads where.
Error.stackTraceLimit = 0;

const decided = new Map<string, string>();
const golden = readDecisions();
const writes = process.env.NIXVM_WRITE_DECISIONS === "1";

test("there are at least 200 scenarios, each under a name of its own", () => {
  expect(scenarios.length).toBeGreaterThanOrEqual(200);
  expect(new Set(scenarios.map(({ name }) => name)).size).toBe(scenarios.length);
});

describe("in a rollout that is simulated", () => {
  test.each(scenarios)("$name: what is decided is what was, and nothing that must not be", async (scenario) => {
    const simulation = new Simulation(scenario);
    await simulation.play();
    expect(violations(simulation)).toEqual([]);
    const log = simulation.log.join("\n");
    decided.set(scenario.name, log);
    if (!writes) expect(log).toBe(golden.get(scenario.name));
  });
});

afterAll(() => {
  if (writes) writeFileSync(file, [...decided].map(([name, log]) => `${HEAD}${name}\n${log}\n`).join("\n"));
});

test("no decision is kept of a scenario that is no more", () => {
  if (writes) return;
  expect([...golden.keys()]).toEqual(scenarios.map(({ name }) => name));
});
