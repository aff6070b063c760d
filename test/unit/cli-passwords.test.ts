import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import * as fc from "fast-check";
import { hashOf, hashWith, saltOf } from "../../cli/crypt";
import { applyEdits } from "../../cli/edits";
import { methodOf, passwordEdits } from "../../cli/passwords";
import { declaredPlace } from "../../cli/place";
import { layersOf } from "../../cli/sshKeys";
import { StackFile } from "../../cli/stackFile";
import { vmOf, one } from "./plan-support";

let dir: string;
beforeEach(() => (dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm password "))));
afterEach(() => fs.rmSync(dir, { recursive: true, force: true }));

/** What a system that checks a login would compute. */
function crypted(password: string, hash: string): string {
  const script = "my $hash = $ENV{HASH}; local $/; my $password = <STDIN>; print crypt($password, $hash)";
  return spawnSync("perl", ["-e", script], { input: password, env: { ...process.env, HASH: hash }, encoding: "utf8" })
    .stdout;
}

test("the hash is yescrypt, and SHA-512 for the preset that says so (Z-77, V-24)", async () => {
  expect(methodOf(vmOf(one({})))).toBe("yescrypt");
  expect(methodOf(vmOf(one({ preset: "zvm" })))).toBe("sha512");
  expect(await hashWith("yescrypt", "secret")).toMatch(/^\$y\$j9T\$[./0-9A-Za-z]{24}\$[./0-9A-Za-z]{43}$/);
  expect(await hashWith("sha512", "secret")).toMatch(/^\$6\$[./0-9A-Za-z]{16}\$[./0-9A-Za-z]{86}$/);
});

test("a login with the password fits the hash, with whatever characters it has, and another does not (T-115)", async () => {
  const passwords = fc.oneof(
    fc.constantFrom("with space ", "'\"$(x)`\\", "пароль", "%s"),
    fc.string({ minLength: 1, maxLength: 40 }),
  );
  await fc.assert(
    fc.asyncProperty(
      passwords.filter((text) => !/[\0\n\r]/.test(text)),
      async (password) => {
        const hash = (await hashWith("sha512", password)) ?? "";
        expect(crypted(password, hash)).toBe(hash);
        expect(crypted(`${password}.`, hash)).not.toBe(hash);
      },
    ),
    { numRuns: 15 },
  );
  const hash = (await hashWith("yescrypt", "secret")) ?? "";
  expect(crypted("secret", hash)).toBe(hash);
});

test("two hashes of one password differ", () => {
  expect(saltOf("yescrypt")).not.toBe(saltOf("yescrypt"));
});

test("the password is in no argument and in no variable of the environment", async () => {
  const perl = path.join(dir, "perl");
  fs.writeFileSync(perl, `#!/bin/sh\n{ tr '\\0' '\\n' </proc/$$/cmdline; env; } >"${dir}/seen"\nexec perl "$@"\n`, {
    mode: 0o755,
  });
  expect(await hashWith("sha512", "very-secret-word", perl)).toMatch(/^\$6\$/);
  const seen = fs.readFileSync(path.join(dir, "seen"), "utf8");
  expect(seen).toContain(perl);
  expect(seen).not.toContain("very-secret-word");
});

test("where the host's crypt has no yescrypt it is SHA-512, which is said; without any, nothing is", async () => {
  const perl = path.join(dir, "perl");
  const shim = (body: string) => fs.writeFileSync(perl, `#!/bin/sh\n${body}\n`, { mode: 0o755 });
  const notes: string[] = [];
  // As a crypt(3) that does not know the method answers.
  shim('input=$(cat); case "$input" in "\\$y"*) printf "*0" ;; *) printf %s "$input" | exec perl "$@" ;; esac');
  expect(await hashOf("yescrypt", "secret", (line) => notes.push(line), perl)).toMatch(/^\$6\$/);
  expect(notes).toEqual([expect.stringContaining("no yescrypt")]);
  shim("printf '*0'");
  await expect(hashOf("yescrypt", "secret", () => undefined, perl)).rejects.toThrow(/--hash-stdin/);
  await expect(hashOf("sha512", "secret", () => undefined, path.join(dir, "none"))).rejects.toThrow(/needs perl/);
});

const TEXT = `config:
  nixvm:defaults:
    image: os
  nixvm:fleet:
    own:
      accounts: # mine
        - name: ann
          role: admin # she
        - name: bob
          role: user
          passwordHash:
            secure: v1:old
    plain: # nothing
  nixvm:groups:
    w:
      count: 1
      accounts:
        - { name: ann, role: admin, passwordHash: { secure: v1:ann } }
        - { name: bob, role: user }
`;

function edited(vm: string, account: string, hash: { secure: string } | ""): StackFile {
  const file = path.join(dir, "Pulumi.test.yaml");
  fs.writeFileSync(file, TEXT);
  const open = StackFile.open(file);
  applyEdits(open, passwordEdits(open, layersOf(declaredPlace(open, vm)), { preset: "template" }, account, hash));
  return open;
}

test("root's hash is a field of the VM, as a secret", () => {
  expect(edited("plain", "root", { secure: "v1:x" }).text()).toBe(
    TEXT.replace("    plain: # nothing\n", "    plain: # nothing\n      rootPasswordHash:\n        secure: v1:x\n"),
  );
});

test("an account's hash stands with the account, and comments stay", () => {
  const file = edited("own", "ann", { secure: "v1:x" });
  expect(file.get(["nixvm:fleet", "own", "accounts"])).toEqual([
    { name: "ann", role: "admin", passwordHash: { secure: "v1:x" } },
    { name: "bob", role: "user", passwordHash: { secure: "v1:old" } },
  ]);
  for (const comment of ["# mine", "# she", "# nothing"]) expect(file.text()).toContain(comment);
  expect(edited("own", "bob", "").get(["nixvm:fleet", "own", "accounts", 1, "passwordHash"])).toBe("");
});

test("accounts that come from elsewhere come along, with the secrets of the others as they are", () => {
  expect(edited("w-1", "bob", { secure: "v1:x" }).get(["nixvm:groups", "w", "members", "1", "accounts"])).toEqual([
    { name: "ann", role: "admin", passwordHash: { secure: "v1:ann" } },
    { name: "bob", role: "user", passwordHash: { secure: "v1:x" } },
  ]);
  expect(edited("plain", "user", { secure: "v1:x" }).get(["nixvm:fleet", "plain", "accounts"])).toEqual([
    { name: "admin", role: "admin" },
    { name: "user", role: "user", passwordHash: { secure: "v1:x" } },
  ]);
});
