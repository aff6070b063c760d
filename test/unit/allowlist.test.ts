import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { type AllowlistConfig, identityOf, PRESETS, seedDigest, seedFiles, ZVM_ALLOWLIST } from "../../components/plan";
import { ACCOUNTS, entryText, entryTexts, type Entry, kept, refused } from "./allowlist-table";
import { base, one, planOf, problemsOf, vmOf } from "./plan-support";

const nix = path.resolve(__dirname, "../../nix");

/** A VM of which nothing is kept but what the list names. */
const volatile = (allowlist: unknown, more: object = {}) => ({
  preset: "sealed",
  persist: {},
  accounts: ACCOUNTS.map((name) => ({ name, role: "user" })),
  allowlist,
  ...more,
});
const listOf = (vm: unknown): string[] => entryTexts(vmOf(one(vm)).allowlist);
const faultsOf = (vm: unknown): string[] =>
  problemsOf(one(vm)).map(
    ({ path: at, message, allowed }) => `${at.replace("fleet.web.allowlist.", "")}: ${message}; ${allowed}`,
  );
const warningsOf = (vm: unknown): string[] =>
  planOf(one(vm))
    .warnings.filter(({ path: at }) => at.includes(".allowlist"))
    .map(({ path: at, message }) => `${at.replace("fleet.web.allowlist.", "")}: ${message}`);

describe("the planner makes of each list of the table what the table says (C-12, P-18)", () => {
  test.each(kept)("$name", ({ list, entries, warnings }) => {
    expect(listOf(volatile(list))).toEqual(entries);
    expect(warningsOf(volatile(list))).toEqual(warnings ?? []);
  });

  test.each(refused)("refused: $name", ({ list, faults }) => {
    const found = faultsOf(volatile(list));
    expect(found).toEqual(faults.map((fault) => expect.stringContaining(fault)));
    // a person has to know what to write instead
    for (const text of found) expect(text).toMatch(/; .+$/);
  });
});

describe("nix/modules/allowlist.nix makes the same of it (N0+, C-12)", () => {
  function evaluate<T>(expression: string): T {
    const args = ["--eval", "--strict", "--json", "-E", `let lib = import ./modules/allowlist.nix; in ${expression}`];
    const run = spawnSync("nix-instantiate", args, { cwd: nix, encoding: "utf8" });
    if (run.error)
      throw new Error(`nix-instantiate cannot be run (${run.error.message}); the package is called nix-bin`);
    if (run.status !== 0) throw new Error(run.stderr);
    return JSON.parse(run.stdout) as T;
  }
  // one evaluation for all: each start of nix takes half a second
  const table = `(builtins.fromJSON (builtins.readFile ${JSON.stringify(path.resolve(__dirname, "../tables/allowlist.json"))}))`;
  type Rendered = Record<"directories" | "files", (Entry & { directory?: string; file?: string })[]>;

  test("entries and their rendering for preservation (P-18, P-32)", () => {
    const results = evaluate<
      {
        entries: (Entry & { kind: string })[];
        rendered: Rendered & { users: Record<string, Rendered & { home: string }> };
      }[]
    >(`map ({ list, ... }: { entries = lib.entries list; rendered = lib.render "/persist" list; }) ${table}.kept`);
    const byKind = (texts: string[]) => [...texts].sort();
    for (const [index, { name, entries }] of kept.entries()) {
      const { entries: ours, rendered } = results[index]!;
      expect([name, byKind(ours.map((entry) => entryText(entry.kind, entry)))]).toEqual([name, byKind(entries)]);
      // What preservation does with it: paths of a user below that user's home.
      const of = (lists: Rendered, home: string) => [
        ...lists.directories.map((entry) => entryText("directory", { ...entry, path: home + entry.directory! })),
        ...lists.files.map((entry) => entryText("file", { ...entry, path: home + entry.file! })),
      ];
      const all = [...of(rendered, ""), ...Object.values(rendered.users).flatMap((user) => of(user, `${user.home}/`))];
      expect([name, byKind(all)]).toEqual([name, byKind(entries)]);
      expect(rendered.directories.some((entry) => entry.directory!.startsWith("/home/"))).toBe(false);
    }
    const links = results[kept.findIndex(({ name }) => name === "links")]!.rendered;
    // As in the guest script: a directory behind a link is made, and so is the folder of a file, with nothing changed that is there.
    expect(links.directories[0]).toMatchObject({ createLinkTarget: true });
    expect(links.files[0]).toMatchObject({
      configureParent: true,
      parent: { user: ":root", group: ":root", mode: ":0755" },
    });
  });

  test("faults, all at once, with the planner's words", () => {
    const found = evaluate<string[][]>(`map ({ list, ... }: lib.faults "/persist" list) ${table}.refused`);
    for (const [index, { name, faults }] of refused.entries()) {
      const texts = found[index]!.map((text) => text.replace(/: "(\\.|[^"\\])*" /, ": "));
      expect([name, texts]).toEqual([name, faults.map((fault) => expect.stringContaining(fault))]);
    }
    expect(() => evaluate(`lib.render "/persist" { directories = [ "a" "/b/.." ]; }`)).toThrow(
      /"a" is not an absolute path; directories\[1\]: "\/b\/\.\." is not a path without/,
    );
    expect(
      evaluate(`lib.faults "/var" { directories = [ "/var/log" "/etc/x" { directory = "/y"; mode = "rwx"; } ]; }`),
    ).toEqual([
      'directories[0]: "/var/log" is on the persistent volume itself',
      'directories[2].directory: "/y" has no octal mode',
    ]);
  });

  test("preset zvm lists the seven paths, and preservation gets those that identity does not keep (V-15 to V-18, V-20)", () => {
    const { list, rendered } = evaluate<{
      list: AllowlistConfig;
      rendered: Rendered & { users: Record<string, Rendered> };
    }>(`let list = (lib.presets "zvm").zvm; in { inherit list; rendered = lib.render "/persist" list; }`);
    expect(list).toEqual({
      directories: ["/etc/ssh", "/var/lib/nixos", "/var/lib/netbird", "/var/log"],
      files: ["/etc/machine-id", "/persist/passwords/zvm"],
      users: { zvm: { directories: [".config/netbird"] } },
    });
    expect(rendered.directories.map((entry) => entry.directory)).toEqual([
      "/var/lib/netbird",
      "/var/lib/nixos",
      "/var/log",
    ]);
    expect(rendered.files).toEqual([]);
    expect(rendered.users["zvm"]!.directories).toMatchObject([
      { directory: ".config/netbird", user: "zvm", group: "zvm" },
    ]);
  });

  test("preset workbench lists Documents and .ssh of its user, and nothing else (P-13 to P-15, P-36)", () => {
    expect(evaluate(`lib.render "/persist" (lib.presets "ann").workbench`)).toMatchObject({
      directories: [],
      files: [],
      users: {
        ann: {
          home: "/home/ann",
          directories: [
            { directory: ".ssh", user: "ann", group: "ann", mode: "0700", how: "bindmount" },
            { directory: "Documents", user: "ann", group: "ann", mode: "0755", how: "bindmount" },
          ],
          files: [],
        },
      },
    });
  });

  test("the lists of the presets are the planner's, for whatever name the account has (P-19)", () => {
    const presets = evaluate<Record<string, AllowlistConfig>>(`lib.presets "zvm"`);
    expect(presets["zvm"]).toEqual(ZVM_ALLOWLIST);
    for (const [preset, list] of Object.entries(presets)) {
      const account = { accounts: [{ name: "zvm", role: "user" }] };
      expect(listOf(volatile(list, account))).toEqual(listOf({ preset, ...account }));
    }
    expect(JSON.stringify(evaluate(`lib.presets "bob"`))).not.toContain("zvm/");
    expect(evaluate(`builtins.attrNames (lib.presets "bob").zvm.users`)).toEqual(["bob"]);
  });
});

describe("presets", () => {
  test("zvm keeps exactly the seven paths of its document (V-20)", () => {
    const written = [
      ...ZVM_ALLOWLIST.directories,
      ...ZVM_ALLOWLIST.files,
      ...ZVM_ALLOWLIST.users.zvm.directories.map((name) => `~/${name}`),
    ];
    expect(written.sort()).toEqual([
      "/etc/machine-id",
      "/etc/ssh",
      "/persist/passwords/zvm",
      "/var/lib/netbird",
      "/var/lib/nixos",
      "/var/log",
      "~/.config/netbird",
    ]);
  });

  test("zvm has one account, zvm, without sudo (V-4); its seed names what identity does not keep (C-13)", () => {
    const vm = vmOf(one({ preset: "zvm" }));
    expect(vm.accounts.map(({ name, role }) => [name, role])).toEqual([["zvm", "user"]]);
    expect(entryTexts(vm.allowlist)).toEqual(kept[0]!.entries);
  });

  test("workbench keeps Documents and .ssh, and no history, token or cache (P-14, P-15, P-36)", () => {
    expect(listOf({ preset: "workbench" })).toEqual([
      "directory user:user 0700 bindmount later /home/user/.ssh",
      "directory user:user 0755 bindmount later /home/user/Documents",
    ]);
  });

  test("the others list nothing, and their seeds do not know of lists (G-10)", () => {
    for (const preset of PRESETS.filter((name) => name !== "zvm" && name !== "workbench")) {
      const vm = vmOf(one({ preset }));
      expect(entryTexts(vm.allowlist)).toEqual([]);
      expect(seedFiles(vm, identityOf("ab".repeat(32), "web")).userData).not.toContain("allowlist");
    }
  });

  test("what a preset keeps in a home follows the accounts of the VM (P-19)", () => {
    const accounts = [
      { name: "ann", role: "user" },
      { name: "boss", role: "admin" },
    ];
    expect(listOf({ preset: "workbench", accounts }).map((text) => text.split(" ").at(-1))).toEqual([
      "/home/ann/.ssh",
      "/home/ann/Documents",
      "/home/boss/.ssh",
      "/home/boss/Documents",
    ]);
  });

  test("the stack file adds to the preset's list, and wins for the same path", () => {
    const list = {
      directories: [{ directory: "/var/log", mode: "0750" }, "/var/lib/app"],
      users: { zvm: { directories: ["src"] } },
    };
    expect(listOf({ preset: "zvm", allowlist: list })).toEqual([
      "directory zvm:zvm 0755 bindmount later /home/zvm/.config/netbird",
      "directory zvm:zvm 0755 bindmount later /home/zvm/src",
      "directory root:root 0755 bindmount later /var/lib/app",
      "directory root:root 0755 bindmount later /var/lib/netbird",
      "directory root:root 0755 bindmount later /var/lib/nixos",
      "directory root:root 0750 bindmount later /var/log",
    ]);
  });

  test("a list that cannot stand beside the preset's is refused where it is written", () => {
    const found = faultsOf({
      preset: "zvm",
      allowlist: { files: ["/var/lib"], directories: [{ directory: "/var/log/a", how: "symlink" }] },
    });
    expect(found).toEqual([
      expect.stringMatching(/^files\[0\]: is above \/var\/lib\/n\w+, and \/var\/lib is listed as a file;/),
      expect.stringMatching(/^directories\[0\].directory: is below \/var\/log, and one of the two is a symlink;/),
    ]);
  });
});

describe("a list and the rest of the VM", () => {
  test("only accounts of the VM have a home to keep paths in", () => {
    const list = { directories: ["/home/bob/x"], users: { annn: { files: ["a"] }, root: { files: [".ssh"] } } };
    expect(faultsOf(volatile(list))).toEqual([
      "users.annn: is not an account of this VM, did you mean ann?; ann, zvm",
      "users.root: is not an account of this VM; paths such as /root/.ssh under allowlist.directories",
      "directories[0]: is not in the home of an account of this VM; ann, zvm",
    ]);
  });

  test("without a persistent volume a list is refused, a preset's is dropped", () => {
    expect(problemsOf(one(volatile({ files: ["/srv/a"] }, { persist: false })))).toMatchObject([
      { path: "fleet.web.allowlist", message: expect.stringContaining("no persistent volume") },
    ]);
    expect(listOf({ preset: "zvm", persist: false, update: "image" })).toEqual([]);
    expect(problemsOf(one(volatile({}, { persist: false })))).toEqual([]);
  });

  test("what is kept anyway is left out, with a warning where the stack file says it", () => {
    const list = { directories: ["/var/log", "/srv/x"], users: { admin: { directories: [".ssh"] } } };
    expect(listOf({ allowlist: list })).toEqual(["directory root:root 0755 bindmount later /srv/x"]);
    expect(warningsOf({ allowlist: list })).toEqual([
      "directories[0]: has no effect: the persistent volume is /var",
      "users.admin.directories[0]: has no effect: home is persistent",
    ]);
    expect(listOf({ preset: "workbench", home: "persistent" })).toEqual([]);
    expect(warningsOf({ preset: "workbench", home: "persistent" })).toEqual([]);
  });

  test("a persistent root keeps paths outside of /home too, as an image upgrade discards what is in it", () => {
    const vm = { preset: "workbench", allowlist: { directories: ["/etc/app"] } };
    expect(listOf(vm)).toContain("directory root:root 0755 bindmount later /etc/app");
    expect(warningsOf(vm)).toEqual([]);
  });

  test("an entry below another is worth a warning only when it says nothing of its own", () => {
    const list = { directories: ["/srv/a", { directory: "/srv/a/b", mode: "0700" }, "/srv/a/c"] };
    expect(warningsOf(volatile(list))).toEqual(["directories[2]: is kept with /srv/a already"]);
  });

  test("maps of the layers are merged, lists replaced, and a fault is said where it is written", () => {
    const defaults = {
      ...base.defaults,
      allowlist: { directories: ["/srv/a"], users: { ann: { files: ["x", "../y"] } } },
    };
    const vm = volatile({ directories: ["/srv/b"], users: { ann: { directories: ["d"] } } });
    expect(problemsOf(one(vm, { defaults })).map((problem) => problem.path)).toEqual([
      "defaults.allowlist.users.ann.files[1]",
    ]);
    defaults.allowlist.users.ann.files.pop();
    expect(entryTexts(vmOf(one(vm, { defaults })).allowlist).map((text) => text.split(" ").at(-1))).toEqual([
      "/home/ann/d",
      "/srv/b",
      "/home/ann/x",
    ]);
  });

  test("wrong shapes are said with the field", () => {
    const list = {
      directories: [{ directory: "/a", mode: 700 }, { file: "/b" }, 5],
      files: [{ file: "/c", how: "bindmont", user: "a b" }],
      folders: [],
    };
    expect(faultsOf(volatile(list)).map((text) => text.split(";")[0])).toEqual([
      "directories[0].mode: is not a mode",
      "directories[1].directory: is missing",
      "directories[1].file: is not a known key",
      "directories[2]: is not a directory to keep",
      "files[0].user: is not an account name",
      "files[0].how: is not a way to keep a path, did you mean bindmount?",
      "folders: is not a known key",
    ]);
  });
});

describe("the seed", () => {
  const seedOf = (vm: unknown) => seedFiles(vmOf(one(vm)), identityOf("ab".repeat(32), "web"));
  const nixvmOf = (vm: unknown) => JSON.parse(seedOf(vm).userData.replace("#cloud-config\n", "")).nixvm;

  test("has the entries with everything written out (C-12, C-13)", () => {
    expect(nixvmOf({ preset: "workbench" }).allowlist).toEqual({
      directories: [
        { path: "/home/user/.ssh", user: "user", group: "user", mode: "0700", how: "bindmount", inInitrd: false },
        { path: "/home/user/Documents", user: "user", group: "user", mode: "0755", how: "bindmount", inInitrd: false },
      ],
      files: [],
    });
    const identity = { directories: ["/etc/ssh"], files: ["/etc/machine-id", "/persist/passwords/ann"] };
    expect(nixvmOf(volatile(identity))).not.toHaveProperty("allowlist");
    expect(seedDigest(seedOf(volatile(identity)))).toBe(seedDigest(seedOf(volatile(undefined))));
  });

  test("does not depend on the order of the stack file (G-10)", () => {
    const directories = ["/srv/c", "/srv/a", { directory: "/srv/b", mode: "0700" }];
    expect(seedOf(volatile({ directories }))).toEqual(seedOf(volatile({ directories: [...directories].reverse() })));
  });
});

test("the page on stack files names every path of the presets' lists", () => {
  const page = readFileSync(path.join(nix, "../docs/stack-file.md"), "utf8");
  const { directories, files, users } = ZVM_ALLOWLIST;
  for (const name of [...directories, ...files, ...users.zvm.directories, "Documents", ".ssh"])
    expect(page).toContain(`${name}\``);
});
