import { Fleet } from "../../components/Fleet";
import { scratchVolumeName } from "../../components/plan/names";
import { config, image, planned } from "../helpers/fleets";
import { plain, recordResources, type Registered, settled } from "../helpers/recorder";
import { PRIVATE_VOLUME } from "../../components/volumeXslt";

/** A fleet of one VM `web`, with what its entry in the stack file says. */
async function register(web: Record<string, unknown>): Promise<Map<string, Registered>> {
  const seen = await recordResources();
  new Fleet("fleet", { plan: planned(config(["web"], { fleet: { web } })), images: { os: image("a") }, history: [] });
  await settled();
  return seen;
}

const get = (seen: Map<string, Registered>, name: string): Registered => seen.get(name)!;
const xslt = (seen: Map<string, Registered>): string =>
  (plain(get(seen, "web-domain").inputs.xml) as { xslt: string }).xslt;
/** What our guest reads of the seed. */
const seed = (seen: Map<string, Registered>): Record<string, unknown> => {
  const text = plain(get(seen, "web-seed-iso").inputs.userData) as string;
  return (JSON.parse(text.slice(text.indexOf("\n") + 1)) as { nixvm: Record<string, unknown> }).nixvm;
};
/** Names of resources that another fleet does not have in the very same form. */
const otherThan = (a: Map<string, Registered>, b: Map<string, Registered>): string[] =>
  [...b.keys()].filter((name) => JSON.stringify(a.get(name)?.inputs) !== JSON.stringify(b.get(name)?.inputs)).sort();

const SIZED = { scratch: { size: "1GiB" } };

it("is the same as none at size 0 (E-2, E-3)", async () => {
  const none = await register({});
  const zero = await register({ vmDiskSize: 0 });
  expect([...zero.keys()].sort()).toEqual([...none.keys()].sort());
  expect(otherThan(none, zero)).toEqual([]);
  expect(xslt(none)).not.toMatch(/scratch|dumpCore/);
});

it("is one thin volume under the planner's name that nothing protects, keeps or calls persistent (E-4, E-10, E-11)", async () => {
  for (const scratch of [SIZED.scratch, { ...SIZED.scratch, nixOverlay: true }]) {
    const seen = await register({ scratch });
    const volume = get(seen, "web-scratch-volume");
    expect(volume.inputs).toEqual({
      name: `${scratchVolumeName("nixvm-test", "web")}-abababab.qcow2`,
      pool: "nixvm-test",
      size: 2 ** 30,
      format: "qcow2",
      xml: PRIVATE_VOLUME,
    });
    expect([volume.protect, volume.retainondelete].some(Boolean)).toBe(false);
    // A volume that was made before has another one.
    expect(volume.ignorechangesList).toEqual(["xml"]);
    // One pool for both uses.
    expect(xslt(seen).match(/<serial>\w+<\/serial>/g)).toEqual(
      ["persist", "scratch", "cloudinit"].map((serial) => `<serial>${serial}</serial>`),
    );
  }
});

it("gets no key, nor a place for one: only the marker goes to the guest (E-14, E-15, E-16)", async () => {
  const without = await register({});
  const seen = await register(SIZED);
  expect(seed(without).scratch).toBeUndefined();
  expect(seed(seen)).toEqual({ ...seed(without), scratch: { nixOverlay: false } });
  // All that differs, and of each all that there is besides names of ours.
  expect(otherThan(without, seen)).toEqual([
    "web-domain",
    "web-guest",
    "web-scratch",
    "web-scratch-creation",
    "web-scratch-volume",
    "web-seed-iso",
  ]);
  expect(Object.keys(get(seen, "web-scratch").inputs).sort()).toEqual(["pool", "sizeBytes", "volumePrefix"]);
  expect(get(seen, "web-scratch-creation").inputs).toEqual({
    byteLength: 4,
    keepers: { pool: "nixvm-test", sizeBytes: `${2 ** 30}` },
  });
  expect(Object.keys(get(seen, "web-seed-iso").inputs).sort()).toEqual(
    Object.keys(get(without, "web-seed-iso").inputs).sort(),
  );
  expect(Object.keys(get(seen, "web-guest").inputs)).toEqual(Object.keys(get(without, "web-guest").inputs));
  expect(xslt(seen)).not.toMatch(/encryption|secret|luks/i);
});

it("changes nothing of the persistent volume when its size does, and restarts the VM on the new one (E-36)", async () => {
  const before = await register(SIZED);
  const after = await register({ scratch: { size: "2GiB" } });
  // Names in libvirt differ by what the RandomId makes of new keepers, which the mocks do not follow.
  expect(otherThan(before, after)).toEqual(["web-scratch", "web-scratch-creation", "web-scratch-volume"]);
  const dependents = [...after.values()].filter((resource) =>
    resource.propertydependenciesMap.some(([, { urnsList }]) => urnsList.some((urn) => urn.includes("web-scratch"))),
  );
  expect(dependents.map(({ name }) => name).sort()).toEqual(["web-domain", "web-scratch-volume"]);
  const domain = get(after, "web-domain");
  expect(domain.replaceonchangesList).toContain("xml");
  expect(domain.deletebeforereplace).toBe(true);
});

it("keeps guest memory out of dumps of a VM with it, and only there (E-24)", async () => {
  expect(xslt(await register(SIZED))).toContain('<memory unit="MiB" dumpCore="off">');
  expect(xslt(await register({}))).toContain('<memory unit="MiB">');
});
