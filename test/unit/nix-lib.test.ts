import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import os from "node:os";
import path from "node:path";

const nix = path.resolve(__dirname, "../../nix");
const guest = path.join(nix, "guest");

function evaluate<T>(expression: string): T {
  const full = `let lib = import ./modules/lib.nix; in ${expression}`;
  const args = ["--eval", "--strict", "--json", "-E", full];
  const run = spawnSync("nix-instantiate", args, { cwd: nix, encoding: "utf8" });
  if (run.error) throw new Error(`nix-instantiate cannot be run (${run.error.message}); the package is called nix-bin`);
  if (run.status !== 0) throw new Error(run.stderr);
  return JSON.parse(run.stdout) as T;
}

const filesOf = (dir: string): string[] =>
  readdirSync(dir, { withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => entry.name)
    .sort();

describe("scripts and units that the NixOS side installs", () => {
  let out: string;
  beforeAll(() => {
    out = mkdtempSync(path.join(os.tmpdir(), "nixvm nix "));
    // The build script of modules/guest.nix, run on the working copy instead of the copy that Nix would make in its store.
    const script = evaluate<string>(
      `lib.installGuest { source = ${JSON.stringify(guest)}; files = lib.guestFiles ./guest; }`,
    );
    execFileSync("sh", ["-eu", "-c", script], { env: { ...process.env, out } });
  });
  afterAll(() => rmSync(out, { recursive: true, force: true }));

  test("are all of nix/guest, and nothing else", () => {
    expect(evaluate(`lib.guestFiles ./guest`)).toEqual({
      scripts: filesOf(guest),
      units: filesOf(path.join(guest, "units")),
    });
    expect(filesOf(path.join(out, "lib/nixvm"))).toEqual(filesOf(guest));
    expect(filesOf(path.join(out, "lib/systemd/system"))).toEqual(filesOf(path.join(guest, "units")));
  });

  test("are the same bytes and as executable as in the repository", () => {
    for (const name of filesOf(guest)) {
      const copy = path.join(out, "lib/nixvm", name);
      expect(readFileSync(copy).equals(readFileSync(path.join(guest, name)))).toBe(true);
      expect([name, statSync(copy).mode & 0o111]).toEqual([name, statSync(path.join(guest, name)).mode & 0o111]);
    }
  });

  test("units differ only in the path of the scripts, which is one of the installed ones", () => {
    for (const name of filesOf(path.join(guest, "units"))) {
      const text = readFileSync(path.join(out, "lib/systemd/system", name), "utf8");
      const source = readFileSync(path.join(guest, "units", name), "utf8");
      expect(text).toBe(source.replaceAll("@guest@", `${out}/lib/nixvm`));
      const [, called] = /^ExecStart=@guest@\/(\S+)/m.exec(source)!;
      expect(filesOf(path.join(out, "lib/nixvm"))).toContain(called);
    }
  });
});

describe("demands on a configuration", () => {
  const good = { rootMode: "readonly", userborn: false, sysusers: false, etcOverlay: false, systemdInitrd: true };
  const refusals = (changes: Partial<Record<keyof typeof good, string | boolean>>): string[] => {
    const config = JSON.stringify(JSON.stringify({ ...good, ...changes }));
    return evaluate<{ assertion: boolean; message: string }[]>(`lib.demands (builtins.fromJSON ${config})`)
      .filter(({ assertion }) => !assertion)
      .map(({ message }) => message);
  };

  test("a guest of the contract meets them all", () => expect(refusals({})).toEqual([]));

  test.each(["tmpfs", "zfs-rollback", "persistent"])("root mode %s is refused by name of its option", (rootMode) => {
    expect(evaluate<string[]>("lib.knownRootModes")).toContain(rootMode);
    expect(refusals({ rootMode })).toEqual([
      `nixvm.rootMode is "${rootMode}", this release can build readonly; choose one of these, or a release that can build the other`,
    ]);
  });

  test("whatever else would write account files or /etc is refused, all at once", () => {
    expect(refusals({ userborn: true, sysusers: true, etcOverlay: true, systemdInitrd: false })).toEqual([
      "services.userborn.enable is true, allowed with nixvm.enable is false: account files come from the seed",
      "systemd.sysusers.enable is true, allowed with nixvm.enable is false: account files come from the seed",
      "system.etc.overlay.enable is true, allowed with nixvm.enable is false: /etc is part of the root, which is closed before the system starts",
      "boot.initrd.systemd.enable is false, allowed with nixvm.enable is true: units in the initrd take care of the seed and the persistent disk",
    ]);
  });
});

test("what the modules take for granted is what the scripts do", () => {
  const persist = readFileSync(path.join(guest, "persist"), "utf8");
  const { label, mount } = evaluate<{ label: string; mount: string }>("lib.persist");
  expect(persist).toContain(`\nlabel=${label}\n`);
  expect(readFileSync(path.join(guest, "lib.sh"), "utf8")).toContain(`: "\${NIXVM_VAR:=$NIXVM_ROOT${mount}}"`);
});

test("every name in /etc that the seed renders is a link on NixOS, as it is in the reference guest", () => {
  const hook = readFileSync(path.join(nix, "../images/hooks/customize"), "utf8");
  const [, names] = /for f in ([\w. -]+); do ln -sfn "\/run\/nixvm\/etc\/\$f"/.exec(hook)!;
  const ours = evaluate<string[]>("lib.seedFiles ++ lib.lateFiles");
  // NixOS has no gshadow
  expect([...ours, "gshadow"].sort()).toEqual(names!.split(" ").sort());
});
