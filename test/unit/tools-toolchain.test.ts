import * as fs from "node:fs";
import * as path from "node:path";
import { pathToFileURL } from "node:url";
import { evaluate, inNode, plant, root, scratch, thrown } from "./tools-support";

interface Part {
  name: string;
  version: string;
  file: string;
  onlyFromSource?: boolean;
  optional?: boolean;
}

const parts = evaluate<Part[]>("parts", "m.PARTS");
let dir: string;
beforeEach(() => {
  dir = scratch();
});
afterEach(() => {
  fs.rmSync(dir, { recursive: true, force: true });
});

/** A checkout whose parts were all installed from official downloads, as far as its record goes. */
function installed(): void {
  const official = parts.filter((part) => !part.onlyFromSource);
  plant(path.join(dir, ".nixvm"), Object.fromEntries(official.map((part) => [part.file, `binary of ${part.name}`])));
  const body = `import { fingerprint } from ${JSON.stringify(pathToFileURL(path.join(root, "tools/files.mjs")).href)};
    import { writeFileSync } from "node:fs";
    const parts = Object.fromEntries(input.official.map((part) => [part.name, {
      way: "official", version: part.version, files: [fingerprint(input.dir + "/.nixvm", part.file)] }]));
    writeFileSync(input.dir + "/.nixvm/toolchain.json", JSON.stringify({ schema: 1, parts, skipped: {} }));`;
  const { stderr } = inNode("parts", body, { official, dir });
  expect(stderr).toBe("");
}

const missing = (options: object = {}) =>
  evaluate<string[]>("toolchain", "m.missingParts(input[0], input[1]).map((part) => part.name)", [dir, options]);

describe("missing parts of the tool chain", () => {
  const all = parts.filter((part) => !part.onlyFromSource).map((part) => part.name);

  it("are all of them in a fresh clone", () => {
    expect(missing()).toEqual(all);
  });

  it("are none when all is as recorded", () => {
    installed();
    expect(missing()).toEqual([]);
    expect(missing({ thorough: true })).toEqual([]);
  });

  it.each(parts.filter((part) => !part.onlyFromSource).map((part) => [part.name, part.file]))(
    "are only %s when its file was cut off",
    (name, file) => {
      installed();
      fs.truncateSync(path.join(dir, ".nixvm", file), 3);
      expect(missing()).toEqual([name]);
    },
  );

  it("are all when the record is broken", () => {
    installed();
    fs.truncateSync(path.join(dir, ".nixvm/toolchain.json"), 40);
    expect(missing()).toEqual(all);
  });

  it("are those of another way when one way is asked for", () => {
    installed();
    expect(missing({ force: "official" })).toEqual([]);
    const source = parts.filter((part) => !part.optional).map((part) => part.name);
    expect(missing({ force: "source" })).toEqual(source);
  });

  it("do not include an optional part that was skipped, until the official way is asked for", () => {
    installed();
    const file = path.join(dir, ".nixvm/toolchain.json");
    const record = JSON.parse(fs.readFileSync(file, "utf8")) as { parts: object; skipped: object };
    Reflect.deleteProperty(record.parts, "command");
    fs.writeFileSync(file, JSON.stringify({ ...record, skipped: { command: "not reachable" } }));
    expect(missing()).toEqual([]);
    expect(missing({ force: "official" })).toEqual(["command"]);
  });
});

describe("a recipe", () => {
  it("changes with any file that a part is built from", () => {
    fs.cpSync(path.join(root, "tools/src"), path.join(dir, "tools/src"), { recursive: true });
    const recipe = () =>
      evaluate<string>("source", "m.recipe(input, { source: { dir: 'random', package: './cmd/plugin' } })", dir);
    const before = recipe();
    expect(recipe()).toBe(before);
    fs.appendFileSync(path.join(dir, "tools/src/random/info/info.go"), "\n");
    expect(recipe()).not.toBe(before);
  });
});

describe("pulumi on PATH", () => {
  const found = () =>
    evaluate<{ version: string } | null>("toolchain", "m.pulumiOnPath(...input)", [dir, path.join(dir, "path")]);
  const command = (version: string) => ({ "path/pulumi": `#!/bin/sh\necho v${version}\n` });
  const host = { "path/pulumi-language-nodejs": "#!/bin/sh\n" };

  it.each([
    ["3.226.0", "3.226.0"],
    ["3.300.1", "3.300.1"],
    ["3.225.9", undefined],
    ["4.0.0", undefined],
  ])("of version %s is taken as %s", (version, expected) => {
    plant(dir, { ...command(version), ...host }, 0o755);
    expect(found()?.version).toBe(expected);
  });

  it("is not taken without its language host", () => {
    plant(dir, command("3.250.0"), 0o755);
    expect(found()).toBeNull();
  });

  it("is not our own", () => {
    plant(dir, { ".nixvm/bin/pulumi": "#!/bin/sh\necho v3.250.0\n", ".nixvm/bin/pulumi-language-nodejs": "" }, 0o755);
    expect(evaluate("toolchain", "m.pulumiOnPath(...input)", [dir, path.join(dir, ".nixvm/bin")])).toBeNull();
  });
});

describe("the way from source", () => {
  const go = (text: string) => {
    plant(dir, { go: `#!/bin/sh\necho "go version ${text} linux/amd64"\n` }, 0o755);
    return thrown("source", "m.requireGo(input)", path.join(dir, "go"));
  };

  it.each(["go1.26.0", "go1.27rc1", "go2.0"])("takes %s", (version) => {
    expect(go(version).message).toBe("nothing was thrown");
  });

  it.each(["go1.25.9", "go1.9", "devel"])("refuses %s in one line that says what to do", (version) => {
    const { message, exitCode } = go(version);
    expect(exitCode).toBe(2);
    expect(message).toMatch(/^nixvm: .*install Go 1\.26 or newer/);
    expect(message).not.toContain("\n");
  });

  it("refuses to go on without Go", () => {
    const { message, exitCode } = thrown("source", "m.requireGo(null)");
    expect(exitCode).toBe(2);
    expect(message).toContain("Go is not installed");
  });

  it("lets no setting of the user change what is built, nor anything be written outside the checkout", () => {
    plant(dir, { go: "#!/bin/sh\necho /home/u/.config/go/env\n" }, 0o755);
    const user = {
      HOME: "/home/u",
      GOFLAGS: "-mod=mod",
      GOWORK: "/w",
      GOARCH: "arm",
      GOPROXY: "https://proxy.example",
    };
    const env = evaluate<Record<string, string>>("source", "m.goEnvironment(...input)", [
      dir,
      path.join(dir, "go"),
      user,
    ]);
    expect(env).toMatchObject({ GOWORK: "off", GOTOOLCHAIN: "local", GOPROXY: "https://proxy.example" });
    expect(env.GOFLAGS).toContain("-mod=readonly");
    expect(env.GOARCH).toBeUndefined();
    expect(env.GOENV).toBe("/home/u/.config/go/env");
    for (const key of ["GOPATH", "GOMODCACHE", "GOCACHE", "XDG_CONFIG_HOME"]) {
      expect(env[key]).toContain(path.join(dir, ".nixvm"));
    }
  });
});

describe("the probe", () => {
  it("asks all hosts at once, and is done within five seconds however silent they are", () => {
    const hosts = Object.fromEntries([1, 2, 3].map((i) => [`h${i}`, "http://127.0.0.1:PORT/"]));
    // A server that takes connections and never answers.
    const expression = `(async () => {
      const { createServer } = await import("node:net");
      const server = createServer(() => {});
      await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
      const hosts = Object.fromEntries(Object.entries(input).map(([k, u]) => [k, u.replace("PORT", server.address().port)]));
      const start = Date.now();
      const open = await m.probe(hosts);
      const ms = Date.now() - start;
      setTimeout(() => process.exit(), 50);
      return { open, ms };
    })()`;
    const { open, ms } = evaluate<{ open: object; ms: number }>("official", expression, hosts);
    expect(open).toEqual({ h1: false, h2: false, h3: false });
    expect(ms).toBeLessThan(5500);
  });
});
