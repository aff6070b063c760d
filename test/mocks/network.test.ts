import { Fleet } from "../../components/Fleet";
import { config, image, planned } from "../helpers/fleets";
import { recordResources, settled } from "../helpers/recorder";

// Several fleets a test, each of which takes its time on a busy machine.
jest.setTimeout(60_000);

/** Inputs of a VM's Guest. */
async function guestOf(vm: object, networks: object = {}): Promise<Record<string, unknown>> {
  const seen = await recordResources();
  const file = config(["web"], { networks, fleet: { web: vm } });
  new Fleet("fleet", { plan: planned(file), images: { os: image("a") }, history: [] });
  await settled();
  return seen.get("web-guest")?.inputs ?? {};
}

const lan = { lan: { subnet: "10.9.0.0/24" } };
const fixed = { network: "lan", address: "10.9.0.10" };

test("a fixed address is kept in a network of this stack, tied to its life, and in none of somebody else's", async () => {
  expect(await guestOf({ network: fixed, hostname: "shop" }, lan)).toMatchObject({
    lease: { address: "10.9.0.10", names: ["shop"], of: expect.stringMatching(/./) },
  });
  expect(await guestOf({ network: "nat:lan" }, lan)).not.toHaveProperty("lease");
  const foreign = { lan: { create: false, subnet: "10.9.0.0/24" } };
  expect(await guestOf({ network: fixed }, foreign)).not.toHaveProperty("lease");
});

test("what a VM may send goes to its Guest, with the DHCP server where that is known", async () => {
  const egress = { blockPrivateNetworks: true, allow: ["10.20.0.0/16"] };
  expect((await guestOf({ network: "nat:lan", dns: ["1.1.1.1"], egress }, lan))["egress"]).toEqual({
    allow: ["10.20.0.0/16"],
    dns: ["10.9.0.1", "1.1.1.1"],
    dhcp: "10.9.0.1",
  });
  expect((await guestOf({ network: "bridge:br0", dns: ["1.1.1.1"], egress }))["egress"]).toEqual({
    allow: ["10.20.0.0/16"],
    dns: ["1.1.1.1"],
  });
  expect(await guestOf({ network: "bridge:br0" })).not.toHaveProperty("egress");
});
