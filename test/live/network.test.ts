import { Resolver } from "node:dns/promises";
import * as path from "node:path";
import { IMAGES, LiveStack, virsh } from "../helpers/liveStack";

// What VMs have in networks of a real libvirt, and its filters, besides their domains. The VMs are off: nothing here needs a guest.
jest.setTimeout(10 * 60_000);

/** Networks of libvirt need its system instance; without it there is one thing to see. */
const NETWORKED = process.getuid?.() === 0;
const LAN = "nixvm-network-lan";
const DMZ = "nixvm-network-dmz";
const FILTER = "nixvm-network-web-egress";
const FOREIGN = "<host mac='02:00:00:00:00:99' name='printer' ip='10.213.87.99'/>";

let stack: LiveStack;
let config: Record<string, any>;

const entries = (network: string): string[] =>
  [[], ["--inactive"]].flatMap(
    (flags) => virsh("net-dumpxml", network, ...flags).match(/<host [^>]*>(\s*<hostname>[^<]*)?/g) ?? [],
  );
const ours = (network: string, address: string): number =>
  entries(network).filter((entry) => entry.includes(`ip='${address}'`)).length;
const filters = (): string => virsh("nwfilter-list");
const definition = (vm: string): string => virsh("dumpxml", "--inactive", `nixvm-network-${vm}`);

async function up(refresh = false): Promise<{ text: string; steps: string[] }> {
  await stack.configure(config);
  const done = await stack.up({ refresh });
  expect(done.error).toBe("");
  return done;
}

const nothingToDo = async (): Promise<string> => (await stack.preview({ refresh: true, expectNoChanges: true })).error;

beforeAll(async () => {
  stack = await LiveStack.make("network");
  config = {
    images: { os: { path: path.join(IMAGES, "reference-v1.qcow2") } },
    networks: { lan: { subnet: "10.213.87.0/24" }, dmz: { subnet: "10.213.88.0/24", dhcp: false, mode: "isolated" } },
    defaults: { image: "os", running: false, persist: { size: "64MiB" } },
    fleet: {
      web: { network: { network: "lan", address: "10.213.87.10" }, hostsFile: { fleet: true } },
      db: { network: { network: "lan", address: "10.213.87.11" } },
    },
  };
});

afterAll(async () => {
  await stack.remove(config);
  expect(virsh("net-list", "--all", "--name") + filters()).not.toContain("nixvm-network-");
});

const story = (): void => {
  test("addresses are kept by the network, which gives the names, and a refresh finds nothing to do", async () => {
    await up();
    expect([ours(LAN, "10.213.87.10"), ours(LAN, "10.213.87.11")]).toEqual([4, 4]);
    const names = new Resolver();
    names.setServers(["10.213.87.1"]);
    expect([await names.resolve4("web"), await names.resolve4("db")]).toEqual([["10.213.87.10"], ["10.213.87.11"]]);
    expect(await nothingToDo()).toBe("");
  });

  test("what is gone from the network is put back after a refresh, and what is not ours stays", async () => {
    virsh("net-update", LAN, "add-last", "ip-dhcp-host", "--xml", FOREIGN, "--live", "--config");
    virsh("net-update", LAN, "delete", "dns-host", "--xml", "<host ip='10.213.87.10'/>", "--live");
    const { text, steps } = await up(true);
    expect(text).toContain("web: while it is off, 10.213.87.10 is kept for it in its network, as web");
    expect(steps).toEqual(["update nixvm:index:Guest web-guest"]);
    expect([ours(LAN, "10.213.87.10"), ours(LAN, "10.213.87.99")]).toEqual([4, 2]);
    expect(await nothingToDo()).toBe("");
  });

  test("private networks are kept from a VM by a filter of its card, which goes when it is not wanted", async () => {
    config.fleet.web.egress = { blockPrivateNetworks: true, allow: ["10.213.87.1/32"] };
    const { text, steps } = await up();
    expect(text).toContain("web: while it is off, what it may send to private networks is set on the host");
    expect(steps).toEqual(["update nixvm:index:Guest web-guest"]);
    expect(definition("web")).toContain(`<filterref filter='${FILTER}'/>`);
    expect(await nothingToDo()).toBe("");
    const rules = virsh("nwfilter-dumpxml", FILTER);
    expect(rules).toContain("<ip dstipaddr='10.213.87.1' dstipmask='32'/>");

    virsh("nwfilter-undefine", FILTER);
    expect((await up(true)).steps).toEqual(["update nixvm:index:Guest web-guest"]);
    expect(virsh("nwfilter-dumpxml", FILTER)).toBe(rules);

    delete config.fleet.web.egress;
    await up();
    expect([filters(), definition("web")].filter((found) => found.includes(FILTER))).toEqual([]);
    expect(await nothingToDo()).toBe("");
  });

  test("another address and network take the entries along, and a VM that leaves takes them away", async () => {
    config.fleet.db.network.address = "10.213.87.12";
    config.fleet.web.network = { network: "dmz", address: "10.213.88.10" };
    await up();
    expect([ours(LAN, "10.213.87.10"), ours(LAN, "10.213.87.11"), ours(LAN, "10.213.87.12")]).toEqual([0, 0, 4]);
    // No DHCP there, so the name alone.
    expect(ours(DMZ, "10.213.88.10")).toBe(2);
    expect(await nothingToDo()).toBe("");
    config.fleet.db.persist = { protect: false, retain: false };
    await up();
    delete config.fleet.db;
    await up();
    expect([ours(LAN, "10.213.87.12"), ours(LAN, "10.213.87.99")]).toEqual([0, 2]);
  });
};

if (NETWORKED) story();
else
  test("without libvirt's system instance a network is an error, and no VM is made", async () => {
    await stack.configure(config);
    expect((await stack.up()).error).not.toBe("");
    expect(virsh("list", "--all", "--name")).not.toContain("nixvm-network-");
  });
