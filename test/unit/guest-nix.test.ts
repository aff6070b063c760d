import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";

const nix = path.resolve(__dirname, "../../nix");

function instantiate(...args: string[]): string {
  const run = spawnSync("nix-instantiate", args, { cwd: nix, encoding: "utf8" });
  if (run.error) throw new Error(`nix-instantiate cannot be run (${run.error.message}); the package is called nix-bin`);
  if (run.status !== 0) throw new Error(run.stderr);
  return run.stdout;
}
const evaluate = (expression: string): unknown =>
  JSON.parse(instantiate("--eval", "--strict", "--json", "-E", `let lib = import ./modules/lib.nix; in ${expression}`));
const files = readdirSync(nix, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".nix"));

test("every file parses", () => {
  expect(files.length).toBeGreaterThan(6);
  for (const file of files) expect(instantiate("--parse", file)).not.toBe("");
});

test("every file that is imported is there, and every module is imported", () => {
  const named = new Set(["flake.nix", "modules/default.nix"]);
  for (const file of files)
    for (const [, target] of readFileSync(path.join(nix, file), "utf8").matchAll(/(?<![\w./}])(\.\.?\/[\w./-]+\.nix)/g))
      named.add(path.join(path.dirname(file), target!));
  for (const file of files.filter((name) => name.startsWith("profiles/"))) named.add(file);
  expect([...named].sort()).toEqual([...files].sort());
});

describe("pure functions", () => {
  const image = '{ name = "template"; version = "v7"; closure = "/nix/store/abc-system"; }';

  test("an image's id says name, version and closure", () => {
    const hash = createHash("sha256").update("/nix/store/abc-system").digest("hex").slice(0, 12);
    expect(evaluate(`lib.imageId ${image}`)).toBe(`nixvm-template-v7-${hash}`);
  });

  test("the record has the fields of the contract, and no other", () => {
    expect(evaluate(`lib.imageRecord ${image}`)).toEqual({
      schema: 1,
      id: expect.any(String),
      version: "v7",
      contract: 1,
      rootModes: ["readonly"],
    });
  });

  test("guest.env gives values that the caller's environment can override, in every shell", () => {
    const text = evaluate('lib.guestEnv { NIXVM_A = "one two"; NIXVM_B = "/run/x"; }') as string;
    const run = (env: Record<string, string>) =>
      spawnSync("sh", ["-eu", "-c", `${text}\necho "$NIXVM_A|$NIXVM_B"`], {
        encoding: "utf8",
        env: { PATH: process.env["PATH"], ...env },
      }).stdout.trim();
    expect(run({})).toBe("one two|/run/x");
    expect(run({ NIXVM_B: "/else" })).toBe("one two|/else");
  });

  test("the record and the scripts speak of the same contract", () => {
    expect(readFileSync(path.join(nix, "guest/seed.awk"), "utf8")).toContain(
      `"nixvm.contract is " show(node) ", this guest knows ${String(evaluate("lib.contract"))}"`,
    );
  });
});

test("every variable that guest.env sets is one the scripts read", () => {
  const scripts = readFileSync(path.join(nix, "guest/lib.sh"), "utf8");
  const set = [...readFileSync(path.join(nix, "modules/default.nix"), "utf8").matchAll(/\b(NIXVM_[A-Z_]+) =/g)].map(
    (match) => match[1]!,
  );
  expect(set.length).toBeGreaterThan(3);
  for (const name of set) expect(scripts).toContain(`"\${${name}:=`);
});

test("the units of the guest are the same on both guests, with the path of the scripts left open", () => {
  for (const unit of ["seed", "grow", "status"]) {
    const text = readFileSync(path.join(nix, `guest/units/nixvm-${unit}.service`), "utf8");
    expect(text).toContain(`ExecStart=@guest@/${unit}`);
    expect(text).not.toMatch(/debian|nixos/i);
  }
});
