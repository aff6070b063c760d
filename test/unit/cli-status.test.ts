import fc from "fast-check";
import { driftOf } from "../../cli/drift";
import { groupsOf } from "../../cli/groups";
import { healthOf, rowOf } from "../../cli/statusRow";
import { cellsOf, detailText, plain, statusTable } from "../../cli/statusText";
import { fillOf, parseSurvey } from "../../cli/survey";
import { type VmFacts } from "../../cli/vmFacts";
import { AT, DIGEST, factsOf, guestOf, machine, sampleFacts, stateVm } from "../helpers/sampleFleet";

const MARK = "--nixvm--\n";
const RECORD = JSON.stringify({
  ...{ schema: 1, imageId: "i", healthy: true, rebootPending: true },
  persist: { state: "mounted", mount: "/var", sizeBytes: 5 },
});
const NUMBERS = "4242.17 8000.00\nMemTotal:        2000 kB\nMemFree:  1 kB\nMemAvailable:    1500 kB\n";
const DF = [
  "Filesystem     1024-blocks    Used Available Capacity Mounted on",
  "/dev/vda2          4000000 2000000   2000000      50% /",
  "/dev/vdb1          1000000  250000    550000      32% /var",
  "/dev/vdb1          1000000  250000    550000      32% /var",
].join("\n");
const IP = "2: eth0    inet 10.0.2.15/24 brd 10.0.2.255 scope global dynamic eth0\\ valid_lft 8s";
const answer = (...parts: string[]): string => parts.map((part) => `${part}\n${MARK}`).join("");

describe("what a guest answers", () => {
  test("is read from one command: system, record, uptime, memory, address and fill", () => {
    const said = parseSurvey(answer("running", RECORD, NUMBERS, IP, DF));
    expect(said).toMatchObject({
      system: "running",
      uptimeSeconds: 4242.17,
      ip: "10.0.2.15",
      status: { imageId: "i" },
    });
    expect([said.memoryBytes, said.memoryUsedBytes]).toEqual([2000 * 1024, 500 * 1024]);
    // What is kept for root is nobody's to fill.
    expect(said.disks).toEqual([
      { mount: "/", sizeBytes: 4_000_000 * 1024, usedBytes: 2_000_000 * 1024 },
      { mount: "/var", sizeBytes: 800_000 * 1024, usedBytes: 250_000 * 1024 },
    ]);
    expect(fillOf(said)?.mount).toBe("/var");
  });

  test("is the root's fill of an image without a record, and none of a VM without a volume", () => {
    const without = parseSurvey(answer("running", "", NUMBERS, "", DF));
    expect(without).not.toHaveProperty("status");
    expect(without).not.toHaveProperty("ip");
    expect(fillOf(without)?.mount).toBe("/");
    const record = '{"schema":1,"imageId":"i","healthy":true,"persist":{"state":"none","mount":""}}';
    expect(fillOf(parseSurvey(answer("running", record, NUMBERS, IP, DF)))).toBeUndefined();
  });

  test("is not known where it says nothing, or something else", () => {
    expect(parseSurvey("")).toEqual({ system: "unknown", disks: [] });
    expect(parseSurvey(answer("running", "{", "", "", "")).statusProblem).toContain("not JSON");
    expect(parseSurvey(answer("running", "", "MemTotal: 5 kB", "inet6 ::1/128", "df: /var: gone"))).toEqual({
      ...{ system: "running", memoryBytes: 5 * 1024, disks: [] },
    });
  });

  test("never breaks the table, whatever it is", () => {
    const part = fc.oneof(fc.string(), fc.string({ unit: "binary" }), fc.constantFrom(RECORD, NUMBERS, IP, DF));
    fc.assert(
      fc.property(fc.array(part, { maxLength: 7 }), (parts) => {
        const guest = parseSurvey(answer(...parts));
        const vm = stateVm("web", { imageId: "i" });
        const lines = statusTable([rowOf(factsOf(vm, { guest }))]).split("\n");
        expect(lines).toHaveLength(2);
        expect(lines[1]).toMatch(/^web /);
      }),
    );
  });
});

const db = stateVm("db", { memoryMiB: 4096, vcpus: 4 });
const other = "/var/lib/libvirt/images/nixvm-prod/nixvm-prod-db-";
const domainOf = (now: object, next: object = now): VmFacts["domain"] => ({
  ...{ state: "running", reason: "booted", now: machine(db, now), next: machine(db, next) },
});
const off = (reason: string): VmFacts["domain"] => ({ state: "shut off", reason, next: machine(db) });

describe("drift", () => {
  test.each<[string, Partial<VmFacts>, string[]]>([
    ["nothing of a VM that is as the state says", {}, []],
    ["memory that it has", { domain: domainOf({ memoryMiB: 3072 }) }, ["has 3072 MiB of memory, declared 4096"]],
    [
      "memory of its next start",
      { domain: domainOf({}, { memoryMiB: 1024 }) },
      ["starts next with 1024 MiB of memory, declared 4096"],
    ],
    ["processors", { domain: domainOf({ vcpus: 1 }) }, ["has 1 vCPUs, declared 4"]],
    [
      "another image",
      { domain: domainOf({ bootPath: `${other}${DIGEST.v1}-ff.qcow2` }) },
      [`boots image ${DIGEST.v1}, the state says ${DIGEST.v2}`],
    ],
    [
      "another overlay",
      { domain: domainOf({ bootPath: `${other}${DIGEST.v2}-ff.qcow2` }) },
      [`boots from another overlay of its image: ${other}${DIGEST.v2}-ff.qcow2`],
    ],
    [
      "a disk of somebody",
      { domain: domainOf({ bootPath: "/x.qcow2" }) },
      ["boots from /x.qcow2, which is no overlay of ours"],
    ],
    [
      "no disk yet",
      { domain: domainOf({ bootPath: undefined }) },
      ["boots from nothing: it was never given a boot disk"],
    ],
    [
      "another disk at its next start",
      { domain: domainOf({}, { bootPath: "/x.qcow2" }) },
      ["at its next start boots from /x.qcow2, which is no overlay of ours"],
    ],
    ["two boot disks", { domain: { state: "running", reason: "booted" } }, ["has a boot disk that is none of ours"]],
    [
      "an image that calls itself otherwise",
      { guest: guestOf(db, {}, { imageId: "i-1" }) },
      ["says that it is image i-1, the state says nixos-server-25.11.2"],
    ],
    ["one that has crashed", { domain: off("crashed") }, ["is shut off (crashed), declared running"]],
    ["one without a reason", { domain: off("unknown") }, ["is shut off, declared running"]],
    ["one that is gone", { domain: undefined }, ["its domain is not on host rack-1"]],
    [
      "one whose name somebody else has",
      { domain: undefined, otherUuid: "u-9" },
      ["its domain is not on host rack-1; domain nixvm-prod-db there has UUID u-9 and is not ours"],
    ],
  ])("is told of %s", (_what, more, texts) => {
    expect(driftOf(factsOf(db, more))?.map(({ text }) => text)).toEqual(texts);
  });

  test("is told of a VM that runs and is declared off, and of none that is off as declared", () => {
    const declared = { ...db, running: false };
    expect(driftOf(factsOf(declared))).toEqual([{ kind: "state", text: "is running (booted), declared shut off" }]);
    expect(driftOf(factsOf(declared, { domain: off("shutdown") }))).toEqual([]);
  });

  test("is not known of a VM whose host does not answer", () => {
    expect(driftOf({ vm: db, at: AT, hostProblem: "no route" })).toBeUndefined();
  });
});

describe("health", () => {
  const health = (more: Partial<VmFacts>, vm = db) => healthOf(factsOf(vm, more));
  const system = (name: string) => ({ guest: guestOf(db, { system: name }) });
  const plainGuest = (name: string) => ({ guest: { system: name, disks: [] } });

  test.each<[string, Partial<VmFacts>, object]>([
    ["healthy", {}, { state: "healthy", healthy: true, reasons: [] }],
    [
      "not healthy",
      { guest: guestOf(db, {}, { healthy: false, reasons: ["a", "b"] }) },
      { state: "not healthy", healthy: false, reasons: ["a", "b"] },
    ],
    ["starting", system("starting"), { state: "starting", healthy: false, reasons: [] }],
    ["stopping", system("stopping"), { state: "stopping", healthy: false, reasons: [] }],
    ["in emergency mode", system("maintenance"), { state: "not healthy", healthy: false, reasons: ["emergency mode"] }],
    ["silent", { guest: undefined, guestProblem: "x" }, { state: "agent silent", healthy: false, reasons: [] }],
    ["without its record", plainGuest("running"), { state: "no status record", healthy: false, reasons: [] }],
    [
      "paused",
      { domain: { state: "paused", reason: "I/O error" } },
      { state: "paused", healthy: false, reasons: ["I/O error"] },
    ],
    ["gone", { domain: undefined }, { state: "gone", healthy: false, reasons: [] }],
    ["out of reach", { hostProblem: "no route" }, { state: "host unreachable", reasons: ["no route"] }],
  ])("of a guest that is %s", (_what, more, expected) => {
    expect(health(more)).toEqual(expected);
  });

  test("of an image of others is that it is up; failed units are told", () => {
    const foreign = { ...db, contract: "none" };
    expect(health(plainGuest("running"), foreign)).toEqual({ state: "up", healthy: true, reasons: [] });
    expect(health(plainGuest("degraded"), foreign)).toMatchObject({ healthy: true, reasons: ["units failed"] });
    expect(health(plainGuest("unknown"), foreign)).toMatchObject({ state: "system unknown", healthy: false });
  });

  test("of a VM that is off as declared is neither good nor bad", () => {
    expect(health({ domain: off("shutdown") }, { ...db, running: false })).toEqual({
      state: "shut off",
      reasons: ["shutdown"],
    });
  });
});

describe("the table", () => {
  const lines = statusTable(sampleFacts().map((facts) => rowOf(facts))).split("\n");
  const line = (name: string) => lines.find((one) => one.startsWith(`${name} `)) ?? "";

  test("has a line for each VM, whatever could be found out of it (T-57)", () => {
    expect(lines.slice(1, 13).map((one) => one.split(" ")[0])).toEqual(sampleFacts().map(({ vm }) => vm.name));
    expect(line("web-1").split(/ {2,}/)).toEqual([
      ...["web-1", "web", "rack-1", `25.11.2 (${DIGEST.v2})`, "3d 6h", "none", "17% of 7.8 GiB", "36% of 2.0 GiB"],
      ...["3d 6h", "192.168.10.21", "healthy"],
    ]);
  });

  test("shows what is not known as -, and why", () => {
    expect(line("backup").split(/ {2,}/)).toEqual([
      ...["backup", "-", "attic", "-", "-", "-", "-", "-", "-", "-"],
      "host unreachable: ssh: connect to host attic port 22: No route to host",
    ]);
    expect(line("worker-3")).toMatch(/ {2}none {2,}- {2,}8\.0 GiB {2,}- {2,}- {2,}agent silent$/);
    expect(line("worker-2")).toMatch(/not healthy: unit queue-runner\.service failed \(\+1\)$/);
    expect(line("git")).toMatch(/healthy, reboot required$/);
  });

  test("says below in words what differs", () => {
    expect(lines.slice(13)).toEqual(["", "db: has 3072 MiB of memory, declared 4096"]);
  });

  test("takes nothing that a guest says as a command of the terminal", () => {
    const nasty = "\u001b[2J\u0007x\n\u202ey";
    const guest = guestOf(db, {}, { healthy: false, reasons: [nasty], imageVersion: nasty });
    expect(cellsOf(rowOf(factsOf(db, { guest }))).join("")).not.toMatch(/[\p{Cc}\p{Cf}]/u);
    expect(plain(nasty)).toBe("[2J x y");
  });

  test("of a stack without VMs says so", () => expect(statusTable([])).toBe("no VMs yet"));
});

describe("a row", () => {
  test("has the version of the image that it boots, not of the one that the state names", () => {
    const domain = domainOf({ bootPath: `${other}${DIGEST.v1}-ff.qcow2` });
    const { guest: _, ...silent } = factsOf(db, { domain });
    expect(rowOf(silent).image).toMatchObject({ digest: DIGEST.v1 });
    expect(rowOf(silent).image).not.toHaveProperty("version");
    expect(rowOf(silent, new Map([[DIGEST.v1, "25.11.1"]])).image).toMatchObject({ version: "25.11.1" });
  });

  test("has no age of an image whose overlay no state knows", () => {
    const { imageSince: _, ...facts } = factsOf(db);
    expect(rowOf(facts).image).toEqual({ digest: DIGEST.v2, version: "25.11.2" });
  });

  test("has no address of a guest that is silent, but one that is fixed or forwarded", () => {
    const silent = (network: string, more = {}) => {
      const { guest: _, ...facts } = factsOf(stateVm("db", { network, ip: "10.9.9.9", ...more }));
      return rowOf(facts).address;
    };
    expect(silent("bridge br0")).toBeUndefined();
    expect(silent("network lan, 192.168.77.10")).toBe("192.168.77.10");
    expect(silent("user, ssh on 127.0.0.1:2222", { sshPort: 2222 })).toBe("127.0.0.1:2222");
  });
});

test("one VM in detail has its IP address, what waits for a restart, and what failed on it (T-57, V-36)", () => {
  const vm = stateVm("web", { network: "user, ssh on 127.0.0.1:2222", sshPort: 2222, quarantined: [DIGEST.v1] });
  const scratch = { state: "tmpfs", reason: "no disk", sizeBytes: 2 ** 20 };
  const guest = guestOf(
    vm,
    { ip: "10.0.2.15" },
    { rebootPending: true, scratch, update: { state: "staged", staged: "/nix/store/x" } },
  );
  const paths = { overlay: "/o", persist: "/p", seed: "/s" };
  const more = { snapshots: 2, disks: guest.disks, network: vm.network, uuid: vm.uuid, paths };
  const text = detailText({ ...rowOf(factsOf(vm, { guest })), ...more });
  const value = (label: string) => new RegExp(`^${label} +(.*)$`, "m").exec(text)?.[1];
  expect(value("IP address")).toBe("10.0.2.15");
  expect(value("address")).toBe("127.0.0.1:2222");
  expect(value("reboot required")).toBe("yes, for /nix/store/x");
  expect(value("quarantined images")).toBe(DIGEST.v1);
  expect(value("scratch")).toBe("tmpfs, 1.0 MiB: no disk");
  expect(value("snapshots")).toBe("2");
  expect(value("on it for")).toBe("3d 6h (since 2026-02-27T03:10:00Z)");
  expect(text).toMatch(/^disks +\/ 60% of 2\.0 GiB\n +\/var 34% of 7\.8 GiB$/m);
  expect(value("console log")).toBe("-");
});

test("members of groups are known by the stack file, and nothing else is", () => {
  const counts: Record<string, unknown> = { web: 2, gone: 0, odd: "3", huge: 1e9 };
  const file = {
    keys: () => Object.keys(counts),
    get: (where: readonly (string | number)[]) => counts[String(where[1])],
  };
  expect([...groupsOf(file)]).toEqual([
    ["web-1", "web"],
    ["web-2", "web"],
  ]);
});
