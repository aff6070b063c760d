import { execFileSync, spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { evaluate, nix, toNix } from "./nix-support";

const guest = path.join(nix, "guest");
const lib = (expression: string): string =>
  `let lib = import ./modules/lib.nix; text = import ./modules/text.nix; in ${expression}`;

const filesOf = (dir: string): string[] =>
  readdirSync(dir, { withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => entry.name)
    .sort();

let tmp: string;
beforeEach(() => (tmp = mkdtempSync(path.join(os.tmpdir(), "nixvm nix "))));
afterEach(() => rmSync(tmp, { recursive: true, force: true }));

describe("scripts and units that the NixOS side installs", () => {
  let out: string;
  beforeAll(() => {
    out = mkdtempSync(path.join(os.tmpdir(), "nixvm nix "));
    // The build script of modules/guest.nix, run on the working copy instead of the copy that Nix would make in its store.
    const script = evaluate<string>(
      lib(`lib.installGuest { source = ${JSON.stringify(guest)}; files = lib.guestFiles ./guest; }`),
    );
    execFileSync("sh", ["-eu", "-c", script], { env: { ...process.env, out } });
  });
  afterAll(() => rmSync(out, { recursive: true, force: true }));

  test("are all of nix/guest, and nothing else", () => {
    expect(evaluate(lib(`lib.guestFiles ./guest`))).toEqual({
      scripts: filesOf(guest),
      units: filesOf(path.join(guest, "units")),
    });
    expect(filesOf(path.join(out, "lib/nixvm"))).toEqual(filesOf(guest));
    expect(filesOf(path.join(out, "lib/systemd/system"))).toEqual(filesOf(path.join(guest, "units")));
  });

  test("are the same bytes and as executable as in the repository (G-11)", () => {
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
      const called = [...source.matchAll(/^Exec\w+=@guest@\/(\S+)/gm)].map((match) => match[1]);
      expect([name, called.length > 0]).toEqual([name, name.endsWith(".service")]);
      for (const script of called) expect(filesOf(path.join(out, "lib/nixvm"))).toContain(script);
    }
  });
});

describe("what the modules take for granted is what the scripts do", () => {
  const scripts = filesOf(guest).map((name) => readFileSync(path.join(guest, name), "utf8"));
  const all = scripts.join("\n");

  test("labels, mount points and the paths of the identity", () => {
    const kept = readFileSync(path.join(guest, "lib.sh"), "utf8");
    expect(kept).toContain(': "${NIXVM_ROOT_MODE:=readonly}" "${NIXVM_PERSIST:=/var\text4\tvar}"');
    expect(evaluate(lib('lib.persistLabel { mount = "/var"; fs = "ext4"; }'))).toBe("var");
    const { hostKey, passwords } = evaluate<Record<string, string>>(lib('lib.identity "/persist"'));
    expect(kept).toContain(`host_key=$keep${hostKey!.slice("/persist".length)}`);
    expect(kept).toContain(`passwords=$keep${passwords!.slice("/persist".length)}`);
    expect(evaluate(lib('lib.identity "/var"'))).toEqual({
      hostKey: "/var/lib/identity/ssh_host_ed25519_key",
      passwords: "/var/lib/identity/passwords",
    });
    expect(evaluate(lib("(lib.identity null).hostKey"))).toBe("/run/nixvm/kept/identity/ssh_host_ed25519_key");
    expect(kept).toContain("keep_lib=$NIXVM_RUN/kept");
  });

  test("the datasets of the pool", () => {
    const made = readFileSync(path.join(guest, "zfs-pool.sh"), "utf8");
    for (const dataset of Object.values(evaluate<Record<string, string>>(lib('lib.datasets "rpool"'))))
      expect(made).toContain(dataset.replace("rpool", "$pool"));
  });

  test("every variable that the modules set is one that a script reads", () => {
    const modules = filesOf(path.join(nix, "modules")).map((name) =>
      readFileSync(path.join(nix, "modules", name), "utf8"),
    );
    const set = new Set([...modules.join("\n").matchAll(/\b(NIXVM_[A-Z_]+) =/g)].map((match) => match[1]!));
    expect(set.size).toBeGreaterThan(10);
    expect([...set].filter((name) => !new RegExp(`\\$\\{?${name}\\b`).test(all))).toEqual([]);
  });

  test("every script that the modules call is one of nix/guest", () => {
    const modules = ["initrd.nix", "rollback.nix", "scratch.nix"].map((name) =>
      readFileSync(path.join(nix, "modules", name), "utf8"),
    );
    const called = modules.join("\n").match(/"(seed|assemble-root|persist|home|allowlist|scratch)( \w+)?"/g)!;
    expect(called.length).toBeGreaterThan(7);
    for (const call of called) expect(filesOf(guest)).toContain(call.slice(1, -1).split(" ")[0]);
  });
});

test("every name in /etc that the seed renders is a link on NixOS, as it is in the reference guest", () => {
  const hook = readFileSync(path.join(nix, "../images/hooks/customize"), "utf8");
  const [, names] = /for f in ([\w. -]+); do ln -sfn "\/run\/nixvm\/etc\/\$f"/.exec(hook)!;
  const ours = evaluate<string[]>(lib("lib.seedFiles ++ lib.lateFiles"));
  // NixOS has no gshadow
  expect([...ours, "gshadow"].sort()).toEqual(names!.split(" ").sort());
});

/** Runs shell text of the modules as the initrd does, with stand-ins for the programs that need a kernel. */
function bash(script: string, ...args: string[]): { status: number | null; calls: string; stderr: string } {
  const bin = path.join(tmp, "bin");
  mkdirSync(bin, { recursive: true });
  for (const name of ["mount", "zfs", "nix", "nix-env", "chown"])
    writeFileSync(path.join(bin, name), `#!/bin/sh\necho "${name} $*" >> "${tmp}/calls"\n`, { mode: 0o755 });
  writeFileSync(path.join(tmp, "calls"), "");
  const env = { ...process.env, PATH: `${bin}:${process.env["PATH"]}` };
  const run = spawnSync("bash", ["--norc", "-eu", "-c", script, "bash", ...args], { env, encoding: "utf8", cwd: tmp });
  return { status: run.status, calls: readFileSync(path.join(tmp, "calls"), "utf8"), stderr: run.stderr };
}
function write(name: string, content: string): void {
  mkdirSync(path.dirname(path.join(tmp, name)), { recursive: true });
  writeFileSync(path.join(tmp, name), content);
}
const read = (name: string): string => readFileSync(path.join(tmp, name), "utf8");
const quoted = (name: string): string => JSON.stringify(path.join(tmp, name));

describe("shell text that only NixOS has", () => {
  test("the hook for a scripted stage 1 rolls back, with -r (Z-55)", () => {
    const hook = evaluate<string>(lib('text.rollbackHook "rpool"'));
    expect(hook).toBe("zfs rollback -r rpool/local/root@blank\n");
    expect(bash(hook).calls).toBe(hook);
  });

  test.each([
    ["done", "done", ""],
    ["off, and asked for (Z-59)", "off", ""],
    ["failed", "failed", "mount -t tmpfs -o mode=755 nixvm-root ROOT\n"],
    ["not known", null, "mount -t tmpfs -o mode=755 nixvm-root ROOT\n"],
  ])("a root that was not emptied is not used: %s (Z-62)", (name, state, calls) => {
    if (state !== null) write("run/state/rollback", `state\t${state}\nreason\tx y\n`);
    const accepted = name.startsWith("off") ? '[ "done" "off" ]' : '[ "done" ]';
    const guard = evaluate<string>(
      lib(`text.rootGuard { accepted = ${accepted}; run = ${quoted("run")}; root = ${quoted("sysroot")}; }`),
    );
    const run = bash(guard);
    expect([run.status, run.calls]).toEqual([0, calls.replace("ROOT", path.join(tmp, "sysroot"))]);
    expect(run.stderr.includes("the root is in memory")).toBe(calls !== "");
  });

  test("with the switch on, a state that says off is not accepted", () => {
    write("run/state/rollback", "state\toff\n");
    const guard = evaluate<string>(
      lib(`text.rootGuard { accepted = [ "done" ]; run = ${quoted("run")}; root = ${quoted("sysroot")}; }`),
    );
    expect(bash(guard).calls).toContain("mount -t tmpfs");
  });

  describe("account files", () => {
    const share = (): string =>
      evaluate<string>(
        lib(
          `text.shareAccounts { names = [ "zvm" ]; run = ${quoted("run")}; from = ${quoted("etc")}; to = ${quoted("share")}; }`,
        ),
      );
    beforeEach(() => {
      write("etc/passwd", "root:x:0:0::/root:/bin/sh\nzvm:x:1000:994::/home/zvm:/bin/sh\nzvm2:x:1001:993::/:/bin/sh\n");
      write("etc/shadow", "root:!:1::::::\nzvm:$y$x:1::::::\n");
      write("etc/group", "wheel:x:1:zvm\ndocker:x:131:a,zvm,zvm2\nzvm:x:994:\nusers:x:100:\n");
      mkdirSync(path.join(tmp, "share"));
    });

    test("without a seed the image's account stays as it is", () => {
      expect(bash(share()).status).toBe(0);
      for (const name of ["passwd", "shadow", "group"]) expect(read(`share/${name}`)).toBe(read(`etc/${name}`));
    });

    test.each(["incoming", "found"])("with a seed (%s) the account is the seed's, and so are its groups", (from) => {
      write(`run/seed/${from}/plan`, "account\tzvm\tuser\t-\n");
      expect(bash(share()).status).toBe(0);
      expect(read("share/passwd")).toBe("root:x:0:0::/root:/bin/sh\nzvm2:x:1001:993::/:/bin/sh\n");
      expect(read("share/shadow")).toBe("root:!:1::::::\n");
      expect(read("share/group")).toBe("wheel:x:1:\ndocker:x:131:a,zvm2\nusers:x:100:\n");
    });
  });

  describe("the store of the pool", () => {
    // Relative to the folder of the test: its own path has a space, which /proc would write in another way.
    const bring = (): ReturnType<typeof bash> =>
      bash(evaluate<string>(lib('text.payloadStore { from = "payload"; root = "root"; run = "run"; proc = "proc"; }')));
    const payload = ["a-lib/x", "b-system/init", "c-tool/bin", "nixvm-registration", "nixvm-image.json"];
    beforeEach(() => {
      write("proc/cmdline", "root=fstab init=/nix/store/b-system/init quiet\n");
      write("proc/self/mountinfo", "1 0 0:1 / / rw\n2 1 0:2 / root/nix rw\n");
      for (const name of payload) write(`payload/${name}`, name);
    });

    test("without a pool the image's own store takes its place", () => {
      write("proc/self/mountinfo", "1 0 0:1 / / rw\n");
      expect(bring().calls).toBe("mount --bind payload root/nix/store\n");
    });

    test("a pool without room does not stop the start: the system runs from the image", () => {
      write(
        "bin/cp",
        "#!/bin/sh\ncase $* in *c-tool*) echo 'No space left on device' >&2 && exit 1 ;; esac\nexec /bin/cp \"$@\"\n",
      );
      chmodSync(path.join(tmp, "bin/cp"), 0o755);
      const run = bring();
      expect(run.status).toBe(0);
      expect(run.stderr).toContain("does not fit into the pool, it runs from the image");
      expect(run.calls).toMatch(/mount --bind payload root\/nix\/store\n$/);
      expect(readdirSync(path.join(tmp, "root/nix/store"))).not.toContain("b-system");
      expect(readdirSync(path.join(tmp, "run"))).toEqual([]);
    });

    test("a system that the pool lacks is brought in whole, and Nix is told; one that it has is left alone", () => {
      write("root/nix/store/a-lib/x", "kept as it was");
      write("root/nix/store/.nixvm-copy/half", "of a copy that was cut off");
      const run = bring();
      expect([run.status, run.stderr]).toEqual([0, ""]);
      expect(readdirSync(path.join(tmp, "root/nix/store")).sort()).toEqual(["a-lib", "b-system", "c-tool"]);
      expect(read("root/nix/store/a-lib/x")).toBe("kept as it was");
      expect(read("root/nix/store/b-system/init")).toBe("b-system/init");
      expect(read("run/registration")).toBe("nixvm-registration");

      rmSync(path.join(tmp, "run"), { recursive: true });
      rmSync(path.join(tmp, "root/nix/store/c-tool"), { recursive: true });
      expect(bring().status).toBe(0);
      // collected as garbage since, and no part of the system that starts
      expect(readdirSync(path.join(tmp, "root/nix/store")).sort()).toEqual(["a-lib", "b-system"]);
      expect(readdirSync(path.join(tmp, "run"))).toEqual([]);
    });
  });

  test.each([
    ["git+https://example.org/systems#web", "git+https://example.org/systems", "web"],
    ["git+https://example.org/systems", "git+https://example.org/systems", "zvm"],
  ])("an update is fetched from %s", (address, flake, name) => {
    const fetch = evaluate<string>(lib('text.updateFetch "zvm"'));
    expect(bash(fetch, address).calls).toBe(
      `nix build --refresh --no-link --print-out-paths ${flake}#nixosConfigurations."${name}".config.system.build.toplevel\n`,
    );
  });

  test("an update is made the system of later starts, and takes over now when it may", () => {
    const system = path.join(tmp, "system");
    write("system/bin/switch-to-configuration", `#!/bin/sh\necho "switch $*" >> "${tmp}/calls"\n`);
    execFileSync("chmod", ["+x", path.join(system, "bin/switch-to-configuration")]);
    expect(bash(evaluate<string>(lib("text.updateSwitch")), "boot", system).calls).toBe(
      `nix-env --profile /nix/var/nix/profiles/system --set ${system}\nswitch boot\n`,
    );
  });
});

test.each([
  ["readonly", "image", "/etc/nixvm/image.json"],
  ["persistent", "image", "/etc/nixvm/image.json"],
  ["tmpfs", "partition", "/nix/image.json"],
  ["tmpfs", "overlay", "/nix/store/nixvm-image.json"],
  ["zfs-rollback", "dataset", "/run/nixvm/image.json"],
])(
  "the record of an image with rootMode %s and store %s is where its root does not matter",
  (rootMode, store, file) => {
    expect(evaluate(lib(`lib.imageJson ${toNix({ rootMode, store })}`))).toBe(file);
  },
);

test("keys are looked for where the seed, the account and the configuration put them (V-21, V-22)", () => {
  expect(evaluate(lib('lib.keyFiles "/persist"'))).toEqual([
    "/run/nixvm/ssh/%u",
    ".ssh/authorized_keys",
    "/persist/home/%u/.ssh/authorized_keys",
    "/etc/ssh/authorized_keys.d/%u",
  ]);
  expect(evaluate(lib("lib.keyFiles null"))).not.toContain("/persist/home/%u/.ssh/authorized_keys");
});

test("the files of modules/ that are no modules by themselves are named in the flake", () => {
  const flake = readFileSync(path.join(nix, "flake.nix"), "utf8");
  const [, inner] = /inner = \[([^\]]+)\]/.exec(flake)!;
  const named = [...inner!.matchAll(/"([\w-]+)"/g)].map((match) => `${match[1]}.nix`);
  const names = filesOf(path.join(nix, "modules"));
  // A module is a function with dots that takes in the options, which are modules too, but of no use without the others.
  const modules = names.filter((name) => {
    const text = readFileSync(path.join(nix, "modules", name), "utf8");
    return /^\{[^}]*\.\.\. \}:$/m.test(text) && !name.startsWith("options") && name !== "default.nix";
  });
  expect([...named, ...modules].sort()).toEqual(names);
  for (const name of modules) expect(readFileSync(path.join(nix, "modules", name), "utf8")).toContain("./options.nix");
});
