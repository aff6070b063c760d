import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";

// The tool chain as a user gets it by `eval "$(npm run -s env)"`: CLI, language host and random plugin together.
const root = path.resolve(__dirname, "../..");
const PROGRAM = `
const pulumi = require("@pulumi/pulumi");
const random = require("@pulumi/random");
const config = new pulumi.Config();
process.stderr.write("limit " + Error.stackTraceLimit + "\\n");
if (config.get("mode") === "fail") throw new Error("told to fail");
if (config.get("mode") === "exit") process.exit(3);
if (config.get("mode") === "hang") { require("fs").writeFileSync("pid", String(process.pid)); setInterval(() => {}, 1000); }
const keepers = { a: config.get("keeper") ?? "1" };
const bytes = new random.RandomBytes("bytes", { length: 8, keepers });
module.exports = {
  id: new random.RandomId("id", { byteLength: 4, keepers }).hex,
  uuid: new random.RandomUuid("uuid", { keepers }).result,
  password: new random.RandomPassword("password", { length: 12 }).result,
  string: new random.RandomString("string", { length: 6, special: false, upper: false }).result,
  integer: new random.RandomInteger("integer", { min: 7, max: 7 }).result,
  pet: new random.RandomPet("pet", { length: 3 }).id,
  shuffle: new random.RandomShuffle("shuffle", { inputs: ["a", "b"] }).results,
  bytes: bytes.base64,
  bytesId: bytes.id,
  secret: config.requireSecret("token"),
  project: pulumi.getProject() + "/" + pulumi.getStack(),
  dry: pulumi.runtime.isDryRun(),
};`;

let dir: string;
let environment: NodeJS.ProcessEnv;

function shell(script: string) {
  const result = spawnSync("sh", ["-c", script], { cwd: dir, encoding: "utf8", env: environment });
  return { status: result.status, output: `${result.stdout}${result.stderr}`, stdout: result.stdout };
}

beforeAll(() => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm host "));
  const exports = spawnSync(process.execPath, [path.join(root, "tools/run.mjs"), "env"], { encoding: "utf8" });
  if (exports.status !== 0) throw new Error(exports.stderr);
  const print = `${exports.stdout}\nexec "$NODE" -e 'console.log(JSON.stringify(process.env))'`;
  const env = { ...process.env, NODE: process.execPath };
  environment = {
    ...(JSON.parse(spawnSync("sh", ["-c", print], { encoding: "utf8", env }).stdout) as NodeJS.ProcessEnv),
    PULUMI_BACKEND_URL: `file://${dir}/state`,
    PULUMI_CONFIG_PASSPHRASE: "test",
  };
  fs.mkdirSync(path.join(dir, "state"));
  fs.symlinkSync(path.join(root, "node_modules"), path.join(dir, "node_modules"));
  fs.writeFileSync(path.join(dir, "package.json"), '{"name":"smoke","main":"program.js","dependencies":{}}');
  fs.writeFileSync(path.join(dir, "program.js"), PROGRAM);
  const options = '{ typescript: false, nodeargs: "--stack-trace-limit=7" }';
  fs.writeFileSync(path.join(dir, "Pulumi.yaml"), `name: smoke\nruntime: { name: nodejs, options: ${options} }\n`);
  const init = shell("pulumi stack init dev && pulumi config set --secret token 'p@ss word'");
  if (init.status !== 0) throw new Error(init.output);
}, 60_000);

afterAll(() => fs.rmSync(dir, { recursive: true, force: true }));

const outputs = () =>
  JSON.parse(shell("pulumi stack output --json --show-secrets").stdout) as Record<string, string | string[] | number>;

it("runs a program with every random resource, its config, secrets and Node options", () => {
  const up = shell("pulumi up --yes");
  expect(up.output).toContain("limit 7");
  expect({ status: up.status, output: up.output }).toMatchObject({ status: 0 });
  const values = outputs();
  expect(values).toMatchObject({ integer: 7, secret: "p@ss word", project: "smoke/dev", dry: false });
  expect(values.id).toMatch(/^[0-9a-f]{8}$/);
  expect(values.uuid).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
  expect(values.string).toMatch(/^[0-9a-z]{6}$/);
  expect(values.password).toHaveLength(12);
  expect(values.pet).toMatch(/^\w+-\w+-\w+$/);
  expect(values.shuffle).toHaveLength(2);
}, 60_000);

it("keeps secret values out of the state, also as ids", () => {
  const { password, bytes, bytesId } = outputs();
  expect(bytesId).toBe("none");
  const state = shell("pulumi stack export").stdout;
  expect(state).not.toContain(password);
  expect(state).not.toContain(bytes);
}, 60_000);

it("plans nothing for an unchanged program, and replaces by keepers only what has them", () => {
  const same = shell("pulumi preview --expect-no-changes --refresh");
  expect({ status: same.status, output: same.output }).toMatchObject({ status: 0 });
  const before = outputs();
  shell("pulumi config set keeper 2 && pulumi up --yes --skip-preview");
  const after = outputs();
  expect(after.id).not.toBe(before.id);
  expect(after.password).toBe(before.password);
}, 90_000);

it("reports an exception once, and a plain exit code as one", () => {
  const failed = shell("pulumi config set mode fail && pulumi preview --diff");
  expect(failed.status).not.toBe(0);
  expect(failed.output.split("told to fail").length - 1).toBe(1);
  // Exit code 32 of the runner means "said already": the host must not add its own line.
  expect(failed.output).not.toContain("non-zero exit code");
  const exited = shell("pulumi config set mode exit && pulumi preview");
  expect(exited.status).not.toBe(0);
  expect(exited.output).toContain("exit code: 3");
}, 60_000);

describe("a program that never ends", () => {
  const alive = (pid: number) => {
    try {
      process.kill(pid, 0);
      return true;
    } catch {
      return false;
    }
  };
  const until = async (what: string, done: () => boolean) => {
    for (const limit = Date.now() + 30_000; !done();) {
      if (Date.now() > limit) throw new Error(`waited 30 s for ${what}`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  };
  async function hanging(): Promise<{ engine: ChildProcess; program: number }> {
    const file = path.join(dir, "pid");
    fs.rmSync(file, { force: true });
    const engine = spawn("pulumi", ["preview"], { cwd: dir, env: environment, stdio: "ignore" });
    await until("the program to start", () => fs.existsSync(file) && fs.readFileSync(file, "utf8") !== "");
    return { engine, program: Number(fs.readFileSync(file, "utf8")) };
  }
  beforeAll(() => shell("pulumi config set mode hang"));

  it.each(["SIGINT", "SIGKILL"] as const)(
    "ends when its engine gets %s",
    async (signal) => {
      const { engine, program } = await hanging();
      engine.kill(signal);
      await until("the program to end", () => !alive(program));
      await until("the engine to end", () => engine.exitCode !== null || engine.signalCode !== null);
    },
    90_000,
  );
});
