// The script runs in a mount namespace of its own, so that its bind mounts and links are real; only `chown` is noted instead of done, as
// such a namespace has no other user than root.
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync } from "node:fs";
import path from "node:path";
import { kept, lines, parseEntry, planLine } from "./allowlist-table";
import { guestDir, type Run, Sandbox } from "./guest-sandbox";

const IDS: Record<string, number> = { root: 0, zvm: 1000, ann: 1001 };

interface Found {
  type: string;
  mode: string;
  inode: string;
  link: string;
}

class Guest extends Sandbox {
  constructor(shell = "dash") {
    super("unshare -rm sh");
    // busybox has a chown of its own, which works for root only: there the accounts are all root, and owners are not looked at.
    const accounts = Object.entries(IDS).map(([name, id]) => [name, shell === "dash" ? id : 0] as const);
    this.write(
      "run/etc/passwd",
      accounts
        .map(([name, id]) => `${name}:x:${id}:${id}::${name === "root" ? "/root" : `/home/${name}`}:/bin/sh\n`)
        .join(""),
    );
    this.write("run/etc/group", accounts.map(([name, id]) => `${name}:x:${id}:\n`).join(""));
    const tool = (name: string, body: string) => {
      this.write(`tools/${name}`, `#!/bin/sh\n${body}\n`);
      chmodSync(this.path(`tools/${name}`), 0o755);
    };
    tool("chown", `for each; do case $each in /*) printf '%s\\t%s\\n' "$2" "$each" >> "$SANDBOX/owners" ;; esac; done`);
    tool("mount", `echo "mount $*" >> "$SANDBOX/calls"; PATH=$REAL_PATH exec mount "$@"`);
    // "before" and "then" are what a test does inside the namespace.
    this.write(
      "boot",
      `cd "$SANDBOX"
rm -f owners
PATH=$REAL_PATH
if [ -e before ]; then . ./before; fi
run() { PATH=$SANDBOX/tools:$PATH ${shell} "${guestDir}/allowlist" || exit 9; }
list() { find "$NIXVM_TARGET" -printf '%y\\t%m\\t%i\\t%l\\t%p\\n'; cat /proc/self/mountinfo; }
run
PATH=$REAL_PATH
list > tree
if [ -n "\${once:-}" ]; then exit; fi
for file in owners calls "$NIXVM_RUN/state/allowlist"; do if [ -e "$file" ]; then cp "$file" "\${file##*/}.first"; fi; done
# once more on the same system: everything is found done
run 2> again
cmp "$NIXVM_RUN/state/allowlist" allowlist.first || exit 8
list | cmp - tree || exit 8
if [ -e then ]; then . ./then; fi
`,
    );
    this.layout("/persist");
  }

  layout(mount: string): void {
    this.write("run/state/layout", `rootMode\ttmpfs\nmount\t${mount}\n`);
    mkdirSync(this.path(`root${mount}`), { recursive: true });
  }

  boot(planLines: string[], then = ""): Run {
    this.write("run/seed/current/plan", ["hostname\tweb", ...planLines, "tcp\t22", ""].join("\n"));
    this.write("then", then);
    const script = path.relative(guestDir, this.path("boot"));
    const run = this.guest(script, { NIXVM_TARGET: this.path("root") });
    expect([run.code, run.log]).toEqual([0, run.log]);
    return run;
  }

  /** What the script left, by path below the new root. */
  tree(): Map<string, Found> {
    const found = new Map<string, Found>();
    for (const line of this.read("tree").split("\n")) {
      const [type, mode, inode, link, name] = line.split("\t");
      if (name?.startsWith(this.path("root")))
        found.set(name.slice(this.path("root").length), { type: type!, mode: mode!, inode: inode!, link: link! });
    }
    return found;
  }

  /** The owner that a path was given last, as names. */
  owner(name: string): string {
    const noted = this.has("owners.first") ? this.read("owners.first").split("\n") : [];
    const last = noted.filter((line) => line.endsWith(`\t${this.path("root")}${name}`)).at(-1);
    const names = Object.fromEntries(Object.entries(IDS).map(([account, id]) => [String(id), account]));
    return (last?.split("\t")[0] ?? "0:0")
      .split(":")
      .map((id) => names[id])
      .join(":");
  }
}

let box: Guest;
beforeEach(() => (box = new Guest()));
afterEach(() => box.done());

const entry = (kind: string, name: string, more = "root:root 0755 bindmount later"): string =>
  planLine(`${kind} ${more} ${name}`);
const directory = (name: string) => entry("directory", name);
const mountOf = (name: string) => [box.tree().get(`/persist${name}`)?.inode, box.tree().get(name)?.inode];
function expectKept(...names: string[]): void {
  for (const name of names) {
    const [source, target] = mountOf(name);
    expect([name, source]).toEqual([name, target]);
    expect(source).toBeDefined();
  }
}
function expectLost(name: string): void {
  const [source, target] = mountOf(name);
  expect(source === undefined || source !== target).toBe(true);
}

describe.each(["dash", "busybox sh"])(
  "each list of the table becomes the tree of the table, in %s (C-12, P-30)",
  (shell) => {
    test.each(kept)("$name", ({ entries, made }) => {
      const guest = new Guest(shell);
      guest.boot(entries.map(planLine));
      const tree = guest.tree();
      for (const text of entries) {
        const { kind, path: name, user, group, mode, how } = parseEntry(text);
        const [source, target] = [tree.get(`/persist${name}`), tree.get(name)];
        const type = kind === "directory" ? "d" : "f";
        if (kind === "file" && how === "symlink") {
          expect([name, source]).toEqual([name, undefined]);
        } else {
          expect([name, source]).toMatchObject([name, { type, mode: mode.replace(/^0/, "") }]);
          if (shell === "dash") expect([name, guest.owner(`/persist${name}`)]).toEqual([name, `${user}:${group}`]);
        }
        if (how === "symlink") expect([name, target]).toMatchObject([name, { type: "l", link: `/persist${name}` }]);
        else expect([name, target]).toEqual([name, source]);
      }
      for (const text of made ?? []) {
        const [, owner, mode, name] = /^(\S+) (\S+) (.*)$/.exec(text)!;
        for (const side of ["", "/persist"]) {
          expect([side + name, tree.get(side + name)]).toMatchObject([side + name, { type: "d", mode }]);
          if (shell === "dash") expect([side + name, guest.owner(side + name)]).toEqual([side + name, owner]);
        }
      }
      expect(guest.state("allowlist")).toEqual({
        state: entries.length === 0 ? "none" : "applied",
        reason: "",
        entries: String(entries.length),
      });
      guest.done();
    });
  },
);

test.each(lines)("a plan with a fault is refused as a whole: $name", ({ lines: bad }) => {
  box.boot([directory("/srv/good"), ...bad.map((line) => `allow\t${line}`), directory("/srv/good too")]);
  expect(box.state("allowlist")).toMatchObject({ state: "failed", entries: "0" });
  expect(box.state("allowlist")["reason"]).toMatch(/^the allowlist is refused, no path of it is kept: ./);
  expect([...box.tree().keys()].sort()).toEqual(["", "/persist"]);
});

test("all faults of a list are said at once, and a line that lacks fields is one", () => {
  box.boot([directory("srv"), directory("/etc"), "allow\tdirectory\t/srv/a\troot\troot\t0755\tbindmount", "allow"]);
  const { reason } = box.state("allowlist");
  for (const name of ["'srv'", "'/etc'", "'/srv/a'", "''"]) expect(reason).toContain(name);
  expect(reason).not.toContain("\n");
});

describe("what is kept", () => {
  const zvm = kept[0]!.entries.map(planLine);
  const workbench = kept[1]!.entries.map(planLine);

  test("comes back after a restart with its content, and nothing else does (V-15 to V-18, P-14 to P-17)", () => {
    const all = [...zvm, ...workbench];
    const names = [...kept[0]!.entries, ...kept[1]!.entries].map((text) => parseEntry(text).path);
    const inRoot = (name: string) => `"$NIXVM_TARGET${name}"`;
    box.boot(
      all,
      [
        ...names.map((name) => `echo kept > ${inRoot(name)}/marker`),
        `echo host >> ${inRoot("/home/zvm/.ssh/known_hosts")}`,
      ]
        .concat(
          `mkdir ${inRoot("/home/zvm/src")}; echo gone > ${inRoot("/home/zvm/src/x")}; echo gone > ${inRoot("/etc-like")}`,
        )
        .join("\n"),
    );
    // The root was in memory: only the persistent disk is there at the next start.
    for (const name of readdirSync(box.path("root"))) if (name !== "persist") box.remove(`root/${name}`);
    box.boot(all);
    for (const name of names) {
      expectKept(name, `${name}/marker`);
      expect(box.read(`root/persist${name}/marker`)).toBe("kept\n");
    }
    expect(box.read("root/persist/home/zvm/.ssh/known_hosts")).toBe("host\n");
    const tree = box.tree();
    for (const name of ["/home/zvm/src", "/persist/home/zvm/src", "/etc-like", "/persist/etc-like"])
      expect(tree.has(name)).toBe(false);
    expect(tree.get("/home/zvm/.ssh")?.mode).toBe("700");
    expect(box.owner("/persist/home/zvm/.ssh")).toBe("zvm:zvm");
  });

  test("gets its owner and mode again at each start, and what is in it keeps its own (P-30)", () => {
    box.write("root/persist/home/zvm/.ssh/id", "secret");
    for (const name of ["", "/id"])
      chmodSync(box.path(`root/persist/home/zvm/.ssh${name}`), 0o666 | (name ? 0 : 0o111));
    chmodSync(box.path("root/persist/home/zvm"), 0o711);
    box.boot(workbench);
    expect(box.tree().get("/persist/home/zvm/.ssh")?.mode).toBe("700");
    expect(box.tree().get("/home/zvm/.ssh/id")?.mode).toBe("666");
    expect(box.tree().get("/persist/home/zvm")?.mode).toBe("711");
    expect(box.read("owners.first")).not.toContain(".ssh/id");
  });

  test("is not filled from the image: a path that is new on the disk begins empty", () => {
    box.write("root/var/log/README", "of the image");
    const { log } = box.boot([directory("/var/log")]);
    expect(log).toContain("/var/log is new on the persistent disk, and empty");
    expect(box.tree().has("/var/log/README")).toBe(false);
    expect(box.read("root/var/log/README")).toBe("of the image");
  });

  test("an inner entry sets the mode of a folder of the outer one", () => {
    box.boot([directory("/srv/a"), entry("directory", "/srv/a/b", "zvm:ann 0700 bindmount later")]);
    expectKept("/srv/a", "/srv/a/b");
    expect(box.tree().get("/srv/a/b")?.mode).toBe("700");
    expect(box.owner("/persist/srv/a/b")).toBe("zvm:ann");
  });

  test("in a read-only root, what is in a home in memory comes from a disk at /var", () => {
    box.layout("/var");
    box.boot(["allow\tdirectory\t/home/ann/.ssh\tann\tann\t0700\tbindmount\tfalse"]);
    expect(box.tree().get("/var/home/ann/.ssh")).toEqual(box.tree().get("/home/ann/.ssh"));
    box.boot([directory("/var/log")]);
    expect(box.state("allowlist")["reason"]).toContain("'/var/log' is on the persistent disk itself");
  });

  test("a link that is there already, on a root that was kept, is left as it is", () => {
    const link = entry("file", "/srv/a", "root:root 0644 symlink later");
    box.boot([link]);
    expect(box.tree().get("/srv/a")?.link).toBe("/persist/srv/a");
    box.boot([link]);
    expect(box.state("allowlist")).toMatchObject({ state: "applied", entries: "1" });
  });

  test("a list that ends without a line feed is read to its end", () => {
    box.write("plan", `${directory("/srv/a")}\n${directory("/srv/b")}`);
    box.write("before", 'cp plan "$NIXVM_RUN/seed/current/plan"\n');
    box.boot([]);
    expectKept("/srv/a", "/srv/b");
  });
});

describe("a path that cannot be kept is said, the others are kept, and nothing is deleted", () => {
  const good = "/srv/good";
  /** Lists the good path and a bad one; the bad one has to be named with the reason. */
  function expectTrouble(line: string, ...reason: string[]): void {
    box.boot([line, directory(good)]);
    const state = box.state("allowlist");
    expect(state).toMatchObject({ state: "failed", entries: "1" });
    for (const part of reason) expect(state["reason"]).toContain(part);
    expectKept(good);
    const name = line.split("\t")[2]!;
    expect(state["reason"]).toContain(`${name} is not kept: `);
    expectLost(name);
  }

  test.each([
    [
      "a file on the disk, listed as a directory",
      "root/persist/srv/x",
      directory("/srv/x"),
      "is a file, and /srv/x is listed as a directory",
    ],
    [
      "a file in the root, listed as a directory",
      "root/srv/x",
      directory("/srv/x"),
      "is a file, and /srv/x is listed as a directory",
    ],
    [
      "a directory on the disk, listed as a file",
      "root/persist/srv/x/y",
      entry("file", "/srv/x"),
      "is a directory, and /srv/x is listed as a file",
    ],
    [
      "a directory in the root, listed as a file",
      "root/srv/x/y",
      entry("file", "/srv/x"),
      "is a directory, and /srv/x is listed as a file",
    ],
    ["a file on the way", "root/persist/srv/x", directory("/srv/x/y"), "is a file, and /srv/x/y is listed below it"],
    [
      "a file where a link is to be",
      "root/srv/x",
      entry("file", "/srv/x", "root:root 0644 symlink later"),
      "is there, and /srv/x is listed as a link",
    ],
  ])("%s", (_name, file, line, reason) => {
    box.write(file, "precious");
    expectTrouble(line, reason, box.path(file.replace(/\/y$/, "")));
    expect(box.read(file)).toBe("precious");
  });

  test.each([
    ["the path itself", "root/persist/home/zvm/x", "/home/zvm/x"],
    ["on the way to it", "root/persist/home/zvm/.config", "/home/zvm/.config/x"],
    ["the path in the root", "root/srv/x", "/srv/x"],
    ["on the way to it in the root", "root/srv/x", "/srv/x/y"],
  ])("a link that a user has put there is not followed: %s", (_name, link, name) => {
    mkdirSync(box.path("secret"));
    mkdirSync(path.dirname(box.path(link)), { recursive: true });
    symlinkSync(box.path("secret"), box.path(link));
    const mode = statSync(box.path("secret")).mode;
    expectTrouble(directory(name), `${box.path(link)} is a link, which is not followed`);
    expect(readdirSync(box.path("secret"))).toEqual([]);
    expect(statSync(box.path("secret")).mode).toBe(mode);
    expect(box.read("owners.first")).not.toContain("secret");
  });

  test("a link to elsewhere in the place of ours", () => {
    mkdirSync(box.path("root/srv"), { recursive: true });
    symlinkSync("/else", box.path("root/srv/x"));
    expectTrouble(entry("file", "/srv/x", "root:root 0644 symlink later"), "is a link to another place");
  });

  test("an account or group that the system does not have", () => {
    expectTrouble(
      entry("directory", "/srv/x", "nobody-here:root 0755 bindmount later"),
      "there is no account nobody-here",
    );
    expectTrouble(entry("directory", "/srv/x", "root:none 0755 bindmount later"), "there is no group none");
  });

  test("a disk that cannot be written", () => {
    mkdirSync(box.path("root/persist/srv/good"), { recursive: true });
    box.write(
      "before",
      `mount --bind "$NIXVM_TARGET/persist" "$NIXVM_TARGET/persist" && mount -o remount,bind,ro "$NIXVM_TARGET/persist"\n`,
    );
    expectTrouble(directory("/srv/x"), "Read-only file system");
    expect(existsSync(box.path("root/persist/srv/x"))).toBe(false);
  });

  test("no persistent disk at all", () => {
    box.layout("");
    box.boot([directory(good)]);
    expect(box.state("allowlist")).toEqual({
      state: "failed",
      reason: "there is no persistent disk, so no path of the list is kept",
      entries: "0",
    });
  });

  test("a fault of the script itself ends in a reason, not in a boot that stops", () => {
    // no mkdir
    box.write(
      "before",
      `once=1; mkdir few; for tool in dash rm mv; do ln -s "$(command -v $tool)" few/; done; PATH=$SANDBOX/few\n`,
    );
    box.boot([directory(good)]);
    expect(box.state("allowlist")).toMatchObject({ state: "failed", reason: "allowlist broke off unexpectedly" });
    expect([...box.tree().keys()].sort()).toEqual(["", "/persist"]);
  });
});

test("one mount does all of them, for a process takes a tenth of a second under emulation", () => {
  box.boot(kept.find(({ name }) => name.startsWith("slashes"))!.entries.map(planLine));
  expect(box.read("calls.first").match(/^mount.*/gm)).toEqual([expect.stringMatching(/^mount -a -T /)]);
});

test("a name that busybox's mount would cut off is whole for the mount of both guests", () => {
  box.boot([directory("/srv/a #1")]);
  expectKept("/srv/a #1");
});

test("a plan without a list, or no plan, makes nothing", () => {
  box.boot([]);
  expect(box.state("allowlist")).toEqual({ state: "none", reason: "", entries: "0" });
  expect([...box.tree().keys()].sort()).toEqual(["", "/persist"]);
});

test("the script is one file that knows neither of the two guests (G-11)", () => {
  const text = readFileSync(path.join(guestDir, "allowlist"), "utf8");
  expect(text).not.toMatch(/debian|nixos|\/nix\/store\/[a-z0-9]/i);
});
