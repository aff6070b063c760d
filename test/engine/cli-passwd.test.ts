import { spawn, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { CliProject } from "../helpers/cliProject";
import { ROOT } from "../helpers/liveStack";

// The verb as it is built, Pulumi's own encryption, and a terminal: what is proven here is that a password leaves no trace.
jest.setTimeout(120_000);

const PASSWORD = "correct horse battery staple";
const FLEET = `  nixvm:images:
    os: { path: os.qcow2 } # none is read
  nixvm:defaults: { image: os }
  # the fleet
  nixvm:fleet:
    web: # the web server
      memory: 1GiB
    roamer: { preset: zvm }
`;

let project: CliProject;
beforeEach(async () => {
  project = await CliProject.make("passwd", () => ({}));
  const salt = fs.readFileSync(project.stackFile, "utf8");
  fs.writeFileSync(
    project.stackFile,
    `encryptionsalt: ${(JSON.parse(salt) as { encryptionsalt: string }).encryptionsalt}\nconfig:\n${FLEET}`,
  );
});
afterEach(() => fs.rmSync(project.dir, { recursive: true, force: true }));

const verb = path.join(ROOT, "bin", "cli", "nixvm.js");
const text = (): string => fs.readFileSync(project.stackFile, "utf8");

/** What Pulumi reads there. */
async function clear(key: string): Promise<string> {
  const { stdout } = await project.pulumi("config", "get", "--path", `nixvm:fleet.${key}`);
  return stdout.trim();
}

/** Types answers to questions, each when it is asked, on a terminal; gives what the terminal showed. */
function onTerminal(args: string[], answers: readonly [RegExp, string][]): Promise<{ code: number; shown: string }> {
  const command = ["node", verb, ...args].map((word) => `'${word}'`).join(" ");
  const env = (project as unknown as { env: NodeJS.ProcessEnv }).env;
  const child = spawn("script", ["-qec", command, "/dev/null"], {
    cwd: project.dir,
    env,
    stdio: ["pipe", "pipe", "inherit"],
  });
  const left = [...answers];
  let shown = "";
  let seen = 0;
  child.stdout.setEncoding("utf8").on("data", (part: string) => {
    shown += part;
    const [next] = left;
    if (next?.[0].test(shown.slice(seen))) {
      seen = shown.length;
      left.shift();
      child.stdin.write(`${next[1]}\r`);
    }
  });
  return new Promise((resolve) => child.on("close", (code) => resolve({ code: code ?? 1, shown })));
}

function withInput(args: string[], input: string) {
  const env = (project as unknown as { env: NodeJS.ProcessEnv }).env;
  return spawnSync("node", [verb, ...args], { cwd: project.dir, env, input, encoding: "utf8" });
}

test("a password is asked for twice without echo, and stands in the stack file as a secret, comments kept (T-113, Z-77)", async () => {
  const before = text();
  const ended = await onTerminal(
    ["passwd", "web"],
    [
      [/Password for root of web/, PASSWORD],
      [/Once more/, PASSWORD],
    ],
  );
  expect(ended).toMatchObject({ code: 0, shown: expect.stringContaining("the password of root of web is set") });
  expect(ended.shown).not.toContain(PASSWORD);
  expect(text().replace(/\n {6}rootPasswordHash:\n {8}secure: v1:\S+/, "")).toBe(before);
  const hash = await clear("web.rootPasswordHash");
  expect(hash).toMatch(/^\$y\$/);
  const perl = "chomp(my ($hash, $password) = <STDIN>); print crypt($password, $hash)";
  expect(spawnSync("perl", ["-e", perl], { input: `${hash}\n${PASSWORD}\n`, encoding: "utf8" }).stdout).toBe(hash);
  const blank = await onTerminal(["passwd", "web"], [[/Password for root of web/, ""]]);
  expect(blank).toMatchObject({ code: 0, shown: expect.stringContaining("is disabled") });
  expect(await clear("web.rootPasswordHash")).toBe("");
});

test("two different answers change nothing (T-113)", async () => {
  const before = text();
  const ended = await onTerminal(
    ["passwd", "web"],
    [
      [/Password for root of web/, PASSWORD],
      [/Once more/, `${PASSWORD}.`],
    ],
  );
  expect(ended).toMatchObject({ code: 2, shown: expect.stringContaining("is not the same twice") });
  expect(text()).toBe(before);
});

test("without a terminal it is read from stdin; a hash can be given; nothing of it is left in files (T-25, V-24)", async () => {
  fs.chmodSync(project.stackFile, 0o600);
  const set = withInput(["passwd", "roamer", "--account", "zvm", "--json"], `${PASSWORD}\n`);
  expect(set).toMatchObject({ status: 0, stdout: '{"vm":"roamer","account":"zvm","password":"set"}\n' });
  expect(fs.statSync(project.stackFile).mode & 0o777).toBe(0o600);
  const hash = await clear("roamer.accounts[0].passwordHash");
  expect(hash).toMatch(/^\$6\$/);
  expect(withInput(["passwd", "web", "--hash-stdin"], `${hash}\n`).status).toBe(0);
  expect(await clear("web.rootPasswordHash")).toBe(hash);
  expect(text()).toContain("# the web server");
  const files = spawnSync("grep", ["-rlF", "--exclude-dir=node_modules", "-e", hash, "-e", PASSWORD, project.dir], {
    encoding: "utf8",
  });
  expect(files.stdout).toBe("");
  expect(set.stdout + set.stderr).not.toContain(PASSWORD);
  expect(set.stdout + set.stderr).not.toContain(hash);
});

test("what is no hash is refused without showing it, and an account that is not there names those that are", () => {
  const before = text();
  const bad = withInput(["passwd", "web", "--hash-stdin"], "plain-words\n");
  expect(bad.status).toBe(2);
  expect(bad.stderr).toContain("fleet.web.rootPasswordHash: [secret] is not a password hash");
  expect(bad.stderr).not.toContain("plain-words");
  const nobody = withInput(["passwd", "web", "--account", "ann"], "x\n");
  expect(nobody).toMatchObject({ status: 2, stderr: expect.stringContaining("allowed: root, admin, user") });
  expect(text()).toBe(before);
});
