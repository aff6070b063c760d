import fc from "fast-check";
import * as fs from "node:fs";
import * as path from "node:path";
import { evaluate, plant, scratch } from "./tools-support";

let dir: string;
beforeEach(() => {
  dir = scratch();
});
afterEach(() => {
  fs.rmSync(dir, { recursive: true, force: true });
});

interface Entry {
  version?: string;
  integrity?: string;
  optional?: boolean;
  dev?: boolean;
  os?: string[];
  cpu?: string[];
  optionalDependencies?: Record<string, string>;
}

describe("node_modules", () => {
  const a: Entry = { version: "1.0.0", integrity: "sha512-a" };
  const lock = (packages: Record<string, Entry>) => JSON.stringify({ packages: { "": {}, ...packages } });
  const record = (packages: Record<string, Entry>) => JSON.stringify({ packages });
  const ready = () => evaluate<boolean>("modules", "m.modulesReady(input)", dir);

  it.each<[string, boolean, Record<string, Entry>, Record<string, Entry>]>([
    ["all is there", true, { "node_modules/a": a }, { "node_modules/a": a }],
    ["one is missing", false, { "node_modules/a": a, "node_modules/b": a }, { "node_modules/a": a }],
    ["one is too many", false, { "node_modules/a": a }, { "node_modules/a": a, "node_modules/b": a }],
    ["a version differs", false, { "node_modules/a": a }, { "node_modules/a": { ...a, version: "1.0.1" } }],
    ["a checksum differs", false, { "node_modules/a": a }, { "node_modules/a": { ...a, integrity: "sha512-b" } }],
    [
      "only another platform's is missing",
      true,
      { "node_modules/a": a, "node_modules/a-darwin-arm64": { ...a, optional: true } },
      { "node_modules/a": a },
    ],
  ])("when %s: ready is %s", (_, expected, wanted, present) => {
    plant(dir, { "package-lock.json": lock(wanted), "node_modules/.package-lock.json": record(present) });
    expect(ready()).toBe(expected);
  });

  it("is not ready when its installation was broken off", () => {
    plant(dir, { "package-lock.json": lock({ "node_modules/a": a }), "node_modules/a/package.json": "{}" });
    expect(ready()).toBe(false);
  });

  it("is not ready any more when the lock file has changed", () => {
    plant(dir, {
      "package-lock.json": lock({ "node_modules/a": a }),
      "node_modules/.package-lock.json": record({ "node_modules/a": a }),
    });
    expect(ready()).toBe(true);
    plant(dir, { "package-lock.json": lock({ "node_modules/a": { ...a, version: "2.0.0" } }) });
    expect(ready()).toBe(false);
  });
});

describe("a completed lock file", () => {
  const complete = (lock: object) =>
    evaluate<{ lock: { packages: Record<string, Entry> }; added: string[] }>(
      "complete-lock",
      "m.completeLock(input)",
      lock,
    );
  const arbitrary = fc.uniqueArray(fc.constantFrom("linux-x64", "linux-arm64", "darwin-arm64", "win32-x64"));

  it("has an entry for each platform, changes no other, and needs no second round", () => {
    const samples = fc.sample(fc.tuple(arbitrary, arbitrary, fc.boolean()), 10);
    for (const [named, present, dev] of samples) {
      const optionalDependencies = Object.fromEntries(named.map((platform) => [`x-${platform}`, "1.2.3"]));
      const packages: Record<string, Entry> = { "node_modules/x": { version: "1.2.3", dev, optionalDependencies } };
      for (const platform of present) packages[`node_modules/x-${platform}`] = { version: "1.2.3", integrity: "i" };
      const once = complete({ name: "p", packages });
      for (const [key, value] of Object.entries(packages)) expect(once.lock.packages[key]).toEqual(value);
      for (const platform of named) {
        expect(once.lock.packages[`node_modules/x-${platform}`]).toMatchObject({ version: "1.2.3" });
      }
      const expected = named.filter((platform) => !present.includes(platform)).map((platform) => `x-${platform}@1.2.3`);
      expect(once.added.sort()).toEqual(expected.sort());
      expect(complete(once.lock).added).toEqual([]);
    }
  });

  it("does not guess a version that is not pinned, nor a package for all platforms", () => {
    const optionalDependencies = { "x-darwin-arm64": "^1.0.0", fsevents: "2.3.3" };
    expect(complete({ packages: { "node_modules/x": { optionalDependencies } } }).added).toEqual([]);
  });
});

describe("the compiled program", () => {
  const ready = () => evaluate<boolean>("modules", "m.buildReady(input)", dir);

  /** A checkout with a compiler that only copies, so that the test is about what is made again, and when. */
  function checkout(): void {
    const compiler = `const fs = require("fs"), path = require("path"); const dir = process.argv.at(-1);
      const out = path.join(dir, "bin"); fs.mkdirSync(path.join(out, "components"), { recursive: true });
      fs.writeFileSync(path.join(out, ".tsbuildinfo"), "");
      for (const name of ["index", "components/a"])
        if (fs.existsSync(path.join(dir, name + ".ts"))) fs.writeFileSync(path.join(out, name + ".js"), "");`;
    plant(dir, {
      "package-lock.json": "{}",
      "node_modules/typescript/bin/tsc": compiler,
      "tsconfig.json": "{}",
      "index.ts": "",
      "components/a.ts": "",
      "sdks/libvirt/tsconfig.json": "{}",
      "sdks/libvirt/index.ts": "",
      "sdks/libvirt/package.json": '{"version":"1.2.3"}',
    });
  }
  const build = () => evaluate("modules", "m.build(input, { log: input + '/log' })", dir);
  const runs = () => fs.readFileSync(path.join(dir, "log"), "utf8").trim().split("\n").length;

  it("is compiled once, the generated SDK first", () => {
    checkout();
    expect(ready()).toBe(false);
    build();
    expect(ready()).toBe(true);
    build();
    expect(runs()).toBe(2);
  });

  it("has the SDK's package.json beside its code, where the SDK reads its version, and gets it back", () => {
    checkout();
    build();
    const copy = path.join(dir, "sdks/libvirt/bin/package.json");
    expect(fs.readFileSync(copy, "utf8")).toBe('{"version":"1.2.3"}');
    fs.rmSync(copy);
    expect(ready()).toBe(false);
    build();
    expect(fs.existsSync(copy)).toBe(true);
  });

  it("is compiled again after an edit, and after a loss of its output", () => {
    checkout();
    build();
    plant(dir, { "components/a.ts": "// edited" });
    expect(ready()).toBe(false);
    build();
    expect(runs()).toBe(3);
    fs.rmSync(path.join(dir, "bin/components/a.js"));
    expect(ready()).toBe(false);
    build();
    expect(ready()).toBe(true);
    expect(runs()).toBe(4);
  });

  it("is not taken for compiled when the compiler failed", () => {
    checkout();
    plant(dir, { "node_modules/typescript/bin/tsc": "process.exit(2)" });
    expect(() => build()).toThrow("failed (exit code 2)");
    expect(ready()).toBe(false);
  });
});
