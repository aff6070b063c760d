import { execFileSync } from "node:child_process";
import { chownSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const TOOLS = pathToFileURL(join(__dirname, "..", "..", "tools")).href;

/** Evaluates an expression over a tools module (`m`) in a Node of its own: jest's CommonJS cannot load ES modules. */
function evaluate<T>(module: string, expression: string, input: unknown = null): T {
  const code = `import * as m from ${JSON.stringify(`${TOOLS}/${module}`)};
    const input = ${JSON.stringify(input)};
    console.log(JSON.stringify({ value: await (${expression}) }));`;
  const out = execFileSync(process.execPath, ["--input-type=module", "-e", code], { encoding: "utf8" });
  return (JSON.parse(out) as { value: T }).value;
}

describe("private libvirtd", () => {
  let dir: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "nixvm host "));
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  interface Paths {
    socket: string;
    uri: string;
    runDir: string;
    configLink: string;
    console: string;
    images: string;
    hash: string;
  }
  /** Paths of several cases at once: each Node costs a tenth of a second. */
  const pathsOf = (...cases: { root: string; uid: number; env?: object }[]): Paths[] =>
    evaluate("host-paths.mjs", "input.map((c) => m.hostPaths(c.root, { uid: c.uid, env: c.env ?? {} }))", cases);

  test("socket path is short whatever the checkout's path is", () => {
    const deep = join(dir, "a folder with spaces ".repeat(5).trim(), "x".repeat(120));
    mkdirSync(deep, { recursive: true });
    const [root, user] = pathsOf({ root: deep, uid: 0 }, { root: deep, uid: 4_294_967_294 }) as [Paths, Paths];
    expect(root.socket).toMatch(/^\/run\/nixvm-[0-9a-f]{8}\/libvirt\/libvirt-sock$/);
    expect(root.uri).toBe(`qemu:///system?socket=${root.socket}`);
    expect(root.console).toBe(join(deep, ".nixvm/libvirt/console"));
    expect(user.uri).toBe(`qemu:///session?socket=${user.socket}`);
    expect(Buffer.byteLength(user.socket)).toBeLessThan(64);
  });

  test("a login session's folder is used when it is the user's own and short", () => {
    const uid = process.getuid!() || 4242;
    const cases = [{ XDG_RUNTIME_DIR: "/" }, { XDG_RUNTIME_DIR: `/${"x".repeat(60)}` }, {}].map((env) => ({
      root: dir,
      uid: 4242,
      env,
    }));
    const root = { root: dir, uid: 0, env: { XDG_RUNTIME_DIR: dir } };
    for (const of of pathsOf(...cases)) {
      expect(of.runDir).toMatch(/^\/tmp\/nixvm-4242\/nixvm-/);
      expect(of.configLink.length).toBeLessThanOrEqual(24);
    }
    const short = mkdtempSync("/tmp/xdg");
    chownSync(short, uid, process.getgid!());
    const [asRoot, asUser] = pathsOf(root, { root: dir, uid, env: { XDG_RUNTIME_DIR: short } }) as [Paths, Paths];
    rmSync(short, { recursive: true });
    expect(asRoot.runDir).toMatch(/^\/run\/nixvm-/);
    expect(asUser.runDir).toBe(`${short}/nixvm-${asUser.hash}`);
  });

  test("two names of one checkout mean the same libvirtd, two checkouts do not", () => {
    const real = join(dir, "real");
    const other = join(dir, "other");
    mkdirSync(real);
    mkdirSync(other);
    symlinkSync(real, join(dir, "link"));
    const hashes = pathsOf(...["link", "real", "other"].map((name) => ({ root: join(dir, name), uid: 0 }))).map(
      (of) => of.hash,
    );
    expect(hashes[0]).toBe(hashes[1]);
    expect(hashes[2]).not.toBe(hashes[1]);
  });

  test("a URI of an embedded libvirtd is told from one the user chose", () => {
    const [own] = pathsOf({ root: dir, uid: 0 }) as [Paths];
    const uris = [
      own.uri,
      "qemu:///system",
      "qemu:///system?socket=/run/mine/libvirt-sock",
      "qemu+ssh://root@host/system",
    ];
    expect(evaluate("host-paths.mjs", "input.map((uri) => m.embeddedHashOf(uri) ?? null)", uris)).toEqual([
      own.hash,
      null,
      null,
      null,
    ]);
  });

  test("configuration keeps QEMU and libvirtd at the same user, without other daemons or polkit", () => {
    const [system, session, daemon] = evaluate<[string, string, string]>(
      "host-config.mjs",
      '[m.qemuConf("system"), m.qemuConf("session"), m.libvirtdConf()]',
    );
    const wanted = [
      'user = "root"',
      'group = "root"',
      'security_driver = "none"',
      "remember_owner = 0",
      'stdio_handler = "file"',
    ];
    for (const line of wanted) expect(system.split("\n")).toContain(line);
    expect(session).not.toMatch(/^user/m);
    expect(daemon).toContain('auth_unix_rw = "none"');
    expect(daemon).toContain('unix_sock_rw_perms = "0700"');
  });

  test("folders with spaces and quotes reach the daemon as arguments, never as shell text", () => {
    const root = join(dir, `it's "a" $(test)`);
    mkdirSync(root);
    const command: string[] = evaluate(
      "host-config.mjs",
      `m.daemonCommand((await import("${TOOLS}/host-paths.mjs")).hostPaths(input, { uid: 0, env: {} }), "/usr/sbin/libvirtd")`,
      root,
    );
    expect(command[0]).toBe("unshare");
    expect(command).toContain(join(root, ".nixvm/libvirt/etc"));
    expect(command.find((argument) => argument.includes("mount --bind"))).not.toContain(root);
  });

  test("environment of the daemon marks the checkout and holds nothing secret of the caller's", () => {
    const env: Record<string, string> = evaluate(
      "host-config.mjs",
      `m.daemonEnv((await import("${TOOLS}/host-paths.mjs")).hostPaths(input, { uid: 4242, env: {} }), { HOME: "/h", PULUMI_CONFIG_PASSPHRASE: "x" })`,
      dir,
    );
    expect(env).toMatchObject({ HOME: "/h", NIXVM_LIBVIRT_ROOT: dir });
    expect(env).not.toHaveProperty("PULUMI_CONFIG_PASSPHRASE");
    expect(env["XDG_CONFIG_HOME"]).toMatch(/^\/tmp\/nixvm-4242\/n[0-9a-f]{7}$/);
  });

  test("a process is the same only with the same start time and boot", () => {
    const expression = `(() => { const own = m.identify(input); return [
      m.isAlive(own), m.isAlive({ ...own, startTime: own.startTime - 1 }), m.isAlive({ ...own, bootId: "other" }), m.isAlive(undefined) ]; })()`;
    expect(evaluate("host-process.mjs", expression, process.pid)).toEqual([true, false, false, false]);
  });

  test("a recycled process id is never signalled", () => {
    const expression = `m.signal({ ...m.identify(input), startTime: 1 }, "SIGKILL")`;
    expect(evaluate("host-process.mjs", expression, process.pid)).toBe(false);
  });

  test("a command name with parentheses and spaces does not shift the fields; zombies count as gone", () => {
    const proc = (state: string): string => {
      const at = join(dir, `proc-${state}`);
      mkdirSync(join(at, "77"), { recursive: true });
      mkdirSync(join(at, "sys/kernel/random"), { recursive: true });
      writeFileSync(join(at, "sys/kernel/random/boot_id"), "boot\n");
      writeFileSync(
        join(at, "77/stat"),
        `77 (a) b (c) ${state} ${Array.from({ length: 40 }, (_, i) => i + 4).join(" ")}\n`,
      );
      return at;
    };
    expect(evaluate("host-process.mjs", "m.identify(77, input)", proc("S"))).toEqual({
      pid: 77,
      startTime: 22,
      bootId: "boot",
    });
    const alive = `m.isAlive({ pid: 77, startTime: 22, bootId: "boot" }, input)`;
    expect(evaluate("host-process.mjs", alive, proc("S"))).toBe(true);
    expect(evaluate("host-process.mjs", alive, proc("Z"))).toBe(false);
  });

  test("a copied record of another checkout's daemon is not taken for ours", () => {
    const expression = `(async () => { const { hostPaths } = await import("${TOOLS}/host-paths.mjs");
      const p = await import("${TOOLS}/host-process.mjs"); const { mkdirSync, writeFileSync } = await import("node:fs");
      const paths = hostPaths(input.dir, { uid: 4242, env: {} }); mkdirSync(paths.home, { recursive: true });
      const found = (root) => { writeFileSync(paths.record, JSON.stringify({ ...p.identify(input.pid), root })); return m.findDaemon(paths)?.pid ?? null; };
      return [found(paths.root), found("/elsewhere")]; })()`;
    expect(evaluate("host-embedded.mjs", expression, { dir, pid: process.pid })).toEqual([process.pid, null]);
  });

  test("a lock is held against the living and taken over from the dead", () => {
    const expression = `(async () => { const { writeFileSync, existsSync } = await import("node:fs");
      writeFileSync(input.file, JSON.stringify({ ...m.identify(input.pid), startTime: 1 }));
      const dead = await m.withLock(input.file, 100, async () => "taken");
      writeFileSync(input.file, JSON.stringify(m.identify(input.pid)));
      const living = await m.withLock(input.file, 100, async () => "taken").catch((error) => error.message);
      return { dead, living, kept: existsSync(input.file) }; })()`;
    const file = join(dir, "a lock");
    expect(evaluate("host-process.mjs", expression, { file, pid: process.pid })).toEqual({
      dead: "taken",
      living: expect.stringContaining(`held by process ${process.pid}`),
      kept: true,
    });
  });

  test("a libvirt named by the user that does not answer is an error with its name", () => {
    const expression = `m.ensureHost({ root: input, env: { ...process.env, LIBVIRT_DEFAULT_URI: "qemu:///system?socket=/nowhere/sock" } }).catch((e) => e.message)`;
    expect(evaluate("libvirtd.mjs", expression, dir)).toMatch(
      /^LIBVIRT_DEFAULT_URI=qemu:\/\/\/system\?socket=\/nowhere\/sock does not answer|virsh is not installed/,
    );
  });
});
