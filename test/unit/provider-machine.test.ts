import * as fc from "fast-check";
import { machineOf, movedNic, withMachine } from "../../provider/domainXml";
import { GuestInputs } from "../../provider/inputs";
import { applyGuest, readGuest } from "../../provider/lifecycle";
import { parseBalloon } from "../../provider/parse";
import { LibvirtError } from "../../provider/virsh";
import { domainXml, Scene, want } from "./provider-fake";

describe("a domain's definition", () => {
  const printed = (xml: string): string =>
    xml.replace(/unit="MiB">(\d+)/g, (_, size) => `unit="KiB">${Number(size) * 1024}`);

  const word = fc.stringMatching(/^[A-Za-z0-9_.&<" -]{1,15}$/);
  const mac = fc.stringMatching(/^52:54:00(:[0-9a-f]{2}){3}$/);
  const nic = fc.record({
    type: fc.constantFrom("bridge" as const, "network" as const),
    source: word,
    mac,
    link: fc.constantFrom("up" as const, "down" as const),
  });

  it("keeps all of a network card but where it is plugged in, from whatever libvirt made of it", () => {
    // As libvirt prints a running one: on a network of its own, and on one that is a bridge.
    const running = [
      `<source network="default" portid="5a6c" bridge="virbr0"/>`,
      `<source network="lan" bridge="br0"/>`,
      `<source bridge="br0"/>`,
    ];
    const card = (type: string, source: string): string =>
      `<interface type="${type}"><mac address="52:54:00:AA:00:01"/>${source}<target dev="vnet3"/><model type="virtio"/><alias name="net0"/></interface>`;
    const nics = running.map((source) => {
      const type = source.includes("portid") ? "network" : "bridge";
      return machineOf(domainXml("/a").replace("</devices>", `${card(type, source)}</devices>`))?.nic;
    });
    const from = { mac: "52:54:00:aa:00:01", link: "up" };
    expect(nics).toEqual([
      { ...from, type: "network", source: "default" },
      { ...from, type: "network", source: "lan" },
      { ...from, type: "bridge", source: "br0" },
    ]);
    fc.assert(
      fc.property(nic, fc.constantFrom(...running), (to, source) => {
        const domain = domainXml("/a").replace("</devices>", `${card("network", source)}</devices>`);
        const device = movedNic(domain, to);
        expect(device).toContain('<target dev="vnet3"/><model type="virtio"/><alias name="net0"/>');
        expect(device).not.toMatch(/portid/);
        expect(machineOf(domainXml("/a").replace("</devices>", () => `${device}</devices>`))?.nic).toEqual(to);
      }),
    );
  });

  it("becomes that of any other machine, and all else of it stays", () => {
    const path = fc.string({ minLength: 1, unit: "grapheme-composite" }).filter((text) => !/[\p{C}\u2028]/u.test(text));
    const machine = fc.record({
      bootPath: path.map((text) => `/pool/${text}`),
      memoryMiB: fc.integer({ min: 1, max: 2 ** 20 }),
      memoryMaximumMiB: fc.integer({ min: 1, max: 2 ** 20 }),
      vcpus: fc.integer({ min: 1, max: 255 }),
      vcpusMaximum: fc.integer({ min: 1, max: 255 }),
      balloon: fc.boolean(),
      nic: fc.option(nic, { nil: undefined }),
    });
    const original = domainXml("/pool/a.qcow2");
    const back = { ...machineOf(original)!, bootPath: "/pool/a.qcow2" };
    fc.assert(
      fc.property(machine, (other) => {
        const xml = printed(withMachine(original, other));
        expect(machineOf(xml)).toEqual(other);
        const again = printed(withMachine(xml, back)).replace(/<interface.*<\/interface>/, "");
        expect(again).toBe(original.replace(/ standalone[^>]*/, ""));
      }),
    );
  });

  it("gets its boot disk before the first start", () => {
    const whole = domainXml("/pool/a.qcow2");
    const chassis = whole
      .replace(/<disk.*?<serial>boot<.*?\n/, "")
      .replace("<devices>", '<os><boot dev="hd"/></os><devices>');
    const machine = machineOf(whole)!;
    expect(machineOf(chassis)).toEqual({ ...machine, bootPath: undefined });
    const xml = printed(withMachine(chassis, { ...machine, bootPath: "/pool/a.qcow2" }));
    expect(machineOf(xml)).toEqual(machine);
    expect(xml).not.toContain("<boot dev");
    expect(xml).toMatch(/<target dev="vda" bus="virtio"\/>\s*<serial>boot<\/serial>\s*<boot order="1"\/>/);
  });

  it("is none of ours with more than one boot disk, or one that is no file", () => {
    for (const none of [
      "<domain/>",
      domainXml("/a").replace('file="/a"', 'dev="/dev/a"'),
      domainXml("/a").replace("<serial>persist", "<serial>boot"),
    ]) {
      expect(machineOf(none)).toBeUndefined();
    }
  });

  it("has the shape of what libvirt leaves out", () => {
    const xml = domainXml("/a", { memory: 256, vcpus: 2 });
    const bare = xml
      .replace(/<currentMemory.*\n/, "")
      .replace(/ current="2"/, "")
      .replace(/<memballoon.*\n/, "");
    expect(machineOf(bare)).toMatchObject({
      memoryMiB: 256,
      memoryMaximumMiB: 256,
      vcpus: 2,
      vcpusMaximum: 2,
      balloon: false,
    });
  });

  it("memory of a balloon is read in MiB", () => {
    expect(parseBalloon("actual 786432\nswap_in 0\nrss 12345\n")).toBe(768);
    expect(parseBalloon("rss 12345\n")).toBeUndefined();
  });
});

describe("another shape", () => {
  let scene: Scene;
  beforeEach(() => {
    scene = new Scene();
    scene.libvirt.live = scene.libvirt.inactive = domainXml(want.overlayPath, { vcpus: 2, maximum: [1024, 4] });
    scene.libvirt.processors = [0, 1].map((id) => ({ "logical-id": id, online: true }));
  });
  const flexible = { ...want, memoryMaximumMiB: 1024, vcpus: 2, vcpusMaximum: 4 };
  const apply = (change: Partial<GuestInputs>) => applyGuest({ ...flexible, ...change }, 60, scene.deps);
  const changes = (): string[] =>
    scene.libvirt.calls.filter((call) => /^(set|define|shutdown|destroy|start)/.test(call));

  it("within its maximum is made live, for the next start too", async () => {
    await apply({ memoryMiB: 768, vcpus: 3 });
    expect(changes()).toEqual(["setMemory 768", "setVcpus 3", "define"]);
    expect(machineOf(scene.libvirt.inactive)).toMatchObject({ memoryMiB: 768, vcpus: 3, memoryMaximumMiB: 1024 });
    expect(scene.libvirt.processors.every(({ online }) => online)).toBe(true);
  });

  it("is nothing to do when it is so already, also to a definition alone", async () => {
    await apply({});
    expect(changes()).toEqual([]);
    scene.libvirt.inactive = domainXml(want.overlayPath, { memory: 640, vcpus: 2, maximum: [1024, 4] });
    await apply({});
    expect(changes()).toEqual(["define"]);
  });

  it.each<[string, Partial<GuestInputs>]>([
    ["a larger maximum", { memoryMaximumMiB: 2048 }],
    ["another maximum of vCPUs", { vcpusMaximum: 8 }],
    ["fewer vCPUs than it has", { vcpus: 1 }],
    ["another overlay", { overlayPath: "/pool/other.qcow2" }],
  ])("with %s it restarts cleanly", async (_name, change) => {
    await apply(change);
    expect(changes()).toEqual(["shutdown agent", "define", "start"]);
  });

  it("without a maximum it restarts, and loses the balloon", async () => {
    await applyGuest({ ...want, memoryMiB: 768 }, 60, scene.deps);
    expect(changes()).toEqual(["shutdown agent", "define", "start"]);
    expect(machineOf(scene.libvirt.inactive)).toMatchObject({ memoryMiB: 768, memoryMaximumMiB: 768, balloon: false });
  });

  it("that the guest does not follow to is told, and nothing restarts", async () => {
    scene.libvirt.balloon = undefined;
    await expect(apply({ memoryMiB: 768 })).rejects.toThrow(/does not follow to 768 MiB.*virtio_balloon/);
    expect(changes()).toEqual(["setMemory 768"]);
  });

  it("of a guest that is off is in its definition before it starts", async () => {
    scene.libvirt.domain = { state: "shut off", reason: "shutdown" };
    await apply({ memoryMiB: 768, vcpus: 3, overlayPath: "/pool/other.qcow2" });
    expect(changes()).toEqual(["define", "start"]);
    expect(machineOf(scene.libvirt.live)).toMatchObject({ bootPath: "/pool/other.qcow2", memoryMiB: 768, vcpus: 3 });
  });

  it("of a guest that is not to run is defined, and the host does not start it", async () => {
    await apply({ running: false, memoryMiB: 768 });
    expect(changes()).toEqual(["shutdown agent", "define"]);
    expect(scene.libvirt.calls).toContain("autostart false");
  });
});

describe("a network card", () => {
  const nic = { type: "bridge" as const, source: "br0", mac: "52:54:00:00:00:01" };
  const carded = { ...want, nic };
  let scene: Scene;
  beforeEach(() => {
    scene = new Scene();
    const { libvirt } = scene;
    const machine = machineOf(domainXml(want.overlayPath))!;
    const xml = withMachine(domainXml(want.overlayPath), {
      ...machine,
      bootPath: want.overlayPath,
      nic: { ...nic, link: "up" },
    });
    libvirt.live = libvirt.inactive = xml.replace(
      /unit="MiB">(\d+)/g,
      (_, size) => `unit="KiB">${Number(size) * 1024}`,
    );
  });
  const apply = (change: Partial<GuestInputs>) => applyGuest({ ...carded, ...change }, 60, scene.deps);
  const changes = (): string[] =>
    scene.libvirt.calls.filter((call) => /^(update|define|shutdown|destroy|start)/.test(call));

  it("that is where it is to be is left alone", async () => {
    await apply({});
    expect(changes()).toEqual([]);
  });

  it.each(["bridge", "network"] as const)("is moved live to another %s, for the next start too", async (type) => {
    const to = { ...nic, type, source: "lan" };
    await apply({ nic: to });
    expect(changes()).toEqual([`updateDevice ${type} lan down`, `updateDevice ${type} lan up`, "define"]);
    expect(machineOf(scene.libvirt.inactive)?.nic).toEqual({ ...to, link: "up" });
    expect(scene.progress).toContain(`its network card moves to ${type} lan`);
  });

  it("that a broken-off run left without a link gets it back", async () => {
    const to = { ...nic, source: "br1" };
    scene.libvirt.live = withMachine(scene.libvirt.live, {
      ...machineOf(scene.libvirt.live)!,
      bootPath: want.overlayPath,
      nic: { ...to, link: "down" },
    }).replace(/unit="MiB">(\d+)/g, (_, size) => `unit="KiB">${Number(size) * 1024}`);
    await apply({ nic: to });
    expect(changes().slice(-2)).toEqual(["updateDevice bridge br1 up", "define"]);
  });

  it("with another MAC address is another one to the guest, which restarts", async () => {
    await apply({ nic: { ...nic, mac: "52:54:00:00:00:02" } });
    expect(changes()).toEqual(["shutdown agent", "define", "start"]);
  });

  it("that libvirt does not move is told, and the definition stays", async () => {
    scene.libvirt.failing.set("updateDevice", new LibvirtError("failed", "Cannot get interface MTU on 'br9'"));
    await expect(apply({ nic: { ...nic, source: "br9" } })).rejects.toThrow(/Cannot get interface MTU on 'br9'/);
    expect(changes()).not.toContain("define");
  });

  it("of a domain on the test driver, which changes no devices, is changed by a restart", async () => {
    await apply({ uri: "test+unix:///default?socket=/s", nic: { ...nic, source: "br1" } });
    expect(changes()).toEqual(["shutdown agent", "define", "start"]);
  });

  it("that somebody has moved is found by a refresh", async () => {
    scene.libvirt.inactive = scene.libvirt.inactive.replace('bridge="br0"', 'bridge="br7"');
    const found = await readGuest(carded, { ...carded, state: "running" }, scene.deps);
    expect(found?.inputs["nic"]).toEqual({ ...nic, source: "br7" });
  });
});
