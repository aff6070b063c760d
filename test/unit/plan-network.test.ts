import { identityOf, seedFiles } from "../../components/plan";
import { base, one, planOf, textsOf, vmOf } from "./plan-support";

const networks = { lan: { subnet: "10.9.0.0/24" }, dmz: { subnet: "10.8.0.0/24" } };
const at = (network: string, address?: string) => ({ network, ...(address === undefined ? {} : { address }) });

describe("the hosts file", () => {
  const fleet = {
    db: { network: at("lan", "10.9.0.9"), hostsFile: { fleet: true } },
    web: {
      network: at("lan", "10.9.0.10"),
      hostsFile: { fleet: true, lines: { "10.9.0.77": ["cache"], "10.20.0.5": ["ldap.corp.example", "ldap"] } },
    },
    guest: { network: "nat:lan", hostsFile: { fleet: true } },
    plain: { network: at("lan", "10.9.0.11") },
    outside: { network: at("dmz", "10.8.0.9"), hostsFile: { fleet: true } },
    user: { network: "user", hostsFile: { fleet: true, lines: { "10.0.0.1": ["cache"] } } },
    cache: { network: at("lan", "10.9.0.12") },
  };
  const plan = planOf({ ...base, networks, fleet });
  const linesOf = (name: string): string[] | undefined =>
    plan.vms.find((vm) => vm.name === name)?.hostsFile.map(({ address, names }) => `${address} ${names.join(" ")}`);

  test("has the VMs with a fixed address on the same network, for those that want it, and lines of one's own before them", () => {
    expect(linesOf("db")).toEqual(["10.9.0.12 cache", "10.9.0.11 plain", "10.9.0.10 web"]);
    expect(linesOf("guest")).toEqual(["10.9.0.12 cache", "10.9.0.9 db", "10.9.0.11 plain", "10.9.0.10 web"]);
    expect(linesOf("plain")).toEqual([]);
    expect(linesOf("outside")).toEqual([]);
    expect(linesOf("user")).toEqual(["10.0.0.1 cache"]);
    // A name that has a line of its own is that line's.
    expect(linesOf("web")).toEqual([
      "10.20.0.5 ldap.corp.example ldap",
      "10.9.0.77 cache",
      "10.9.0.9 db",
      "10.9.0.11 plain",
    ]);
  });

  test("goes by the seed, which has no such key without it", () => {
    const vm = vmOf(one({ hostsFile: { lines: { "10.0.0.9": ["db.internal"] } } }));
    const seedOf = (one_: typeof vm) =>
      (
        JSON.parse(seedFiles(one_, identityOf("ab".repeat(32), "web")).userData.replace(/^#.*\n/, "")) as {
          nixvm: object;
        }
      ).nixvm;
    expect(seedOf(vm)).toMatchObject({ hosts: [{ address: "10.0.0.9", names: ["db.internal"] }] });
    expect(seedOf({ ...vm, hostsFile: [] })).not.toHaveProperty("hosts");
  });

  test("is merged by address through the layers", () => {
    const defaults = { ...base.defaults, hostsFile: { fleet: true, lines: { "10.0.0.1": ["a"], "10.0.0.2": ["b"] } } };
    const vm = vmOf({ ...base, defaults, fleet: { web: { hostsFile: { lines: { "10.0.0.2": ["c"] } } } } });
    expect(vm.hostsFile).toEqual([
      { address: "10.0.0.1", names: ["a"] },
      { address: "10.0.0.2", names: ["c"] },
    ]);
  });

  test.each([
    [{ "10.0.0.999": ["a"] }, /hostsFile\.lines.*is not an IP address/],
    [{ "10.0.0.1": [] }, /hostsFile\.lines\["10\.0\.0\.1"\].*at least one host name/],
    [{ "10.0.0.1": ["Not A Name"] }, /hostsFile\.lines\["10\.0\.0\.1"\]\[0\]: "Not A Name" is not a host name/],
    [{ "10.0.0.1": ["localhost"] }, /"localhost" is not a host name/],
  ])("%j is refused", (lines, message) => {
    const texts = textsOf(one({ hostsFile: { lines } }));
    expect(texts).toHaveLength(1);
    expect(texts[0]).toMatch(message);
  });
});

describe("egress", () => {
  const block = { blockPrivateNetworks: true };
  const egressOf = (vm: object) => vmOf(one(vm, { networks })).egress;

  test("is all unless it is asked for, and has what is needed for an address and for names", () => {
    expect(egressOf({ network: "nat:lan" })).toBeNull();
    expect(egressOf({ network: "nat:lan", egress: { blockPrivateNetworks: false } })).toBeNull();
    expect(
      egressOf({
        network: "nat:lan",
        dns: ["10.20.0.2"],
        egress: { ...block, allow: ["10.20.0.0/16", "10.9.0.1/32", "10.9.0.1/32"] },
      }),
    ).toEqual({
      allow: ["10.20.0.0/16", "10.9.0.1/32"],
      dns: ["10.9.0.1", "10.20.0.2"],
      dhcp: "10.9.0.1",
    });
    expect(egressOf({ network: "bridge:br0", egress: block })).toMatchObject({ allow: [], dhcp: null });
  });

  test.each([
    [
      { network: "user", egress: block },
      /egress\.blockPrivateNetworks: cannot be kept up in network mode user, where QEMU itself sends/,
    ],
    [{ network: "nat", egress: { allow: ["10.0.0.0/8"] } }, /egress\.allow: this list allows nothing more/],
    [
      { network: "nat", egress: { ...block, allow: ["10.0.0.1/8"] } },
      /egress\.allow\[0\]: "10\.0\.0\.1\/8" is not a network/,
    ],
    [
      { network: "nat", egress: { ...block, allow: ["10.0.0.1"] } },
      /egress\.allow\[0\]: "10\.0\.0\.1" is not a network/,
    ],
    [{ network: "nat", egress: { ...block, allow: ["fd00::/129"] } }, /"fd00::\/129" is not a network/],
  ])("%j is refused, with why", (vm, message) => {
    const texts = textsOf(one(vm));
    expect(texts).toHaveLength(1);
    expect(texts[0]).toMatch(message);
  });
});

test("a seed that is taken out needs a persistent volume, and stays in the drive by default", () => {
  const seed = { eject: true };
  expect([vmOf(one({})).ejectSeed, vmOf(one({ seed })).ejectSeed]).toEqual([false, true]);
  expect(textsOf(one({ seed, preset: "sealed" }))).toEqual([
    expect.stringMatching(/seed\.eject: true needs a persistent volume.*allowed: persist beside it, or false/),
  ]);
});
