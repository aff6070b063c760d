import { fleetFacts, type WantedVm } from "../../provider/facts";
import { LibvirtError } from "../../provider/virsh";
import { domainXml, FakeClock, FakeLibvirt, UUID } from "./provider-fake";

const OLD = "aaaaaaaaaaaa";
const NEW = "bbbbbbbbbbbb";
const overlay = (digest: string) => `/pool dir/fleet-web-${digest}-0102.qcow2`;
const web: WantedVm = { name: "web", domain: "fleet-web", uri: "qemu:///system", digest: NEW.padEnd(64, "0") };
const on = (path: string) => domainXml(path).replace("<domain", `<domain id="3"`);

let libvirt: FakeLibvirt;
beforeEach(() => {
  libvirt = new FakeLibvirt();
  libvirt.live = on(overlay(OLD));
});
const facts = (vms = [web]) => fleetFacts(vms, { libvirt: () => libvirt, clock: new FakeClock() });

describe("what is known of VMs before anything is planned", () => {
  test("one that is not there is not in the answer", async () => {
    libvirt.list = [{ uuid: UUID, name: "fleet-web-2" }];
    expect(await facts()).toEqual({});
  });

  test("one on another image is asked whether it is healthy, one on the wanted image is not", async () => {
    expect(await facts()).toEqual({ web: { running: true, imageDigest: OLD, healthy: true } });
    libvirt.live = on(overlay(NEW));
    libvirt.system = undefined;
    expect(await facts()).toEqual({ web: { running: true, imageDigest: NEW } });
  });

  test.each<[string, () => void, boolean]>([
    ["says so", () => (libvirt.status = { ...libvirt.status, healthy: false }), false],
    ["is silent", () => (libvirt.system = undefined), false],
    ["has no record and is up", () => (libvirt.status = undefined), true],
    ["has no record and is degraded", () => [(libvirt.status = undefined), (libvirt.system = "degraded")], true],
    ["has no record and starts still", () => [(libvirt.status = undefined), (libvirt.system = "starting")], false],
  ])("a guest that %s", async (_what, arrange, healthy) => {
    arrange();
    expect((await facts())["web"]?.healthy).toBe(healthy);
  });

  test("one that is off is not asked, and one with a place for a boot disk only has no image yet", async () => {
    libvirt.live = domainXml(overlay(OLD));
    expect(await facts()).toEqual({ web: { running: false, imageDigest: OLD } });
    libvirt.live = domainXml("/pool/fleet-web-boot");
    expect(await facts()).toEqual({ web: { running: false } });
  });

  test("a chassis without a boot disk has never been a guest, though it may run", async () => {
    libvirt.live = on(overlay(OLD)).replace("<serial>boot</serial>", "<serial>data</serial>");
    expect(await facts()).toEqual({ web: { running: false } });
  });

  test.each(["/pool/by-hand.qcow2", "/pool/fleet-web-2-aaaaaaaaaaaa-01.qcow2", "/pool/fleet-web-aaaaaaaaaaaa.qcow2"])(
    "%s is no overlay of it",
    async (path) => {
      libvirt.live = on(path);
      expect(await facts()).toEqual({ web: { running: true, healthy: true } });
    },
  );

  test("nothing is asked of the test driver", async () => {
    expect(await facts([{ ...web, uri: "test:///default" }])).toEqual({});
    expect(libvirt.calls).toEqual([]);
  });

  test("each host is listed once, each of its VMs looked at once, and not all of them at the same time", async () => {
    const vms = Array.from({ length: 40 }, (_, i) => ({ ...web, name: `w${i}`, domain: `fleet-w${i}` }));
    libvirt.list = vms.map(({ domain }) => ({ uuid: UUID, name: domain }));
    let [now, most] = [0, 0];
    libvirt.xml = async () => {
      most = Math.max(most, ++now);
      await new Promise(setImmediate);
      now--;
      return domainXml("/pool/x");
    };
    expect(Object.keys(await facts(vms))).toHaveLength(40);
    expect(libvirt.calls).toEqual(["list"]);
    expect(most).toBeGreaterThan(1);
    expect(most).toBeLessThanOrEqual(8);
  });

  test("that libvirt does not answer is an error, as a plan without facts would be wrong", async () => {
    libvirt.failing.set("xml", new LibvirtError("unreachable", "libvirt at qemu:///system does not answer"));
    await expect(facts()).rejects.toThrow("does not answer");
  });
});
