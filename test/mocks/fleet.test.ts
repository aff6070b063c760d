import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { Fleet } from "../../components/Fleet";
import { type KnownImage, PRESETS } from "../../components/plan";
import { withMachine } from "../../provider/domainXml";
import { config, image, planned } from "../helpers/fleets";
import { isSecret, plain, recordResources, type Registered, settled } from "../helpers/recorder";

async function register(
  stackFile: Record<string, unknown>,
  images = { os: image("a") },
  history: readonly KnownImage[] = [],
): Promise<Map<string, Registered>> {
  const seen = await recordResources();
  new Fleet("fleet", { plan: planned(stackFile), images, history });
  await settled();
  return seen;
}

function typesOf(seen: Map<string, Registered>): Record<string, number> {
  const count: Record<string, number> = {};
  for (const { type } of seen.values()) {
    count[type] = (count[type] ?? 0) + 1;
  }
  return count;
}

function get(seen: Map<string, Registered>, name: string): Registered {
  const found = seen.get(name);
  if (!found) {
    throw new Error(`no resource ${name}; there are ${[...seen.keys()].join(", ")}`);
  }
  return found;
}

const xsltOf = (seen: Map<string, Registered>): string =>
  (plain(get(seen, "web-domain").inputs["xml"]) as { xslt: string }).xslt;

/** What the stylesheet makes, and the Guest completes before the first start. */
function definitionOf(xslt: string): string {
  const domain = /<domain [^]*<\/domain>/.exec(xslt)?.[0] ?? "";
  const root = `<domain xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0"`;
  const bare = domain
    .replace("<domain", root)
    .replace(/<xsl:copy-of select="vcpu"\/>/, "<vcpu>1</vcpu>")
    .replace(/<xsl:[^>]*\/>/g, "1");
  const machine = { bootPath: "/pool/overlay", memoryMiB: 512, memoryMaximumMiB: 512, vcpus: 1, vcpusMaximum: 1 };
  return withMachine(bare, { ...machine, balloon: false, nic: undefined });
}

const overlay = (vm: string, digit = "a"): string => `${vm}-overlay-${digit.repeat(12)}`;

describe("a fleet of two VMs on one image", () => {
  let seen: Map<string, Registered>;
  beforeAll(async () => {
    seen = await register(config(["db", "web"]));
  });

  it("has one base image and an overlay, a persistent volume, a seed, a domain and a guest for each VM (T-1, T-5, G-1)", () => {
    expect(typesOf(seen)).toMatchObject({
      "nixvm:index:Fleet": 1,
      "nixvm:index:BaseImage": 1,
      "nixvm:index:VirtualMachine": 2,
      "nixvm:index:OverlayDisk": 2,
      "nixvm:index:PersistentVolume": 2,
      "nixvm:index:Seed": 2,
      "libvirt:index/volume:Volume": 5,
      "nixvm:index:SeedVolume": 2,
      "libvirt:index/domain:Domain": 2,
      "nixvm:index:Guest": 2,
    });
  });

  it("needs at most 10 engine resources for each VM", async () => {
    const one = await register(config(["db"]));
    expect(seen.size - one.size).toBeLessThanOrEqual(10);
  });

  it("puts the image's digest in the base's name and does not look at the source again (T-5)", () => {
    const base = get(seen, `base-local-${"a".repeat(12)}-volume`);
    expect(base.inputs.name).toBe(`nixvm-test-base-${"a".repeat(12)}.qcow2`);
    expect(base.ignorechangesList).toContain("source");
  });

  it("stacks every overlay on the base, under a name with digest and something unique to its creation (T-2, D4)", () => {
    const volume = get(seen, `${overlay("web")}-volume`);
    expect(volume.inputs.baseVolumeId).toBe(`/pool/nixvm-test-base-${"a".repeat(12)}.qcow2`);
    expect(volume.inputs.name).toBe(`nixvm-test-web-${"a".repeat(12)}-abababab.qcow2`);
    expect(get(seen, `${overlay("web")}-creation`).inputs).toMatchObject({ byteLength: 4 });
  });

  it("protects and retains the persistent volume and never replaces it for its size (T-53, T-62)", () => {
    const volume = get(seen, "web-persist-volume");
    expect(volume).toMatchObject({ protect: true, retainondelete: true });
    expect(volume.ignorechangesList).toEqual(expect.arrayContaining(["size", "format"]));
  });

  it("makes the persistent volume of the qcow2 version that grows with snapshots in it, and private", () => {
    const volume = get(seen, "web-persist-volume");
    const sheet = path.join(fs.mkdtempSync(path.join(os.tmpdir(), "nixvm volume ")), "volume.xsl");
    fs.writeFileSync(sheet, (volume.inputs["xml"] as { xslt: string }).xslt);
    const asked = `<volume><target><format type="qcow2"/><permissions><mode>644</mode></permissions></target></volume>`;
    const made = execFileSync("xsltproc", [sheet, "-"], { input: asked, encoding: "utf8" });
    fs.rmSync(path.dirname(sheet), { recursive: true });
    expect(made).toMatch(/<format type="qcow2"\/><permissions><mode>0600<\/mode><\/permissions><compat>1\.1<\/compat>/);
  });

  it("gives the persistent volume no input from image, shape or seed (Z-42)", () => {
    const urns = get(seen, "web-persist-volume").propertydependenciesMap.flatMap(([, { urnsList }]) => urnsList);
    expect(urns.every((urn) => urn.includes("Pool"))).toBe(true);
  });

  it("replaces the domain, old one first, when a disk that stays changes: the provider would plan it in place and change nothing (D1)", () => {
    const domain = get(seen, "web-domain");
    expect(domain.deletebeforereplace).toBe(true);
    expect(domain.replaceonchangesList).toEqual(["xml"]);
  });

  it("keeps the domain in an upgrade: the Guest alone is told of the overlay, of the shape, and whether it runs (T-43)", async () => {
    const upgraded = await register(config(["web"], { fleet: { web: { memory: "1GiB", vcpus: 2, running: false } } }), {
      os: image("b"),
    });
    const domain = get(upgraded, "web-domain");
    expect(domain.ignorechangesList).toEqual(
      expect.arrayContaining(["disks", "memory", "vcpu", "running", "autostart"]),
    );
    const { memory: _m, vcpu: _v, ...inputs } = domain.inputs;
    expect(get(seen, "web-domain").inputs).toMatchObject(inputs);
    expect(inputs).toMatchObject({ running: false });
    expect(JSON.stringify(inputs)).not.toMatch(/[ab]{12}/);
    expect(get(upgraded, "web-guest").inputs).toMatchObject({
      overlayPath: expect.stringContaining(`web-${"b".repeat(12)}-`),
      ...{ memoryMiB: 1024, vcpus: 2, running: false },
    });
  });

  it("touches a VM only when the one before it has passed its gate, and makes all overlays before that (D4)", () => {
    expect(get(seen, "web-domain").dependenciesList.some((urn) => urn.endsWith("::db-guest"))).toBe(true);
    expect(get(seen, `${overlay("web")}-volume`).dependenciesList.some((urn) => urn.endsWith("::db-guest"))).toBe(
      false,
    );
    expect(get(seen, "db-domain").dependenciesList.some((urn) => urn.endsWith("-guest"))).toBe(false);
  });

  it("ties the guest to its domain and tells it which image to wait for (G-8)", () => {
    const guest = get(seen, "web-guest");
    const tied = guest.propertydependenciesMap.find(([property]) => property === "domainId")?.[1].urnsList;
    expect(tied?.some((urn) => urn.endsWith("::web-domain"))).toBe(true);
    expect(guest.inputs).toMatchObject({ imageId: "image-v-a", contract: "nixvm", memoryMiB: 512, running: true });
    expect(guest.customtimeouts).toMatchObject({ create: "900s", update: "900s" });
  });

  it("hands a VM's health checks to its Guest, and none where there are none", async () => {
    expect(get(seen, "web-guest").inputs).not.toHaveProperty("checks");
    const checked = await register(config([], { fleet: { web: { health: { web: { http: { port: 8080 } } } } } }));
    expect(plain(get(checked, "web-guest").inputs["checks"])).toEqual([
      expect.objectContaining({ name: "web", kind: "http", address: "127.0.0.1", port: 8080, path: "/" }),
    ]);
  });

  it("treats the seed and the fleet's key as secrets, and shows what is derived of the key (T-26, G-5)", () => {
    const seed = get(seen, "web-seed-iso");
    for (const field of ["userData", "metaData", "networkConfig"]) {
      expect(isSecret(seed.inputs[field])).toBe(true);
    }
    expect(isSecret(get(seen, "web-guest").inputs.uuid)).toBe(false);
    // Of all random resources only a password's id is not its value.
    const key = get(seen, "fleet-key");
    expect(key.type).toBe("random:index/randomPassword:RandomPassword");
    expect(key.additionalsecretoutputsList.sort()).toEqual(["bcryptHash", "result"]);
    expect(JSON.stringify(get(seen, "web-domain").inputs)).not.toMatch(/x{64}/);
  });

  it("ties the domain to the seed by order only, so that another seed never touches the domain (D1, D5)", () => {
    const seed = get(seen, "web-seed-iso");
    expect(seed.deletebeforereplace).toBe(true);
    expect(seed.inputs).toMatchObject({ pool: "nixvm-test", name: "nixvm-test-web-seed.iso", uri: "qemu:///system" });
    const domain = get(seen, "web-domain");
    expect(domain.dependenciesList.some((urn) => urn.endsWith("::web-seed-iso"))).toBe(true);
    const tied = domain.propertydependenciesMap.flatMap(([, { urnsList }]) => urnsList);
    expect(tied.filter((urn) => urn.includes("seed"))).toEqual([]);
    expect(get(seen, "web-guest").inputs.seedPath).toBe("/pools/nixvm-test/nixvm-test-web-seed.iso");
  });

  it("finds disks by serial, boots from vda, and wires UEFI, agent and console (T-2, T-4, T-13, G-6)", () => {
    const xslt = definitionOf(xsltOf(seen));
    expect(xslt).toMatch(/<target dev="vda"[^]*?<serial>boot<\/serial>\s*<boot order="1"\/>/);
    expect(xslt).toMatch(/<target dev="vdb"[^]*?<serial>persist<\/serial>/);
    expect(xslt).toContain('firmware="efi"');
    expect(xslt).toContain("org.qemu.guest_agent.0");
    expect(xslt).toMatch(/<domain [^>]*type="qemu">/);
  });
});

describe.each(PRESETS)("a VM of preset %s", (preset) => {
  it.each([
    ["libvirt's firmware", {}, /<os firmware="efi">/],
    [
      "firmware of one's own",
      { firmware: { loader: "/c.fd", nvramTemplate: "/v.fd" } },
      /<loader readonly="yes" type="pflash">\/c\.fd</,
    ],
  ])(
    "starts by UEFI from a virtio disk, with %s, and has entropy from its host (Z-1, Z-2, V-1, V-67)",
    async (_what, more, uefi) => {
      const vm = { preset, memory: "8GiB", ...more };
      const xslt = definitionOf(xsltOf(await register(config(["web"], { fleet: { web: vm } }))));
      expect(xslt).toMatch(uefi);
      expect(xslt).toMatch(/<target dev="vda" bus="virtio"\/>\s*<serial>boot<\/serial>\s*<boot order="1"\/>/);
      expect(xslt).toMatch(/<rng model="virtio">/);
    },
  );
});

describe("identity", () => {
  const facts = (seen: Map<string, Registered>): unknown => {
    const { xslt } = plain(get(seen, "web-domain").inputs.xml) as { xslt: string };
    return [get(seen, "web-guest").inputs.uuid, /<uuid>.*<\/uuid>/.exec(xslt)?.[0], /mac=[0-9a-f:]+/.exec(xslt)?.[0]];
  };

  it("does not depend on image, shape or seed (T-43, T-44)", async () => {
    const before = facts(await register(config(["web"])));
    const changed = config(["web"], {
      fleet: { web: { memory: "1GiB", vcpus: 2, tcpPorts: [22, 80], persist: { size: "2GiB" } } },
    });
    expect(facts(await register(changed, { os: image("b") }))).toEqual(before);
  });

  it("differs between VMs", async () => {
    const seen = await register(config(["db", "web"]));
    expect(get(seen, "db-guest").inputs.uuid).not.toBe(get(seen, "web-guest").inputs.uuid);
  });
});

describe("what changes with what", () => {
  const names = (seen: Map<string, Registered>): string[] => [...seen.keys()].sort();
  const inputsOf = (seen: Map<string, Registered>, vm: string): unknown =>
    [...seen]
      .filter(([name]) => name === vm || name.startsWith(`${vm}-`))
      .map(([name, r]) => [name, r.inputs])
      .sort();

  it("adds one VM for one more entry and leaves the others as they are (G-2)", async () => {
    const one = await register(config(["web"]));
    const two = await register(config(["web", "worker"]));
    expect(
      names(two)
        .filter((name) => !names(one).includes(name))
        .every((name) => name.startsWith("worker")),
    ).toBe(true);
    expect(inputsOf(two, "web")).toEqual(inputsOf(one, "web"));
  });

  it("makes another base and other overlays for another image, and nothing else (T-16, T-41)", async () => {
    const a = names(await register(config(["web"])));
    const b = names(await register(config(["web"]), { os: image("b") }));
    const fresh = b.filter((name) => !a.includes(name));
    expect(fresh.every((name) => name.startsWith("base-local-") || name.startsWith("web-overlay-"))).toBe(true);
    expect(fresh).toHaveLength(5);
  });

  it("keeps former images on the hosts that they are on, and takes a VM back to one without its file", async () => {
    const kept = { ...image("b"), hosts: ["local", "gone"] };
    const base = (digit: string) => `base-local-${digit.repeat(12)}-volume`;
    const seen = await register(config(["web"]), { os: image("a") }, [{ ...image("a"), hosts: ["local"] }, kept]);
    expect([...seen.keys()].filter((name) => /^base-.*-volume$/.test(name)).sort()).toEqual([base("a"), base("b")]);
    const sources = ["a", "b"].map((digit) => get(seen, base(digit)).inputs["source"]);
    expect(sources).toEqual([image("a").file, ""]);
    const back = await register(config(["web"]), { os: { ...image("b"), file: "" } }, [kept]);
    expect(get(back, base("b")).ignorechangesList).toContain("source");
    expect({ ...get(back, base("b")).inputs, source: "" }).toEqual({ ...get(seen, base("b")).inputs, source: "" });
  });

  it("uploads one image under two names once", async () => {
    const stackFile = config(["db", "web"], {
      images: { os: { path: "os.qcow2" }, same: { path: "copy.qcow2" } },
      fleet: { db: {}, web: { image: "same" } },
    });
    expect(
      typesOf(await register(stackFile, { os: image("a"), same: image("a") } as never))["nixvm:index:BaseImage"],
    ).toBe(1);
  });

  it("adds one disk for scratch, keeps guest memory out of dumps, and none without (E-3, E-4, E-24)", async () => {
    const without = await register(config(["web"]));
    expect(typesOf(without)["nixvm:index:ScratchDisk"]).toBeUndefined();
    const seen = await register(config(["web"], { fleet: { web: { scratch: { size: "1GiB" } } } }));
    expect(typesOf(seen)["nixvm:index:ScratchDisk"]).toBe(1);
    const { xslt } = plain(get(seen, "web-domain").inputs.xml) as { xslt: string };
    expect(xslt).toMatch(/<target dev="vdc"[^]*?<serial>scratch<\/serial>/);
    expect(xslt).toContain('dumpCore="off"');
    const volume = get(seen, "web-scratch-volume");
    expect([volume.protect, volume.retainondelete].some(Boolean)).toBe(false);
  });

  it("gives a raised generation other disks, both of them (T-50)", async () => {
    const [old, fresh] = [
      await register(config(["web"])),
      await register(config(["web"], { fleet: { web: { generation: 1 } } })),
    ];
    const disks = (seen: Map<string, Registered>) => [
      get(seen, `${overlay("web")}-creation`).inputs["keepers"],
      get(seen, "web-persist-volume").inputs["name"],
    ];
    expect(disks(old)).toEqual([expect.objectContaining({ generation: "0" }), "nixvm-test-web-persist"]);
    expect(disks(fresh)).toEqual([expect.objectContaining({ generation: "1" }), "nixvm-test-web-persist-g1"]);
  });

  it("has another network as a change of its card only, on a bridge with its DHCP, and keeps the persistent volume (T-119, T-123)", async () => {
    const nat = await register(config(["web"], { fleet: { web: { network: "nat" } } }));
    const bridge = await register(config(["web"], { fleet: { web: { network: "bridge:br0" } } }));
    const nic = (seen: Map<string, Registered>) => get(seen, "web-guest").inputs["nic"];
    const mac: unknown = expect.stringMatching(/^02:/);
    expect(nic(nat)).toEqual({ type: "network", source: "default", mac });
    expect(nic(bridge)).toEqual({ type: "bridge", source: "br0", mac });
    expect(get(bridge, "web-domain").inputs).toEqual(get(nat, "web-domain").inputs);
    const user = await register(config(["web"], { fleet: { web: { network: "user" } } }));
    expect(nic(user)).toBeUndefined();
    expect(get(user, "web-domain").inputs).not.toEqual(get(nat, "web-domain").inputs);
    const network = JSON.parse(plain(get(bridge, "web-seed-iso").inputs["networkConfig"]) as string) as {
      ethernets: object;
    };
    expect(network.ethernets).toMatchObject({ nic0: { dhcp4: true } });
    expect(get(bridge, "web-persist-volume").inputs).toEqual(get(nat, "web-persist-volume").inputs);
  });

  it("can make an empty fleet", async () => {
    const seen = await register({});
    expect(typesOf(seen)["nixvm:index:VirtualMachine"]).toBeUndefined();
  });
});
