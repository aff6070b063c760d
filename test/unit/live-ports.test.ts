import * as fs from "node:fs";
import * as path from "node:path";

const LIVE = path.join(__dirname, "../live");

/** Hundreds of the ports that a live test forwards; those that a test is made of count as the test. */
const used = fs
  .readdirSync(LIVE, { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".ts"))
  .flatMap((file) => {
    const test = file.split(/[./]/)[0];
    const found = fs.readFileSync(path.join(LIVE, file), "utf8").match(/\b2[0-9]{4}\b(?!:)/g) ?? [];
    return found.map((port) => ({ test, hundred: Math.floor(Number(port) / 100) }));
  });

// Two of them run at a time, and two VMs with one port of the host cannot both start.
test("no two live tests use the same port of the host", () => {
  const owners = new Map<number, Set<string | undefined>>();
  for (const { test, hundred } of used) owners.set(hundred, (owners.get(hundred) ?? new Set()).add(test));
  expect([...owners].filter(([, tests]) => tests.size > 1)).toEqual([]);
  expect(owners.size).toBeGreaterThan(6);
});
