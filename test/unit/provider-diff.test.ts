import fc from "fast-check";
import { Clock } from "../../provider/clock";
import { diffGuest } from "../../provider/diff";
import { checkGuest, Props, UNKNOWN } from "../../provider/inputs";
import { GuestType, World } from "../../provider/resources";
import { pulumiSchema } from "../../provider/schema";
import { want } from "./provider-fake";

const inputs: Props = { ...want };
const checks = [{ name: "a", kind: "tcp", address: "127.0.0.1", port: 22, timeoutSeconds: 10, withinSeconds: 60 }];

describe("diff", () => {
  it.each<[string, Props, Props, string[], string[]]>([
    ["nothing", {}, {}, [], []],
    [
      "the image",
      { imageId: "image-3", imageDigest: "digest-3" },
      {},
      [],
      ["restarts, because the image changes from image-2 (digest-2) to image-3 (digest-3)"],
    ],
    [
      "the image with its overlay",
      { imageDigest: "digest-3", overlayPath: UNKNOWN },
      {},
      [],
      ["restarts, because the image changes from image-2 (digest-2) to image-2 (digest-3)"],
    ],
    ["the overlay alone", { overlayPath: "/pool/other" }, {}, [], ["restarts, because its overlay changes"]],
    ["memory", { memoryMiB: 1024 }, {}, [], ["restarts, because the memory changes from 512 MiB to 1024 MiB"]],
    [
      "memory of a VM that is off",
      { memoryMiB: 1024, running: false },
      {},
      [],
      ["while it is off, the memory changes from 512 MiB to 1024 MiB", "is stopped cleanly"],
    ],
    [
      "a maximum",
      { memoryMiB: 1024, memoryMaximumMiB: 2048 },
      {},
      [],
      ["restarts, because the maximum of the memory changes from (none) to 2048 MiB"],
    ],
    ["health checks", { checks }, {}, [], ["health checks change: asked again, no restart"]],
    [
      "health checks of a VM that is off",
      { checks, running: false },
      {},
      [],
      ["health checks change: no restart", "is stopped cleanly"],
    ],
    [
      "how a change goes",
      { goBack: true, retry: true, snapshots: 2, restoreData: true, rollout: { wave: 2 } },
      {},
      [],
      [],
    ],
    [
      "vCPUs and network",
      { vcpus: 2, network: "nat:default" },
      {},
      ["network"],
      ["restarts, because the network changes from user to nat:default and the number of vCPUs changes from 1 to 2"],
    ],
    [
      "the accelerator",
      { accelerator: "kvm" },
      {},
      ["accelerator"],
      ["restarts, because the accelerator changes from tcg to kvm"],
    ],
    ["its domain", { domainId: UNKNOWN }, {}, ["domainId"], ["restarts, because its domain is replaced"]],
    [
      "its domain through the image",
      { domainId: UNKNOWN, imageDigest: "digest-3" },
      {},
      ["domainId"],
      ["restarts, because the image changes from image-2 (digest-2) to image-2 (digest-3)"],
    ],
    [
      "an image not known yet",
      { imageDigest: UNKNOWN, imageId: UNKNOWN },
      {},
      [],
      ["restarts, because the image changes from image-2 (digest-2) to one not known yet"],
    ],
    ["the seed", { seedDigest: "seed-2" }, {}, [], ["applies a new seed live, no restart"]],
    ["a seed not known yet", { seedDigest: UNKNOWN }, {}, [], ["applies a new seed live, no restart"]],
    ["persist", { persistBytes: 2 ** 31 }, {}, [], ["persist grows from 1 GiB to 2 GiB live"]],
    ["running", { running: false }, { state: "running" }, [], ["is stopped cleanly"]],
    ["a limit", { stopTimeoutSeconds: 90 }, {}, [], []],
    ["drift: off", {}, { state: "shut off", healthy: true }, [], ["is started again (it was shut off)"]],
    ["drift: suspended", {}, { state: "paused", healthy: true }, [], ["is resumed (it was paused)"]],
    ["drift: image", {}, { state: "running", imageId: "image-1" }, [], ["runs image image-1 instead of image-2"]],
    ["drift: health", {}, { state: "running", healthy: false }, [], ["was not healthy and is checked again"]],
    ["no drift", {}, { state: "running", healthy: true, imageId: "image-2", persistBytes: 5, ip: "10.0.0.1" }, [], []],
  ])("%s", (_name, change, outputs, replaces, reasons) => {
    const diff = diffGuest(inputs, { ...inputs, ...change }, outputs);
    expect(diff.replaces).toEqual(replaces);
    expect(diff.reasons).toEqual(reasons);
    if (_name.startsWith("drift")) expect(diff.drift).not.toEqual([]);
  });

  it("is made live within a maximum that stays", () => {
    const flexible = { ...inputs, memoryMaximumMiB: 2048, vcpusMaximum: 4 };
    const diff = diffGuest(flexible, { ...flexible, memoryMiB: 1024, vcpus: 2 });
    expect(diff.reasons).toEqual([
      "the memory changes from 512 MiB to 1024 MiB live, no restart",
      "the number of vCPUs changes from 1 to 2 live, no restart",
    ]);
  });

  it("moves a network card live, and restarts for another MAC address and for user-mode networking", () => {
    const carded = {
      ...inputs,
      network: "bridge br0",
      nic: { type: "bridge", source: "br0", mac: "52:54:00:00:00:01" },
    };
    const to = (nic: object | undefined, network: string, more = {}) => {
      const { replaces, reasons } = diffGuest(carded, { ...carded, network, nic, ...more });
      return { replaces, reasons };
    };
    const lan = { ...carded.nic, type: "network", source: "lan" };
    expect(to(lan, "network lan")).toEqual({
      replaces: [],
      reasons: ["its network card moves from bridge br0 to network lan live, no restart"],
    });
    expect(to(lan, "network lan", { running: false }).reasons).toEqual([
      "while it is off, its network card moves from bridge br0 to network lan",
      "is stopped cleanly",
    ]);
    expect(to({ ...carded.nic, mac: "52:54:00:00:00:02" }, "bridge br0")).toEqual({
      replaces: [],
      reasons: ["restarts, because the MAC address changes from 52:54:00:00:00:01 to 52:54:00:00:00:02"],
    });
    expect(to(undefined, "user")).toEqual({
      replaces: ["network"],
      reasons: ["restarts, because the network changes from bridge br0 to user"],
    });
    // A stack from before this input was there.
    const { nic: _, ...before } = carded;
    expect(diffGuest(before, carded)).toMatchObject({ replaces: [], reasons: [] });
  });

  it("restarts for fewer vCPUs, also within the maximum", () => {
    const flexible = { ...inputs, vcpus: 2, vcpusMaximum: 4 };
    const { reasons } = diffGuest(flexible, { ...flexible, vcpus: 1 });
    expect(reasons).toEqual(["restarts, because the number of vCPUs changes from 2 to 1"]);
  });

  it("finds no change between equal inputs, and every change of an input", () => {
    const key = fc.constantFrom(...Object.keys(inputs));
    const same = diffGuest(inputs, { ...inputs });
    expect([...same.replaces, ...same.updates, ...same.drift]).toEqual([]);
    fc.assert(
      fc.property(
        key,
        fc.oneof(fc.string(), fc.integer(), fc.constant(UNKNOWN), fc.constant(undefined)),
        (name, value) => {
          fc.pre(value !== inputs[name]);
          const { replaces, updates } = diffGuest(inputs, { ...inputs, [name]: value });
          expect([...replaces, ...updates]).toEqual([name]);
        },
      ),
    );
  });
});

describe("check", () => {
  it("accepts good inputs, and values that are not known yet", () => {
    expect(checkGuest(undefined, inputs)).toEqual([]);
    const unknown = Object.fromEntries(Object.keys(inputs).map((key) => [key, UNKNOWN]));
    expect(checkGuest(inputs, unknown)).toEqual([]);
  });

  it.each<[Props, string]>([
    [{ uuid: "WEB" }, 'uuid: must be a UUID in lower case, not "WEB"'],
    [{ uri: "-c" }, 'uri: must be a libvirt URI such as "qemu:///system", not "-c"'],
    [{ persistPath: "web" }, 'persistPath: must be an absolute path, not "web"'],
    [{ memoryMiB: 0.5 }, "memoryMiB: "],
    [{ accelerator: "hvf" }, "accelerator: "],
    [{ domain: undefined }, "domain: "],
    [{ colour: "red" }, "colour"],
    [{ persistBytes: 2 ** 29 }, "persist.size: cannot shrink from 1 GiB to 512 MiB; allowed: 1 GiB or more"],
  ])("refuses %j", (change, reason) => {
    const failures = checkGuest(inputs, { ...inputs, ...change });
    expect(failures).toHaveLength(1);
    expect(failures[0]!.reason).toContain(reason);
  });

  it("never lets a shrink through, and never refuses growth", () => {
    const bytes = fc.integer({ min: 1, max: 2 ** 50 });
    fc.assert(
      fc.property(bytes, bytes, (before, after) => {
        const failures = checkGuest({ ...inputs, persistBytes: before }, { ...inputs, persistBytes: after });
        expect(failures.length).toBe(after < before ? 1 : 0);
      }),
    );
  });
});

const urn = "urn:pulumi:test::fleet::nixvm:index:Guest::web-guest";
const clock: Clock = { now: () => 0, wall: () => 0, sleep: () => Promise.resolve() };

function world(lines: string[]): World {
  const signal = new AbortController().signal;
  const display = {
    log: (level: string, _urn: string, text: string) => void lines.push(`${level} ${text}`),
    flush: async () => undefined,
  };
  const libvirt = () => {
    throw new Error("libvirt must not be touched");
  };
  return { libvirt, disks: libvirt, networks: libvirt, clock, signal, display: () => display };
}

describe("what is told of a change", () => {
  it("is told once, however often the engine asks", () => {
    const lines: string[] = [];
    const type = new GuestType(world(lines));
    const news = { ...inputs, seedDigest: "seed-2" };
    for (let i = 0; i < 3; i++) type.diff({ urn, id: "" }, inputs, {}, news);
    expect(lines).toEqual(["info web: applies a new seed live, no restart"]);
  });

  it("survives that the engine hides the former inputs when the domain is replaced first", () => {
    const lines: string[] = [];
    const type = new GuestType(world(lines));
    type.diff({ urn, id: "" }, inputs, {}, { ...inputs, domainId: UNKNOWN });
    expect(lines).toEqual([]);
    expect(type.check(urn, {}, { ...inputs, persistBytes: 1 })[0]?.reason).toContain("cannot shrink");
    type.check(urn, {}, { ...inputs, imageDigest: "digest-3" });
    expect(lines).toEqual([
      "info web: restarts, because the image changes from image-2 (digest-2) to image-2 (digest-3)",
    ]);
  });

  it("is nothing for a new guest", () => {
    const lines: string[] = [];
    expect(new GuestType(world(lines)).check(urn, {}, inputs)).toEqual([]);
    expect(lines).toEqual([]);
  });
});

describe("preview", () => {
  it("touches no libvirt", async () => {
    const type = new GuestType(world([]));
    expect(await type.create(urn, inputs, 0, true)).toEqual({ id: "", properties: inputs });
    const outputs = await type.update(
      { urn, id: "x" },
      { ...inputs, ip: "10.0.0.1", machineId: "0123" },
      inputs,
      0,
      true,
    );
    expect(outputs).toMatchObject({ ip: UNKNOWN, machineId: "0123" });
  });

  it("refuses an import, which has nothing to bring", async () => {
    await expect(new GuestType(world([])).read({ urn, id: "x" }, {}, {})).rejects.toThrow("cannot be imported");
  });
});

it("describes exactly the inputs that are checked, and says which are secret", () => {
  type Described = Record<string, { inputProperties: Record<string, { secret?: boolean }>; properties: object }>;
  const { resources } = JSON.parse(pulumiSchema("1.2.3")) as { resources: Described };
  const properties = Object.keys(resources["nixvm:index:Guest"]!.inputProperties);
  expect(properties.sort()).toEqual(
    [
      ...Object.keys(inputs),
      ...[
        "checks",
        "consoleLog",
        "egress",
        "ejectSeed",
        "goBack",
        "lease",
        "retry",
        "rollout",
        "seedPath",
        "memoryMaximumMiB",
        "vcpusMaximum",
      ],
      ...["nic", "snapshots", "restoreData"],
    ].sort(),
  );
  const seed = resources["nixvm:index:SeedVolume"]!;
  const secret = Object.entries(seed.inputProperties).map(([name, property]) => [name, property.secret === true]);
  expect(Object.fromEntries(secret)).toEqual({
    ...{ uri: false, pool: false, name: false },
    ...{ userData: true, metaData: true, networkConfig: true },
  });
  expect(Object.keys(seed.properties).sort()).toEqual(["bytes", "digest", "name", "pool", "uri", "volumeId"]);
});
