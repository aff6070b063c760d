import { createHash } from "node:crypto";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { LocalWorkspace } from "@pulumi/pulumi/automation";
import { FlakeImage } from "../../components/FlakeImage";

const root = path.resolve(__dirname, "../..");
const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm flake engine "));
afterAll(() => fs.rmSync(dir, { recursive: true, force: true }));
jest.setTimeout(120_000);

/** Where Pulumi looks for the plugin that is only there as an official download. */
const plugin = (() => {
  const folder = path.join(process.env.PULUMI_HOME ?? path.join(root, ".nixvm/pulumi"), "plugins");
  return fs.existsSync(folder) && fs.readdirSync(folder).some((name) => /^resource-command-v[\d.]+$/.test(name));
})();

test("an image of a flake is built by the engine, or the missing command plugin is said in one line that names it", async () => {
  const bin = path.join(dir, "bin");
  const out = path.join(dir, "out");
  for (const folder of [bin, out, path.join(dir, "state"), path.join(dir, "work")]) fs.mkdirSync(folder);
  fs.writeFileSync(path.join(out, "core.qcow2"), "image");
  fs.writeFileSync(path.join(bin, "nix"), `#!/bin/sh\necho '${out}'\n`, { mode: 0o755 });
  const program = (): Promise<Record<string, unknown>> => {
    const args = { flake: "github:owner/repo#core", inputs: "1", link: path.join(dir, "result") };
    return Promise.resolve({ digest: new FlakeImage("core", args).digest });
  };
  const stack = await LocalWorkspace.createOrSelectStack(
    { stackName: "images", projectName: "flake-image", program },
    {
      workDir: path.join(dir, "work"),
      projectSettings: {
        name: "flake-image",
        runtime: "nodejs",
      },
      envVars: {
        PATH: [bin, path.join(root, ".nixvm", "bin"), process.env.PATH].join(path.delimiter),
        // Not that of the user, where a run that did not end well would be looked after before each other one.
        PULUMI_BACKEND_URL: `file://${path.join(dir, "state")}`,
        PULUMI_CONFIG_PASSPHRASE: "test",
        PULUMI_SKIP_UPDATE_CHECK: "true",
        PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION: "true",
        PULUMI_DISABLE_REGISTRY_RESOLVE: "true",
        PULUMI_AUTOMATION_API_SKIP_VERSION_CHECK: "true",
      },
    },
  );
  if (plugin) {
    const { outputs } = await stack.up();
    expect(outputs.digest?.value).toBe(createHash("sha256").update("image").digest("hex"));
    return;
  }
  console.warn(
    "NOT SHOWN HERE: a build through the command plugin, which is not installed (an official download only)",
  );
  const error: Error = await stack.up().then(
    () => new Error("went well without a plugin"),
    (failed: Error) => failed,
  );
  const lines = error.message.split("\n").filter((line) => /plugin/.test(line) && /command/.test(line));
  expect(lines.length).toBeGreaterThan(0);
  expect(lines[0]).toMatch(/pulumi-resource-command|plugin install resource command|resource plugin.*command/);
});
