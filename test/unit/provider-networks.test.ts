import { filterXml, rulesOf } from "../../provider/egress";
import { changesFor, entriesOf, LeaseError } from "../../provider/lease";
import { applyGuest, deleteGuest, readGuest } from "../../provider/lifecycle";
import { VirshNetworks } from "../../provider/networks";
import { GuestInputs } from "../../provider/inputs";
import { LibvirtError } from "../../provider/virsh";
import { diffGuest } from "../../provider/diff";
import { domainXml, FakeNetworks, Scene, want } from "./provider-fake";

// What a Guest keeps on its host besides its domain: entries of its libvirt network, and the filter of its network card.

const MAC = "02:6e:76:00:00:01";
const OTHERS =
  "<host ip='10.9.0.50'><hostname>printer</hostname></host>" +
  "<host mac='02:6e:76:00:00:99' name='printer' ip='10.9.0.50'/>";
const network = (dhcp = "", dns = ""): string =>
  `<network><name>lan</name><dns><host ip='10.9.0.50'><hostname>printer</hostname></host>${dns}</dns>` +
  `<ip address='10.9.0.1' netmask='255.255.255.0'><dhcp><range start='10.9.0.2' end='10.9.0.254'/>` +
  `<host mac='02:6e:76:00:00:99' name='printer' ip='10.9.0.50'/>${dhcp}</dhcp></ip></network>`;

const nic = { type: "network" as const, source: "lan", mac: MAC };
const lease = { address: "10.9.0.10", names: ["web"], of: "id-1" };
const wished: GuestInputs = { ...want, nic, lease };
const HELD = [
  "<host mac='02:6e:76:00:00:01' name='web' ip='10.9.0.10'/>",
  "<host ip='10.9.0.10'><hostname>web</hostname></host>",
];

let scene: Scene;
let networks: FakeNetworks;

beforeEach(() => {
  scene = new Scene();
  networks = scene.networks;
  for (const which of ["live", "config"]) networks.definitions.set(`lan ${which}`, network());
  const card = `<interface type="network"><mac address="${MAC}"/><source network="lan"/></interface></devices>`;
  scene.libvirt.inactive = scene.libvirt.live = domainXml(want.overlayPath).replace("</devices>", card);
});

const text = (which = "live"): string => networks.definitions.get(`lan ${which}`) ?? "";
const apply = (next: GuestInputs, had: object = {}): Promise<unknown> =>
  applyGuest(next, 60, scene.deps, { quarantined: [] }, had);

describe("a fixed address", () => {
  it("is kept in both definitions of the network, once, and entries of others stay", async () => {
    await apply(wished);
    expect(networks.changes).toEqual(
      ["live", "config"].flatMap((which) => [
        `lan ${which} add-last ip-dhcp-host ${HELD[0]}`,
        `lan ${which} add-last dns-host ${HELD[1]}`,
      ]),
    );
    networks.changes = [];
    await apply(wished, wished);
    expect(networks.changes).toEqual([]);
    expect(text()).toContain("printer");
  });

  it("is put right where a run was broken off half-way, or somebody has taken a part of it out", async () => {
    networks.definitions.set("lan live", network(HELD[0]));
    networks.definitions.set("lan config", network(HELD[0]!.replace("10.9.0.10", "10.9.0.11"), HELD[1]));
    await apply(wished, wished);
    expect(networks.changes).toEqual([
      `lan live add-last dns-host ${HELD[1]}`,
      `lan config modify ip-dhcp-host ${HELD[0]}`,
    ]);
  });

  it("that changes takes its former name along, and goes with the VM", async () => {
    await apply(wished);
    networks.changes = [];
    const next = { ...wished, lease: { ...lease, address: "10.9.0.12", names: ["shop"] } };
    await apply(next, wished);
    for (const which of ["live", "config"]) {
      expect(text(which)).not.toContain("10.9.0.10");
      expect(entriesOf(text(which))).toMatchObject({ dns: [{}, { ip: "10.9.0.12", names: ["shop"] }] });
    }
    await deleteGuest(next, 60, scene.deps);
    expect([text(), text("config")]).toEqual([network(), network()]);
    networks.changes = [];
    await deleteGuest(next, 60, scene.deps);
    expect(networks.changes).toEqual([]);
  });

  it("moves with the card to another network, also one that is not active, and one without DHCP has the name alone", async () => {
    await apply(wished);
    networks.definitions.set("dmz config", "<network><dns></dns><ip address='10.8.0.1'/></network>");
    await apply({ ...wished, nic: { ...nic, source: "dmz" } }, wished);
    expect(text()).toBe(network());
    expect(networks.definitions.get("dmz config")).toBe(
      `<network><dns>${HELD[1]}</dns><ip address='10.8.0.1'/></network>`,
    );
  });

  it.each([
    [
      "the address by DHCP",
      network("<host mac='02:6e:76:00:00:77' ip='10.9.0.10'/>"),
      /has given 10\.9\.0\.10 to 02:6e:76:00:00:77/,
    ],
    [
      "the address by name",
      network("", "<host ip='10.9.0.10'><hostname>old</hostname></host>"),
      /has given 10\.9\.0\.10 to old/,
    ],
    [
      "the name",
      network("", "<host ip='10.9.0.20'><hostname>web</hostname></host>"),
      /has given the name web to 10\.9\.0\.20/,
    ],
  ])("is refused, with nothing changed, when somebody else has %s", async (_what, xml, message) => {
    networks.definitions.set("lan config", xml);
    await expect(apply(wished)).rejects.toThrow(message);
    expect(networks.changes).toEqual([]);
    expect(scene.libvirt.calls).not.toContain("define");
  });

  it("leaves the state as it was when libvirt does not take it, so that the next run still knows what was there", async () => {
    networks.failing = new LibvirtError("failed", "virsh net-update: no");
    await expect(apply(wished)).rejects.toMatchObject({ name: "Error", message: "web: virsh net-update: no" });
  });

  it("that is gone from its network is no input any more after a refresh, so that the next run puts it back", async () => {
    await apply(wished);
    expect((await readGuest(wished, {}, scene.deps))?.inputs).toMatchObject({ lease });
    networks.definitions.set("lan live", network());
    const found = await readGuest(wished, {}, scene.deps);
    expect(found?.inputs).not.toHaveProperty("lease");
    expect(diffGuest(found?.inputs ?? {}, wished, found?.outputs)).toMatchObject({
      replaces: [],
      updates: ["lease"],
      reasons: ["10.9.0.10 is kept for it in its network, as web"],
    });
  });

  it("has an entry with our MAC address made ours, and one of somebody else's address is not removed", () => {
    const held = { ...lease, network: "lan", mac: MAC };
    const foreign = entriesOf(network(`<host mac='${MAC.toUpperCase()}' name='x' ip='10.9.0.44'/>`));
    expect(changesFor(foreign, held, undefined)[0]).toMatchObject({ command: "modify", section: "ip-dhcp-host" });
    expect(changesFor(foreign, undefined, held)).toEqual([]);
    expect(() =>
      changesFor(entriesOf(`<network><dns>${OTHERS}</dns></network>`), { ...held, names: ["printer"] }, undefined),
    ).toThrow(LeaseError);
  });
});

describe("private networks that a VM may not send to", () => {
  const egress = { allow: ["10.9.0.7/32", "fd00:7::/64"], dns: ["10.9.0.1", "1.1.1.1"], dhcp: "10.9.0.1" };
  const kept: GuestInputs = { ...want, nic, egress };
  const filters = (xml: string): unknown => /<filterref filter="([^"]*)"/.exec(xml)?.[1];

  /** What the rules do with a packet, as ebtables goes through them. */
  function verdict(protocol: "ip" | "ipv6", to: string, more: Record<string, string> = {}): string {
    const number = (address: string): bigint =>
      protocol === "ip"
        ? address.split(".").reduce((sum, part) => sum * 256n + BigInt(part), 0n)
        : expand(address).reduce((sum, part) => sum * 65536n + BigInt(`0x${part || "0"}`), 0n);
    const bits = protocol === "ip" ? 32n : 128n;
    for (const rule of rulesOf(filterXml(kept, egress))) {
      const [head = "", match = ""] = rule.split("; ");
      const [tag, ...pairs] = match.split(" ");
      if (match !== "" && tag !== protocol) continue;
      const {
        dstipaddr,
        dstipmask = "0",
        ...rest
      } = Object.fromEntries(pairs.map((pair) => pair.split("="))) as Record<string, string>;
      const shift = bits - BigInt(dstipmask);
      if (dstipaddr && number(dstipaddr) >> shift !== number(to) >> shift) continue;
      if (Object.entries(rest).every(([key, value]) => more[key] === value))
        return /action=(\w+)/.exec(head)?.[1] ?? "";
    }
    return "none";
  }
  const expand = (address: string): string[] => {
    const [head = "", tail] = address.split("::");
    const left = head.split(":").filter(Boolean);
    const right = (tail ?? "").split(":").filter(Boolean);
    return tail === undefined ? left : [...left, ...Array<string>(8 - left.length - right.length).fill("0"), ...right];
  };

  it.each([
    ["10.1.2.3", "drop"],
    ["172.31.255.255", "drop"],
    ["172.32.0.1", "accept"],
    ["192.168.1.1", "drop"],
    ["100.127.0.1", "drop"],
    ["100.128.0.1", "accept"],
    ["169.254.169.254", "drop"],
    ["224.0.0.251", "drop"],
    ["255.255.255.255", "drop"],
    ["8.8.8.8", "accept"],
    ["10.9.0.7", "accept"],
    ["10.9.0.8", "drop"],
  ])("%s: %s", (to, expected) => expect(verdict("ip", to, { protocol: "tcp", dstportstart: "443" })).toBe(expected));

  it.each([
    ["fd12::1", "drop"],
    ["fe80::1", "drop"],
    ["ff02::fb", "drop"],
    ["fd00:7::9", "accept"],
    ["2606:4700::1111", "accept"],
  ])("%s: %s", (to, expected) => expect(verdict("ipv6", to, { protocol: "tcp" })).toBe(expected));

  it("are not the ways to an address and to names", () => {
    const dhcp = { protocol: "udp", srcportstart: "68", dstportstart: "67" };
    expect([
      verdict("ip", "255.255.255.255", dhcp),
      verdict("ip", "10.9.0.1", dhcp),
      verdict("ip", "10.9.0.9", dhcp),
    ]).toEqual(["accept", "accept", "drop"]);
    for (const protocol of ["udp", "tcp"])
      expect(verdict("ip", "10.9.0.1", { protocol, dstportstart: "53" })).toBe("accept");
    expect(verdict("ip", "10.9.0.1", { protocol: "tcp", dstportstart: "22" })).toBe("drop");
    expect(rulesOf(filterXml(kept, egress)).at(-1)).toBe("action=drop direction=out priority=1000");
  });

  it("are shut off by a filter that is there before the card refers to it, live and for the next start, with no moment of a pulled cable", async () => {
    await apply(kept);
    expect(networks.changes).toEqual(["define filter fleet-web-egress"]);
    expect([filters(scene.libvirt.live), filters(scene.libvirt.inactive)]).toEqual([
      "fleet-web-egress",
      "fleet-web-egress",
    ]);
    expect(scene.libvirt.calls.filter((call) => call.startsWith("updateDevice"))).toEqual([
      "updateDevice network lan up",
    ]);
    expect(scene.libvirt.calls).not.toContain("start");
    networks.changes = [];
    await apply(kept, kept);
    expect(networks.changes).toEqual([]);
    await apply({ ...kept, egress: { ...egress, allow: [] } }, kept);
    expect(networks.changes).toEqual(["define filter fleet-web-egress"]);
  });

  it("are open again when nothing refers to the filter any more, and it goes with the VM", async () => {
    await apply(kept);
    networks.changes = [];
    await apply({ ...want, nic }, kept);
    expect(networks.changes).toEqual(["remove filter fleet-web-egress"]);
    expect([filters(scene.libvirt.live), filters(scene.libvirt.inactive)]).toEqual([undefined, undefined]);
    await apply(kept);
    await deleteGuest(kept, 60, scene.deps);
    expect([...networks.filters]).toEqual([]);
  });

  it.each([
    [
      "its rules were changed",
      () =>
        networks.filters.set(
          "fleet-web-egress",
          networks.filters.get("fleet-web-egress")!.replace("10.0.0.0", "11.0.0.0"),
        ),
    ],
    ["it is gone", () => networks.filters.clear()],
    ["the card has lost it", () => (scene.libvirt.inactive = scene.libvirt.inactive.replace(/<filterref[^>]*>/, ""))],
  ])("are shut off again after a refresh has found that %s", async (_what, change) => {
    await apply(kept);
    expect((await readGuest(kept, {}, scene.deps))?.inputs).toMatchObject({ egress });
    change();
    const found = await readGuest(kept, {}, scene.deps);
    expect(diffGuest(found?.inputs ?? {}, kept, found?.outputs).reasons).toEqual([
      "what it may send to private networks is set on the host, no restart",
    ]);
    await apply(kept, found?.inputs);
    expect((await readGuest(kept, {}, scene.deps))?.inputs).toMatchObject({ egress });
  });

  it("has libvirt's own order of attributes mean the same", () => {
    const ours = filterXml(kept, egress);
    const theirs = ours.replace(
      /<ip dstipaddr='10.9.0.1' dstipmask='32' protocol='udp' dstportstart='53'\/>/,
      "<ip protocol='udp' dstportstart='53' dstipaddr='10.9.0.1' dstipmask='32'/>",
    );
    expect(theirs).not.toBe(ours);
    expect(rulesOf(theirs)).toEqual(rulesOf(ours));
  });
});

describe("virsh", () => {
  const calls: string[] = [];
  const answers: Record<string, string> = {};
  const virsh = new VirshNetworks("qemu+ssh://host/system", async (_command, args) => {
    const line = args.slice(3).join(" ");
    calls.push(line);
    const found = Object.keys(answers).find((start) => line.startsWith(start));
    return found === undefined
      ? { code: 1, stdout: "", stderr: "error: Network filter not found: no nwfilter with matching name" }
      : { code: 0, stdout: answers[found] ?? "", stderr: "" };
  });

  it("is asked for the definition that a network has, and changes that one alone", async () => {
    answers["net-list --name --all --persistent"] = " lan\n dmz\n";
    answers["net-list --name"] = " lan\n";
    answers["net-dumpxml"] = "<network/>";
    answers["net-update"] = "";
    expect(await virsh.xml("dmz", "live")).toBeUndefined();
    expect(await virsh.xml("lan", "config")).toBe("<network/>");
    await virsh.update("lan", "config", { command: "delete", section: "dns-host", xml: "<host ip='1.2.3.4'/>" });
    expect(calls.slice(-2)).toEqual([
      "net-dumpxml lan --inactive",
      "net-update lan delete dns-host --xml <host ip='1.2.3.4'/> --config",
    ]);
  });

  it("has a filter that is not there be none, and its removal a success", async () => {
    expect(await virsh.filter("x")).toBeUndefined();
    await virsh.removeFilter("x");
    await expect(virsh.defineFilter("<filter/>")).rejects.toThrow("virsh nwfilter-define");
  });
});
