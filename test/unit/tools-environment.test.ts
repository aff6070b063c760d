import { spawnSync } from "node:child_process";
import fc from "fast-check";
import * as fs from "node:fs";
import * as path from "node:path";
import { evaluate, inNode, plant, root, scratch, thrown } from "./tools-support";

let dir: string;
beforeEach(() => {
  dir = scratch();
});
afterEach(() => {
  fs.rmSync(dir, { recursive: true, force: true });
});

describe("export lines", () => {
  it("give a POSIX shell back any value as it was", () => {
    const values = fc.sample(
      fc.string({ unit: "grapheme", maxLength: 40 }).map((text) => text.replaceAll("\0", "")),
      200,
    );
    values.push("it's", "a  b", "$(id)", "`id`", "back\\slash", "line\nbreak ", '"', "'", "*", "~");
    const env = Object.fromEntries(values.map((value, i) => [`V${i}`, value]));
    const lines = evaluate<string>("env", "m.exportLines(input)", { path: ["/a b", "/it's"], env });
    const print = `${lines}\nfor i in $(seq 0 ${values.length - 1}); do eval "printf '%s\\\\0' \\"\\$V$i\\""; done; printf %s "$PATH"`;
    const shell = spawnSync("sh", ["-c", print], { encoding: "utf8" });
    expect(shell.stderr).toBe("");
    expect(shell.stdout.split("\0")).toEqual([...values, `/a b:/it's:${process.env.PATH}`]);
  });
});

describe("the environment", () => {
  const ensure = () => inNode("env", "m.ensureHome(input); m.writeEnvironment(input)", dir);
  const read = (current: object) =>
    evaluate<{ env: Record<string, string>; notes: string[] }>("env", "m.readEnvironment(...input)", [dir, current]);

  it("keeps everything inside the checkout", () => {
    ensure();
    const { env } = read({});
    expect(env.PULUMI_HOME).toBe(path.join(dir, ".nixvm/pulumi"));
    expect(env.PULUMI_BACKEND_URL).toBe(`file://${path.join(dir, ".nixvm/state")}`);
    expect(env.PULUMI_CONFIG_PASSPHRASE_FILE).toBe(path.join(dir, ".nixvm/passphrase"));
    expect(env.PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION).toBeUndefined();
  });

  it("makes the passphrase once, for the owner only", () => {
    ensure();
    const file = path.join(dir, ".nixvm/passphrase");
    const first = fs.readFileSync(file, "utf8");
    ensure();
    expect(fs.readFileSync(file, "utf8")).toBe(first);
    expect(fs.statSync(file).mode & 0o777).toBe(0o600);
  });

  it.each([{ PULUMI_CONFIG_PASSPHRASE: "" }, { PULUMI_CONFIG_PASSPHRASE_FILE: "/x" }])(
    "leaves the choice of a passphrase alone: %p",
    (current) => {
      ensure();
      expect(read(current).env.PULUMI_CONFIG_PASSPHRASE_FILE).toBeUndefined();
    },
  );

  it("of a verb is what the user has set, as it is for pulumi by hand; tests and demo have their own", () => {
    ensure();
    const set = { PULUMI_BACKEND_URL: "s3://ours", PULUMI_CONFIG_PASSPHRASE: "", PATH: "/bin" };
    const of = (how: object) => evaluate<Record<string, string>>("env", "m.taskEnvironment(...input)", [dir, set, how]);
    expect(of({ chosen: true })).toMatchObject({ ...set, PATH: expect.stringMatching(/\/provider:\/bin$/) });
    expect(of({}).PULUMI_BACKEND_URL).toBe(`file://${path.join(dir, ".nixvm/state")}`);
  });

  it("fetches no plugin behind the user's back where they were built from source", () => {
    plant(dir, { ".nixvm/toolchain.json": '{"schema":1,"parts":{"pulumi":{"way":"source"}},"skipped":{}}' });
    ensure();
    expect(read({}).env.PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION).toBe("true");
  });

  it("remembers the host part, and says when its daemon is gone", () => {
    const uri = `qemu:///system?socket=${encodeURI(path.join(dir, "sock"))}`;
    inNode("env", "m.writeEnvironment(...input)", [dir, { LIBVIRT_DEFAULT_URI: uri }]);
    ensure();
    expect(read({}).env.LIBVIRT_DEFAULT_URI).toBe(uri);
    expect(read({}).notes.join()).toContain("not running");
    plant(dir, { sock: "" });
    expect(read({}).notes).toEqual([]);
  });

  it("is not taken from a checkout that was moved", () => {
    ensure();
    expect(evaluate("env", "m.environmentReady(input)", dir)).toBe(true);
    fs.cpSync(path.join(dir, ".nixvm"), path.join(dir, "moved/.nixvm"), { recursive: true });
    expect(evaluate("env", "m.environmentReady(input)", path.join(dir, "moved"))).toBe(false);
  });
});

describe("the entry", () => {
  const run = (args: string[], node: string[] = []) =>
    spawnSync(process.execPath, [...node, path.join(root, "tools/run.mjs"), ...args], { encoding: "utf8" });

  it("stops on an old Node with one line and exit code 2", () => {
    plant(dir, { "old.cjs": 'Object.defineProperty(process, "versions", { value: { node: "18.20.1" } });' });
    const { status, stderr } = run(["demo"], ["--require", path.join(dir, "old.cjs")]);
    expect(status).toBe(2);
    expect(stderr.trim().split("\n")).toHaveLength(1);
    expect(stderr).toContain("18.20.1");
  });

  it("names the tasks it knows", () => {
    const { status, stderr } = run(["dmeo"]);
    expect(status).toBe(2);
    expect(stderr).toContain('no task "dmeo"');
    expect(stderr).toContain("demo:down");
  });

  it("refuses options that set-up does not have", () => {
    const { status, stderr } = run(["setup", "--from-sources"]);
    expect(status).toBe(2);
    expect(stderr).toContain("--from-source, --official");
  });

  it("prints nothing on stdout before the checkout is set up", () => {
    fs.cpSync(path.join(root, "tools"), path.join(dir, "tools"), { recursive: true });
    const result = spawnSync(process.execPath, [path.join(dir, "tools/run.mjs"), "env"], { encoding: "utf8" });
    expect(result.status).toBe(2);
    expect(result.stdout).toBe("");
    expect(result.stderr).toContain("npm run setup");
    expect(fs.existsSync(path.join(dir, ".nixvm"))).toBe(false);
  });
});

describe("progress", () => {
  it("says nothing of a short step but that it is done, and how a failed one ended", () => {
    const body = `const p = m.progress();
      await p.step("short", async () => {});
      await p.step("wrong", async () => { throw new Error("x"); }).catch(() => {});`;
    const { stdout, stderr } = inNode("progress", body);
    expect(stdout).toBe("");
    expect(stderr).toBe("setup: short: done (0 s)\nsetup: wrong: failed (0 s)\n");
  });

  it("shows a step that takes longer than two seconds", () => {
    const wait = "await m.progress().step('long', () => new Promise((r) => setTimeout(r, 3200)));";
    expect(inNode("progress", wait).stderr).toBe("setup: long ...\nsetup: long: done (3 s)\n");
  });

  it("gives a failed command's last lines and where the rest is", () => {
    const log = path.join(dir, "log");
    const run = "await m.logged({ log: input }, 'sh', ['-c', 'seq 1 50; echo wrong >&2; exit 7'])";
    const { message } = thrown("exec", run, log);
    expect(message).toContain("exit code 7");
    expect(message).toContain("wrong");
    expect(message).not.toContain("    1\n");
    expect(message).toContain(log);
  });

  it("ends what a command left running, also in a group of its own", () => {
    const script = 'setsid sleep 300 & echo $! > "$0"; sleep 0.3';
    const pidFile = path.join(dir, "pid");
    const run = "await m.logged({ log: input[0], sweep: true }, 'sh', ['-c', input[1], input[2]])";
    const start = Date.now();
    expect(inNode("exec", run, [path.join(dir, "log"), script, pidFile]).stderr).toBe("");
    expect(Date.now() - start).toBeLessThan(20_000);
    const pid = fs.readFileSync(pidFile, "utf8").trim();
    const state = spawnSync("ps", ["-o", "stat=", "-p", pid], { encoding: "utf8" }).stdout.trim();
    // A process that nobody has collected yet is as good as ended.
    expect(["", "Z"]).toContain(state.slice(0, 1));
  });
});
