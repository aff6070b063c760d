import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import * as fc from "fast-check";
import { parse } from "yaml";
import { type Plan, planFleet, type PlanContext, type VmPlan } from "../../components/plan";
import { generationOf, volumeOf } from "../../cli/declare";
import { cleared, newWarnings, sectionsOf, secretsOf } from "../../cli/editedPlan";
import {
  absentEdits,
  applyEdits,
  type Edit,
  generationEdits,
  newEntryEdits,
  presentEdits,
  purgeEdits,
  shapeEdits,
  unprotectEdits,
} from "../../cli/edits";
import { effectOf } from "../../cli/effects";
import { changesIn, lossOf, partsOf, waitingFor } from "../../cli/letGo";
import { choices, resolveNetwork } from "../../cli/networkChoice";
import { declaredNames, declaredPlace, type Place, placeOf } from "../../cli/place";
import { memorySpelling, numberSpelling, sizeSpelling } from "../../cli/spelling";
import { StackFile } from "../../cli/stackFile";
import { isSo, written } from "../../cli/verbs/network";
import { bridges } from "../../components/machine";
import { context, sshKey } from "./plan-support";

let dir: string;
beforeEach(() => (dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm declare "))));
afterEach(() => fs.rmSync(dir, { recursive: true, force: true }));

const TEXT = `# ours
config:
  nixvm:images:
    os: { path: images/os.qcow2 }
  nixvm:defaults:
    image: os
    adminKeys:
      - ${sshKey} # mine
  # the fleet
  nixvm:fleet:
    db: # the database
      memory: 1GiB # enough
      persist:
        size: 5GiB
    plain:
    web: {}
  nixvm:groups:
    worker: # equal ones
      count: 3
      members:
        2: # another size
          memory: 3GiB
`;

function open(text = TEXT): StackFile {
  const file = path.join(dir, "Pulumi.test.yaml");
  fs.writeFileSync(file, text);
  return StackFile.open(file);
}

function planText(text: string, extra: Partial<PlanContext> = {}): Plan {
  const result = planFleet(sectionsOf(text), { ...context, ...extra });
  if (!result.ok) throw new Error(JSON.stringify(result.problems));
  return result.plan;
}

const vmIn = (text: string, name: string): VmPlan | undefined => planText(text).vms.find((vm) => vm.name === name);

/** What differs between two VMs, without what only says in which order they are changed. */
function differences(a: VmPlan | undefined, b: VmPlan | undefined): string[] {
  const keys = Object.keys({ ...a, ...b }) as (keyof VmPlan)[];
  return keys.filter(
    (key) => JSON.stringify(a?.[key]) !== JSON.stringify(b?.[key]) && key !== "after" && key !== "rollout",
  );
}

const NAMES = ["db", "plain", "web", "worker-1", "worker-2", "worker-3"];

describe("where a VM is declared", () => {
  test("entries of the fleet and members of groups are found, also one that is numbered by a number", () => {
    const file = open();
    expect(declaredNames(file)).toEqual(NAMES);
    expect(placeOf(file, "db")).toEqual({ where: ["nixvm:fleet", "db"] });
    const member = { group: "worker", number: 2, count: 3 };
    expect(placeOf(file, "worker-2")).toEqual({ where: ["nixvm:groups", "worker", "members", 2], member });
    expect(placeOf(file, "worker-1")?.where).toEqual(["nixvm:groups", "worker", "members", "1"]);
    for (const none of ["worker", "worker-0", "worker-4", "worker-02", "none", "-1"])
      expect(placeOf(file, none)).toBeUndefined();
  });

  test("an unknown one is refused with those there are", () => {
    expect(() => declaredPlace(open(), "d")).toThrow(
      /vm: "d" is no VM of the stack file; did you mean db\?; allowed: db, /,
    );
    expect(() => declaredPlace(open("config: {}\n"), "d")).toThrow(/none, as it has no VMs yet/);
  });
});

describe("edits", () => {
  test("comments stay, and each edit is one line", () => {
    const file = open();
    applyEdits(file, shapeEdits(["nixvm:fleet", "db"], { memory: "2GiB", size: "6GiB", vcpus: 4 }));
    applyEdits(file, shapeEdits(declaredPlace(file, "worker-2").where, { memory: "4GiB" }));
    applyEdits(file, absentEdits(declaredPlace(file, "plain")));
    const expected = TEXT.replace("memory: 1GiB # enough", "memory: 2GiB # enough")
      .replace("        size: 5GiB\n", "        size: 6GiB\n      vcpus: 4\n")
      .replace("memory: 3GiB", "memory: 4GiB")
      .replace("    plain:\n", "    plain:\n      state: absent\n");
    expect(file.text()).toBe(expected);
  });

  test("writing what is there already changes nothing", () => {
    const file = open();
    applyEdits(file, shapeEdits(["nixvm:fleet", "db"], { memory: "1GiB", size: "5GiB" }));
    expect(file.changed).toBe(false);
  });

  test("create's words give the entry of the stack file (T-32, T-125)", () => {
    const file = open();
    const shape = {
      image: "os",
      memory: memorySpelling("2048"),
      vcpus: numberSpelling("2"),
      size: sizeSpelling("20G"),
    };
    applyEdits(file, newEntryEdits("myvm", { ...shape, network: "bridge:br0" }));
    expect(parse(file.text()).config["nixvm:fleet"].myvm).toEqual({
      image: "os",
      memory: "2GiB",
      vcpus: 2,
      network: "bridge:br0",
      persist: { size: "20GiB" },
    });
    expect(vmIn(file.text(), "myvm")).toMatchObject({
      memoryMiB: 2048,
      vcpus: 2,
      persist: { sizeBytes: 20 * 2 ** 30 },
      network: { mode: "bridge", bridge: "br0" },
    });
    const plain = open();
    applyEdits(plain, newEntryEdits("myvm", {}));
    expect(vmIn(plain.text(), "myvm")).toBeDefined();
  });

  test("what is no size stays as it was typed, for the planner to name", () => {
    expect([sizeSpelling("20GB"), memorySpelling("lots"), numberSpelling("two"), memorySpelling("2G")]).toEqual([
      "20GB",
      "lots",
      "two",
      "2GiB",
    ]);
  });

  test("an absent VM comes back as it was, also where its group says that all are absent (T-54, T-106)", () => {
    const file = open();
    const place = declaredPlace(file, "db");
    applyEdits(file, absentEdits(place));
    expect(vmIn(file.text(), "db")).toBeUndefined();
    applyEdits(file, presentEdits(place, false));
    expect(file.text()).toBe(TEXT);
    const all = open(TEXT.replace("count: 3", "count: 3\n      state: absent"));
    applyEdits(all, presentEdits(declaredPlace(all, "worker-2"), true));
    expect(
      planText(all.text())
        .vms.filter(({ group }) => group !== null)
        .map(({ name }) => name),
    ).toEqual(["worker-2"]);
  });

  test("purge takes the entry, of a group its last member and its own fields (T-55)", () => {
    const file = open();
    applyEdits(file, purgeEdits(file, declaredPlace(file, "db")));
    expect(declaredNames(file)).toEqual(NAMES.filter((name) => name !== "db"));
    for (const name of ["worker-3", "worker-2"]) applyEdits(file, purgeEdits(file, declaredPlace(file, name)));
    expect(declaredNames(file)).toEqual(["plain", "web", "worker-1"]);
    expect(planText(file.text()).vms.map(({ name }) => name)).toEqual(["plain", "web", "worker-1"]);
  });

  const shape = fc.record(
    {
      memory: fc.constantFrom("512MiB", "4GiB", 2048),
      vcpus: fc.integer({ min: 1, max: 64 }),
      size: fc.constantFrom("6GiB", "20GiB"),
      network: fc.constantFrom("user", "bridge:br0", "nat"),
    },
    { requiredKeys: [] },
  );
  const FIELD: Record<string, string[]> = {
    memory: ["memoryBytes", "memoryMiB"],
    vcpus: ["vcpus"],
    size: ["persist"],
    network: ["network"],
  };
  const kinds: [string, fc.Arbitrary<(place: Place) => Edit[]>, (edits: Edit[]) => string[]][] = [
    [
      "shape",
      shape.map((s) => (place: Place) => shapeEdits(place.where, s)),
      (edits) => edits.flatMap(({ where }) => FIELD[String(where.at(-1))] ?? []),
    ],
    [
      "generation",
      fc.integer({ min: 1, max: 9 }).map((n) => (place: Place) => generationEdits(place, n)),
      () => ["generation", "persist"],
    ],
    ["protection", fc.constant(unprotectEdits), () => ["persist"]],
  ];

  test.each(kinds)(
    "%s: the plan of the edited file differs in that one VM and in nothing else of it",
    (_, edits, fields) => {
      fc.assert(
        fc.property(fc.constantFrom(...NAMES), fc.boolean(), edits, (name, flow, make) => {
          // As a program would have left it, all on a line.
          const text = flow ? JSON.stringify(parse(TEXT)) : TEXT;
          const file = open(text);
          const done = make(declaredPlace(file, name));
          applyEdits(file, done);
          const [before, after] = [planText(text), planText(file.text())];
          for (const [i, other] of before.vms.entries()) {
            const changed = differences(other, after.vms[i]);
            expect(other.name === name ? changed.filter((key) => !fields(done).includes(key)) : changed).toEqual([]);
          }
          for (const { where, value } of done) expect(file.get(where)).toEqual(value);
          if (!flow) for (const comment of TEXT.match(/#.*$/gm) ?? []) expect(file.text()).toContain(comment);
        }),
      );
    },
  );
});

describe("secrets in a stack file that is edited", () => {
  const written = {
    defaults: { rootPasswordHash: { secure: "v1:a" } },
    fleet: { web: { accounts: [{ passwordHash: { secure: "v1:b" } }] } },
  };
  const clear = { defaults: { rootPasswordHash: "one" }, fleet: { web: { accounts: [{ passwordHash: "two" }] } } };

  test("stand in clear in what is planned, wherever an edit has put them", () => {
    const secrets = secretsOf(written, clear);
    expect(cleared(written, secrets)).toEqual(clear);
    expect(cleared({ moved: [written.defaults] }, secrets)).toEqual({ moved: [clear.defaults] });
    expect(cleared({ secure: "v1:unknown" }, secrets)).toEqual({ secure: "v1:unknown" });
  });

  test("sections are those of our namespace, and an empty file has none", () => {
    expect(sectionsOf("config:\n  nixvm:fleet: {}\n  aws:region: x\n")).toEqual({ fleet: {} });
    expect(sectionsOf("")).toEqual({});
    expect(sectionsOf("config:\n")).toEqual({});
  });

  test("a warning is said when an edit brings it, and not when it was there before", () => {
    const file = open();
    const before = planText(file.text());
    file.set(["nixvm:fleet", "web", "tcpPorts"], [80]);
    const after = planText(file.text());
    expect(newWarnings(before, after)).toEqual([expect.stringContaining("fleet.web.tcpPorts")]);
    expect(newWarnings(after, after)).toEqual([]);
  });
});

const URN = (tail: string): string => `urn:pulumi:test::nixvm::nixvm:index:Fleet$${tail}`;
const VM = URN("nixvm:index:VirtualMachine::web");
const OTHER = URN("nixvm:index:VirtualMachine::web-2");
const GUEST = URN("nixvm:index:VirtualMachine$nixvm:index:Guest::web-guest");
const VOLUME = URN(
  "nixvm:index:VirtualMachine$nixvm:index:PersistentVolume$libvirt:index/volume:Volume::web-persist-volume",
);

function state(inputs: Record<string, unknown> = {}, volume = "nixvm-test-web-persist") {
  return [
    { urn: VM, type: "nixvm:index:VirtualMachine" },
    { urn: `${VM}-persist`, type: "nixvm:index:PersistentVolume", parent: VM },
    { urn: VOLUME, type: "libvirt:index/volume:Volume", parent: `${VM}-persist`, inputs: { name: volume } },
    { urn: GUEST, type: "nixvm:index:Guest", parent: VM, inputs },
    { urn: OTHER, type: "nixvm:index:VirtualMachine" },
    { urn: `${OTHER}-domain`, type: "libvirt:index/domain:Domain", parent: OTHER, dependencies: [GUEST] },
  ];
}

describe("what is there of a VM", () => {
  test("its parts are those below it, not those of one whose name begins the same", () => {
    expect(partsOf(state(), "web").map(({ urn }) => urn)).toEqual([VM, `${VM}-persist`, VOLUME, GUEST]);
    expect(waitingFor(state(), "web").map(({ urn }) => urn)).toEqual([`${OTHER}-domain`]);
    expect(waitingFor(state(), "web-2")).toEqual([]);
  });

  test("its generation is that of its volume", () => {
    expect(generationOf(state(), "web")).toBe(0);
    expect(generationOf(state({}, "nixvm-test-web-persist-g12"), "web")).toBe(12);
    expect(generationOf(state(), "none")).toBeUndefined();
    const going = state().map((one) => (one.urn === VOLUME ? { ...one, delete: true } : one));
    expect(volumeOf(going, "web")).toBeUndefined();
  });

  test("a preview's changes are found by what they are of", () => {
    const steps = [
      { op: "same", urn: "a" },
      { op: "update", urn: "b" },
      { op: "delete", urn: "c" },
    ];
    expect(changesIn(`warning: x\n${JSON.stringify({ steps })}`, new Set(["a", "b"]))).toEqual(["b"]);
    expect(changesIn("{}", new Set(["a"]))).toEqual([]);
  });

  test("what is lost is named: data, snapshots, boot disk, and a host key that only the guest has", () => {
    const vm = { overlayPath: "/pool/o", persistPath: "/pool/p" } as never;
    expect(lossOf(vm, "guest").join("\n")).toMatch(/data.*\/pool\/p\n.*snapshots.*\n.*\/pool\/o.*\n.*SSH host key/);
    expect(lossOf(vm, "stack").join("\n")).not.toContain("host key");
    expect(lossOf({ overlayPath: "/pool/o" }, "guest")).toHaveLength(1);
    expect(lossOf(undefined, "guest")).toEqual([]);
  });
});

describe("live or with a restart is said by the provider's own rules", () => {
  const inputs = {
    memoryMiB: 1024,
    vcpus: 2,
    persistBytes: 5 * 2 ** 30,
    network: "network default",
    nic: { type: "network", source: "default", mac: "m" },
    running: true,
  };
  const effect = (entry: string, olds: object = {}) => {
    const text = TEXT.replace("    web: {}", `    web: { memory: 1GiB, persist: { size: 5GiB }, ${entry} }`);
    return effectOf(state({ ...inputs, ...olds }), vmIn(text, "web") as VmPlan);
  };

  test.each<[string, string, object, boolean, RegExp | undefined]>([
    ["nothing", "vcpus: 2", {}, false, undefined],
    ["more vCPUs", "vcpus: 4", {}, true, /vCPUs changes from 2 to 4/],
    ["more vCPUs up to the maximum", "vcpus: 4, vcpusMaximum: 8", { vcpusMaximum: 8 }, false, /live/],
    ["fewer vCPUs", "vcpus: 1, vcpusMaximum: 8", { vcpusMaximum: 8 }, true, /from 2 to 1/],
    [
      "memory up to the maximum",
      "memoryMaximum: 2GiB",
      { memoryMiB: 512, memoryMaximumMiB: 2048 },
      false,
      /512 MiB to 1024 MiB live/,
    ],
    ["memory without one", "vcpus: 2", { memoryMiB: 512 }, true, /memory changes/],
    ["a larger disk", "vcpus: 2", { persistBytes: 2 ** 30 }, false, /persist grows from 1 GiB to 5 GiB live/],
    ["another network", "network: bridge:br0", {}, false, /moves from network default to bridge br0 live/],
    ["user networking", "network: user", {}, true, /network changes from network default to user/],
    ["while it is off", "vcpus: 4, running: false", { running: false }, false, /while it is off/],
  ])("%s (T-44, T-62, T-123)", (_, entry, olds, restarts, reason) => {
    const said = effect(entry, olds);
    expect(said.restarts).toBe(restarts);
    if (reason === undefined) expect(said.reasons).toEqual([]);
    else expect(said.reasons.join("\n")).toMatch(reason);
  });
});

describe("networks", () => {
  test("bridges are those of the host, and the only one needs no name (T-121, T-125)", () => {
    const net = path.join(dir, "net");
    for (const nic of ["eth0", "br0/bridge", "virbr0/bridge"]) fs.mkdirSync(path.join(net, nic), { recursive: true });
    expect(bridges(net).sort()).toEqual(["br0", "virbr0"]);
    expect(resolveNetwork("bridge", { bridges: ["br0"], networks: [] }, "local")).toBe("bridge:br0");
    expect(resolveNetwork("bridge", { bridges: ["br0", "br1"], networks: [] }, "local")).toBeUndefined();
    expect(resolveNetwork("user", { bridges: [], networks: [] }, "local")).toBe("user");
    expect(() => resolveNetwork("bridge", { bridges: [], networks: [] }, "local")).toThrow(/host local has no bridge/);
    expect(() => resolveNetwork("bridge", { bridges: undefined, networks: [] }, "rack")).toThrow(
      /cannot be seen from here/,
    );
    expect(choices({ bridges: ["br0"], networks: ["default", "lan"] })).toEqual([
      "nat",
      "nat:lan",
      "bridge:br0",
      "user",
    ]);
  });

  test("a MAC address that is written stays, and what is so already is known (T-122)", () => {
    expect(written("bridge:br0", "02:00:00:00:00:01")).toEqual({
      mode: "bridge",
      bridge: "br0",
      mac: "02:00:00:00:00:01",
    });
    expect(written("nat:lan", "m")).toEqual({ mode: "nat", network: "lan", mac: "m" });
    expect(written("user", undefined)).toBe("user");
    expect(isSo({ mode: "user", sshPort: 1, mac: null }, "user")).toBe(true);
    expect(isSo({ mode: "bridge", bridge: "br0", mac: null }, "bridge:br1")).toBe(false);
    const nat = { mode: "nat", network: "p-lan", entry: "lan", address: null, mac: null } as const;
    expect([isSo(nat, "nat"), isSo(nat, "nat:lan"), isSo({ ...nat, entry: null, network: "default" }, "nat")]).toEqual([
      false,
      true,
      true,
    ]);
  });
});
