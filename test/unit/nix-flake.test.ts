import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { evaluate, factsOf, nix, nixpkgs, nixpkgsLib, notEvaluated, onStandIns, preservation } from "./nix-support";

const read = (name: string): string => readFileSync(path.join(nix, name), "utf8");
const profiles = readdirSync(path.join(nix, "profiles")).map((name) => path.parse(name).name);

describe("the lock file", () => {
  interface Node {
    inputs?: Record<string, string | string[]>;
    locked?: Record<string, string | number>;
    original?: Record<string, string>;
  }
  const lock = JSON.parse(read("flake.lock")) as { nodes: Record<string, Node>; root: string; version: number };
  const inputs = Object.fromEntries(
    [...read("flake.nix").matchAll(/^ {2}inputs\.([\w-]+)\.url = "github:([^/"]+)\/([^/"]+)(?:\/([^"]+))?";$/gm)].map(
      ([, name, owner, repo, ref]) => [name!, { owner, repo, ...(ref === undefined ? {} : { ref }), type: "github" }],
    ),
  );

  test("has the inputs of the flake, and no other", () => {
    expect(Object.keys(inputs)).toEqual(["nixpkgs", "preservation"]);
    expect([lock.version, lock.root]).toEqual([7, "root"]);
    expect(lock.nodes["root"]).toEqual({ inputs: { nixpkgs: "nixpkgs", preservation: "preservation" } });
    expect(Object.keys(lock.nodes).sort()).toEqual(["nixpkgs", "preservation", "root"]);
  });

  test("has each of them once, as Nix writes it (V-11)", () => {
    for (const [name, original] of Object.entries(inputs)) {
      const { locked, original: wanted } = lock.nodes[name]!;
      expect(wanted).toEqual(original);
      expect(locked).toEqual({
        lastModified: expect.any(Number),
        narHash: expect.stringMatching(/^sha256-[A-Za-z0-9+/]{43}=$/),
        owner: original.owner,
        repo: original.repo,
        rev: expect.stringMatching(/^[0-9a-f]{40}$/),
        type: "github",
      });
    }
    expect(`${JSON.stringify(lock, null, 2)}\n`).toBe(read("flake.lock"));
  });

  test("is of the release whose state the profiles keep", () => {
    const [, release] = /stateVersion = "([\d.]+)"/.exec(read("profiles/base.nix"))!;
    expect(inputs["nixpkgs"]!.ref).toBe(`nixos-${release}`);
    expect(read("templates/workbench/flake.nix")).toContain(`home-manager/release-${release}"`);
  });
});

if (nixpkgs || nixpkgsLib) {
  describe("the flake", () => {
    /** Its outputs, with nixpkgs' lib and what is built as names. */
    const outputs = (dir: string): Record<string, Record<string, unknown>> =>
      evaluate(`${onStandIns([preservation])}
        let
          flake = import (${JSON.stringify(dir)} + "/flake.nix");
          nixosSystem = { modules }: { config.system.build = { nixvmImage = "image"; nixvmRaw = "raw"; toplevel.drvPath = "drv"; }; };
          self = flake.outputs {
            inherit self;
            nixpkgs = { lib = lib // { inherit nixosSystem; }; legacyPackages.x86_64-linux.writeText = name: text: name; };
            preservation.nixosModules.preservation = { };
          };
          names = builtins.mapAttrs (_: value: builtins.attrNames value);
        in
        {
          packages = self.packages.x86_64-linux;
          checks = self.checks.x86_64-linux;
          modules = builtins.mapAttrs (_: _: true) self.nixosModules;
          templates = builtins.mapAttrs (_: template: toString template.path) self.templates;
        }`);

    test("has an image for each profile, of zvm the raw one too, and all modules", () => {
      const found = outputs(nix);
      expect(Object.keys(found["packages"]!).sort()).toEqual([...profiles, "default", "zvm-raw"].sort());
      expect(found["packages"]).toMatchObject({ zvm: "image", "zvm-raw": "raw" });
      expect(Object.keys(found["checks"]!).sort()).toEqual([...profiles].sort());
      expect(Object.keys(found["modules"]!)).toEqual(
        expect.arrayContaining(["default", "ephemeral", "hardening", "netbird", "updates", "user", "profile-core"]),
      );
      for (const [name, dir] of Object.entries(found["templates"]!))
        expect([name, readdirSync(String(dir))]).toEqual([name, expect.arrayContaining(["flake.nix"])]);
    });

    test("a file more in profiles/ is a profile more (T-87)", () => {
      const tmp = mkdtempSync(path.join(os.tmpdir(), "nixvm profiles "));
      try {
        cpSync(nix, tmp, { recursive: true });
        writeFileSync(path.join(tmp, "profiles/own.nix"), "{ imports = [ ./core.nix ]; }\n");
        expect(outputs(tmp)["packages"]).toMatchObject({ own: "image" });
        expect(Object.keys(outputs(tmp)["modules"]!)).toContain("profile-own");
        expect(factsOf(`(${JSON.stringify(tmp)} + "/profiles/own.nix")`).ssh.enable).toBe(true);
      } finally {
        rmSync(tmp, { recursive: true, force: true });
      }
    });
  });
} else {
  test("the flake is evaluated where NIXPKGS_LIB or NIXPKGS is set", notEvaluated);
}
