import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { CliProject, type Said } from "../helpers/cliProject";
import { newKey } from "../helpers/guest";
import { IMAGES, ROOT, virsh } from "../helpers/liveStack";
import { filesWith, holds, Witness } from "../helpers/witness";

// Secrets that are known by their look, and every place that they could turn up in. The real engine, providers and libvirt; the VM is
// declared to be off, as nothing here needs its guest.
jest.setTimeout(5 * 60_000);

/** A hash of the stack file: sha512-crypt with letters that nothing else has. */
const hash = (who: string): string => `$6$saltsaltsalt$Canary${who}${"x".repeat(74)}`;
const HASHES = [hash("Root"), hash("Admin")];

let dir: string;
let witness: Witness;
let project: CliProject;
/** Hashes, and then what the state holds: the fleet's key, and lines of the host key. */
let secrets: string[];
const said: Said[] = [];

async function pulumi(...args: string[]): Promise<Said> {
  const result = await project.pulumi(...args);
  said.push(result);
  return result;
}

beforeAll(async () => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm secrets "));
  witness = new Witness(dir);
  process.env.PATH = `${witness.bin}:${process.env.PATH ?? ""}`;
  process.env.TMPDIR = witness.tmp;
  process.env.PULUMI_DEBUG_COMMANDS = "true";
  project = await CliProject.make("secrets", (folder) => ({
    images: { os: { path: path.join(IMAGES, "reference-v1.qcow2") } },
    fleet: {
      vault: {
        image: "os",
        running: false,
        persist: { size: "64MiB" },
        network: { mode: "user", sshPort: 23901 },
        identity: { sshHostKey: "stack" },
        accounts: [{ name: "admin", role: "admin", authorizedKeys: [newKey(folder, "admin").publicKey] }],
      },
    },
  }));
  for (const [where, value] of [
    ["fleet.vault.rootPasswordHash", HASHES[0]],
    ["fleet.vault.accounts[0].passwordHash", HASHES[1]],
  ]) {
    // As a user does it who wants no secret in his shell's history: from a file on stdin.
    const child = project.spawn("pulumi", [
      "config",
      "set",
      "--secret",
      "--path",
      `nixvm:${where}`,
      "--non-interactive",
    ]);
    child.stdin?.end(value);
    expect(await new Promise((done) => child.on("close", done))).toBe(0);
  }
  witness.watch(true);
  const up = await pulumi("up", "--yes", "--diff", "--event-log", path.join(dir, "up.json"));
  expect([up.code, up.stderr]).toEqual([0, expect.any(String)]);
  await pulumi("preview", "--diff", "--refresh", "--event-log", path.join(dir, "preview.json"));
  await pulumi("preview", "--json");
  said.push(await project.nixvm("list", "--json"));
  witness.watch(false);

  const shown = JSON.parse((await project.pulumi("stack", "export", "--show-secrets")).stdout) as {
    deployment: { resources: { urn: string; inputs: Record<string, any>; outputs: Record<string, any> }[] };
  };
  const plain = (value: { plaintext: string }): string => JSON.parse(value.plaintext) as string;
  const of = (end: string) => shown.deployment.resources.find(({ urn }) => urn.endsWith(end));
  const seed = plain(of("::vault-seed-iso")?.inputs.userData);
  const key = (JSON.parse(seed.replace(/^#.*\n/, "")) as { nixvm: { identity: { sshHostKey: string } } }).nixvm
    .identity;
  // What the first line begins with all keys have.
  const lines = key.sshHostKey
    .split("\n")
    .filter((line) => /^[A-Za-z0-9+/]{60,70}$/.test(line))
    .slice(1);
  expect(lines.length).toBeGreaterThan(2);
  expect(holds(seed, [HASHES[0] ?? ""]) && holds(seed, [HASHES[1] ?? ""])).toBe(true);
  secrets = [...HASHES, ...lines, plain(of("::fleet-key")?.outputs.result)];
});

afterAll(async () => {
  witness.watch(false);
  await project.remove();
  fs.rmSync(dir, { recursive: true, force: true });
});

test("a secret is in no file of the state, stack file, event log or temporary file that a run leaves (T-25, T-26, G-5)", () => {
  expect(fs.readFileSync(project.stackFile, "utf8")).toMatch(/secure/);
  expect(fs.statSync(path.join(dir, "up.json")).size).toBeGreaterThan(1000);
  // What was put on record of xsltproc, which the libvirt provider starts, is for the next test but one.
  expect(filesWith(dir, secrets).filter((file) => !file.startsWith(witness.records))).toEqual([]);
});

test("a secret is in nothing that preview, up and the verbs show, in any form (T-26, G-5)", () => {
  expect(said.map(({ code }) => code)).toEqual([0, 0, 0, 0]);
  const text = said.map(({ stdout, stderr }) => stdout + stderr).join("\n");
  expect(text).toContain("[secret]");
  expect(secrets.filter((one) => text.includes(one))).toEqual([]);
});

// Pulumi hands the config over in the environment of the program and of providers. Only the same user can read it there.
const BY_PULUMI = /@pulumi\/pulumi\/cmd\/run |pulumi-resource-|terraform-provider/;

test("a secret is in no argument of a process, and in the environment of none that we start (T-25, G-5)", () => {
  expect(witness.calls("virsh")).toBeGreaterThan(10);
  expect(witness.calls("mkisofs")).toBe(1);
  expect(witness.arguments(secrets)).toEqual([]);
  expect(witness.environmentsWith(secrets).filter((command) => !BY_PULUMI.test(command))).toEqual([]);
  expect(witness.environmentsWith(secrets).length).toBeGreaterThan(0);
});

test("while a seed is made its text is in files of mode 0600 in a folder of mode 0700 only (T-25)", () => {
  expect(witness.temporary(secrets)).toEqual(["600 700 seed.iso", "600 700 user-data"]);
});

test("a secret is on the host in the seed alone, which others cannot read, and not in the domain (T-25, G-5)", () => {
  const pool = path.join(process.env.NIXVM_POOL_ROOT ?? "", "nixvm-secrets");
  const found = fs
    .readdirSync(pool)
    .filter(
      (file) => /seed|persist|vault/.test(file) && holds(fs.readFileSync(path.join(pool, file), "latin1"), secrets),
    );
  expect(found).toEqual(["nixvm-secrets-vault-seed.iso"]);
  for (const file of fs.readdirSync(pool).filter((name) => !name.includes("-base-")))
    expect([file, fs.statSync(path.join(pool, file)).mode & 0o077]).toEqual([file, 0]);
  for (const flags of [[], ["--inactive", "--security-info"]])
    expect(holds(virsh("dumpxml", ...flags, "nixvm-secrets-vault"), secrets)).toBe(false);
  const logs = [path.join(ROOT, ".nixvm", "log"), process.env.NIXVM_CONSOLE_DIR ?? ""].filter((folder) =>
    fs.existsSync(folder),
  );
  expect(logs.flatMap((folder) => filesWith(folder, secrets))).toEqual([]);
});
