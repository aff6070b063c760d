import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import * as pulumi from "@pulumi/pulumi";
import { FlakeImage, type FlakeImageArgs } from "../../components/FlakeImage";
import { isSecret, plain, recordResources, type Registered, settled } from "../helpers/recorder";

const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm flake image "));
afterAll(() => fs.rmSync(dir, { recursive: true, force: true }));

const args: FlakeImageArgs = { flake: "./nix#core", inputs: "1".repeat(64), link: path.join(dir, "it's/result") };

async function register(more: Partial<FlakeImageArgs> = {}): Promise<Registered> {
  const seen = await recordResources();
  new FlakeImage("core", { ...args, ...more });
  await settled();
  return seen.get("core-build")!;
}

test("an image is built by one local command, and again when its inputs have another digest", async () => {
  const first = await register();
  expect(first.type).toBe("command:local:Command");
  expect(first.inputs.triggers).toEqual([args.inputs]);
  const second = await register({ inputs: "2".repeat(64) });
  expect({ ...second.inputs, triggers: 0 }).toEqual({ ...first.inputs, triggers: 0 });
  expect(second.inputs.triggers).toEqual(["2".repeat(64)]);
});

test("on a build host it is a remote command, whose key is a secret and in nothing else", async () => {
  const key = "-----BEGIN OPENSSH PRIVATE KEY-----";
  const made = await register({ buildHost: { host: "builder", user: "nix", port: 2200, privateKey: key } });
  expect(made.type).toBe("command:remote:Command");
  const { connection, ...rest } = made.inputs;
  const open = plain(connection) as Record<string, unknown>;
  expect({ ...open, privateKey: plain(open.privateKey) }).toMatchObject({
    host: "builder",
    user: "nix",
    port: 2200,
    privateKey: key,
  });
  expect(isSecret(connection) || isSecret(open.privateKey)).toBe(true);
  expect(JSON.stringify(rest)).not.toContain("PRIVATE KEY");
});

test("the command itself builds, links, and says what it has made", async () => {
  const { inputs } = await register();
  const bin = path.join(dir, "bin");
  const out = path.join(dir, "store out");
  for (const folder of [bin, out]) fs.mkdirSync(folder);
  fs.writeFileSync(path.join(out, "core.qcow2"), "image");
  fs.writeFileSync(path.join(bin, "nix"), `#!/bin/sh\nprintf '%s\\n' "$@" > '${dir}/asked'\necho '${out}'\n`, {
    mode: 0o755,
  });
  const run = (): string =>
    execFileSync("/bin/sh", ["-c", inputs.create as string], {
      encoding: "utf8",
      env: { PATH: `${bin}:${process.env.PATH}` },
      stdio: ["ignore", "pipe", "pipe"],
    });
  const digest = createHash("sha256").update("image").digest("hex");
  expect(run()).toBe(`${out}\n${path.join(out, "core.qcow2")}\n${digest}\n`);
  const asked = fs.readFileSync(path.join(dir, "asked"), "utf8").trim().split("\n");
  expect(asked.slice(-2)).toEqual([args.link, args.flake]);
  fs.rmSync(path.join(out, "core.qcow2"));
  expect(run).toThrow(/has no disk image/);
});

test("what was built are its outputs", async () => {
  await recordResources();
  const { file, storePath, digest } = new FlakeImage("core", args);
  const said = await new Promise((resolve) => pulumi.all([file, storePath, digest]).apply(resolve));
  expect(said).toEqual(["/nix/store/x/core.qcow2", "/nix/store/x", "a".repeat(64)]);
});

test("no program of a fleet needs the plugin: only this component imports it", () => {
  const root = path.resolve(__dirname, "../..");
  const users = ["components", "cli", "cli/verbs", "provider"].flatMap((folder) =>
    fs
      .readdirSync(path.join(root, folder))
      .filter((name) => name.endsWith(".ts"))
      .filter((name) =>
        /@pulumi\/command|\.\/FlakeImage"/.test(fs.readFileSync(path.join(root, folder, name), "utf8")),
      ),
  );
  expect(users).toEqual(["FlakeImage.ts"]);
  expect(fs.readFileSync(path.join(root, "index.ts"), "utf8")).not.toMatch(/FlakeImage|@pulumi\/command/);
});
