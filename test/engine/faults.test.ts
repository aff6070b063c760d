import { spawnSync } from "node:child_process";
import * as path from "node:path";

const HARNESS = path.join(__dirname, "..", "faults", "run.mjs");

test("runs that are killed at random moments are finished or undone by the next one, without hand work", () => {
  const result = spawnSync(process.execPath, [HARNESS, "--count", "8", "--seed", "1", "--preview", "4", "--json"], {
    encoding: "utf8",
  });
  // What it says of each kill.
  expect(result.stderr).not.toContain("WRONG");
  expect(result.status).toBe(0);
  expect(JSON.parse(result.stdout)).toMatchObject({ kills: expect.any(Number), wrong: 0 });
  expect(JSON.parse(result.stdout).kills).toBeGreaterThanOrEqual(8);
}, 600_000);

test("a count that is none is refused before anything is started", () => {
  const result = spawnSync(process.execPath, [HARNESS, "--count", "many"], { encoding: "utf8" });
  expect(result).toMatchObject({ status: 2, stdout: "" });
  expect(result.stderr).toBe('--count: "many" is not allowed; allowed: a whole number from 1\n');
});
