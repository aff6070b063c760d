import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import * as fc from "fast-check";
import { execFileSync } from "node:child_process";
import { hostKeyOf } from "../../components/plan/hostkey";
import { type Plan, planFleet } from "../../components/plan";
import { sectionsOf } from "../../cli/editedPlan";
import { applyEdits } from "../../cli/edits";
import { declaredPlace } from "../../cli/place";
import { addKeyEdits, allPlaces, isMeant, keysOf, layersOf, partsOfKey, removeKeyEdits } from "../../cli/sshKeys";
import { StackFile } from "../../cli/stackFile";
import { context } from "./plan-support";

let dir: string;
beforeEach(() => (dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm keys "))));
afterEach(() => fs.rmSync(dir, { recursive: true, force: true }));

const key = (name: string): string => `${hostKeyOf("ab".repeat(16), name).publicKey} ${name}`;
const [ann, bob, eve] = ["ann", "bob", "eve"].map(key) as [string, string, string];

const TEXT = `config:
  nixvm:images:
    os: { path: images/os.qcow2 }
  nixvm:defaults:
    image: os
    adminKeys: # of all
      - ${ann} # hers
      - ${bob}
    userKeys: [${JSON.stringify(eve)}]
  nixvm:fleet:
    own:
      adminKeys:
        - ${bob}
        - ${eve}
    accounts:
      accounts:
        - name: root2
          role: admin
          authorizedKeys: [${JSON.stringify(eve)}]
          passwordHash:
            secure: v1:abc
        - { name: guest, role: user }
    plain:
  nixvm:groups:
    w:
      count: 2
      adminKeys: [${JSON.stringify(ann)}]
      members:
        2: { userKeys: [${JSON.stringify(bob)}] }
`;

function open(text = TEXT): StackFile {
  const file = path.join(dir, "Pulumi.test.yaml");
  fs.writeFileSync(file, text);
  return StackFile.open(file);
}

function planOf(file: StackFile): Plan {
  const config = JSON.parse(
    JSON.stringify(sectionsOf(file.text())).replaceAll('{"secure":"v1:abc"}', '"$y$j9T$12345678"'),
  );
  const result = planFleet(config, context);
  if (!result.ok) throw new Error(JSON.stringify(result.problems));
  return result.plan;
}

const VMS = ["accounts", "own", "plain", "w-1", "w-2"];
const itself = (entry: string): Promise<string[]> => Promise.resolve([entry]);
const who = (file: StackFile, vms: string[] = VMS): string[] =>
  keysOf(planOf(file), vms).map(({ vm, account, comment }) => `${vm}/${account}/${comment}`);

test("a fingerprint is what ssh-keygen says it is", () => {
  const file = path.join(dir, "k.pub");
  fs.writeFileSync(file, `${ann}\n`);
  const said = execFileSync("ssh-keygen", ["-l", "-f", file], { encoding: "utf8" });
  expect(said.split(" ")[1]).toBe(partsOfKey(ann).fingerprint);
});

test("a key is meant by fingerprint, comment, or itself", () => {
  const parts = partsOfKey(ann);
  for (const meant of [parts.fingerprint, "ann", ann, parts.blob, ` ${ann} `, `${parts.type} ${parts.blob}`]) {
    expect(isMeant(parts, meant)).toBe(true);
  }
  for (const meant of ["an", "", bob, "SHA256:"]) expect(isMeant(parts, meant)).toBe(false);
  expect(isMeant(partsOfKey(ann.replace(/ ann$/, "")), "")).toBe(true);
});

test("a key that is added to a VM is added to what it had, and nobody else gets it (T-96)", () => {
  const file = open();
  applyEdits(file, addKeyEdits(file, layersOf(declaredPlace(file, "plain")), "admin", eve));
  expect(who(file, ["plain"])).toEqual(["plain/admin/ann", "plain/admin/bob", "plain/admin/eve", "plain/user/eve"]);
  expect(who(file).filter((one) => !one.startsWith("plain"))).toEqual(
    who(open()).filter((one) => !one.startsWith("plain")),
  );
  expect(file.text()).toContain("# hers");
  expect(addKeyEdits(file, layersOf(declaredPlace(file, "plain")), "admin", eve)).toEqual([]);
});

test("a key that comes from defaults, a group, an own list or an account is gone after it was removed (T-97)", async () => {
  const all = fc.constantFrom(...VMS);
  await fc.assert(
    fc.asyncProperty(all, fc.constantFrom(ann, bob, eve), async (vm, gone) => {
      const file = open();
      const before = who(file);
      applyEdits(
        file,
        await removeKeyEdits(file, layersOf(declaredPlace(file, vm)), ["admin", "user"], partsOfKey(gone), itself),
      );
      const { comment } = partsOfKey(gone);
      expect(who(file)).toEqual(before.filter((one) => !(one.startsWith(`${vm}/`) && one.endsWith(`/${comment}`))));
    }),
    { numRuns: 30 },
  );
});

test("a key that is removed everywhere is nowhere, and the others are as they were", async () => {
  const file = open();
  const before = who(file);
  for (const where of allPlaces(file)) {
    applyEdits(file, await removeKeyEdits(file, [where], ["admin", "user"], partsOfKey(eve), itself));
  }
  expect(who(file)).toEqual(before.filter((one) => !one.endsWith("/eve")));
  expect(file.text()).not.toContain(partsOfKey(eve).blob);
  expect(file.text()).toContain("secure: v1:abc");
});

test("a role leaves the other one's keys alone", async () => {
  const file = open();
  applyEdits(
    file,
    await removeKeyEdits(file, layersOf(declaredPlace(file, "own")), ["admin"], partsOfKey(eve), itself),
  );
  expect(who(file, ["own"])).toEqual(["own/admin/bob", "own/user/eve"]);
});

test("of a key file only the key goes: what else is in it stays, and a file without it stays a file", async () => {
  const file = open(TEXT.replace(JSON.stringify(eve), '"file:keys.pub", "file:other.pub"'));
  const expand = (entry: string) => Promise.resolve(entry === "file:keys.pub" ? [bob, eve] : [ann]);
  applyEdits(file, await removeKeyEdits(file, [["nixvm:defaults"]], ["user"], partsOfKey(eve), expand));
  expect(file.get(["nixvm:defaults", "userKeys"])).toEqual([bob, "file:other.pub"]);
});
