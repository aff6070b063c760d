import { fleetOf, resourcesOf, targetsOf } from "../../cli/fleet";

const urn = (type: string, name: string): string => `urn:pulumi:prod::nixvm::${type}::${name}`;
const GUEST = "nixvm:index:Fleet$nixvm:index:VirtualMachine$nixvm:index:Guest";
const DOMAIN = "nixvm:index:Fleet$nixvm:index:VirtualMachine$libvirt:index/domain:Domain";

const web = {
  ...{ vm: "web", uri: "qemu:///system", domain: "nixvm-prod-web", uuid: "u-1", imageDigest: "abc", seedPath: "/s" },
  ...{ overlayPath: "/o", running: true, memoryMiB: 512, vcpus: 2, accelerator: "tcg", contract: "nixvm" },
};

function state(inputs: object, outputs: object = {}, more: object[] = []): string {
  return JSON.stringify({
    deployment: {
      resources: [
        { urn: urn(GUEST, "web-guest"), type: "nixvm:index:Guest", inputs, outputs },
        {
          urn: urn(DOMAIN, "web-domain"),
          type: "libvirt:index/domain:Domain",
          provider: `${urn("nixvm:index:Fleet$pulumi:providers:libvirt", "host-rack-2")}::9d0c`,
        },
        ...more,
      ],
    },
  });
}

test("a VM is read with what the guest said last, and the host that its domain is on", () => {
  const network = "user, ssh on 127.0.0.1:2222";
  const [vm] = fleetOf(resourcesOf(state({ ...web, network }, { ip: "10.0.2.15", healthy: true, state: "running" })));
  expect(vm).toMatchObject({ name: "web", host: "rack-2", sshPort: 2222, ip: "10.0.2.15", healthy: true });
  expect(vm).not.toHaveProperty("persistPath");
});

test("a fixed address wins over what the guest said, and the scratch disk is found by its name", () => {
  const scratch = { urn: urn("libvirt:index/volume:Volume", "web-scratch-volume"), type: "v", id: "/pool/scratch" };
  const text = state({ ...web, network: "network lan, 192.168.77.10" }, { ip: "10.1.1.1" }, [scratch]);
  expect(fleetOf(resourcesOf(text))[0]).toMatchObject({ ip: "192.168.77.10", scratchPath: "/pool/scratch" });
});

test("images that failed are known by their digests; what waits for its deletion is no VM", () => {
  const gone = { urn: urn(GUEST, "old-guest"), type: "nixvm:index:Guest", delete: true, inputs: { ...web, vm: "old" } };
  const vms = fleetOf(resourcesOf(state(web, { quarantined: [{ digest: "d1", reason: "x" }] }, [gone])));
  expect(vms.map(({ name, quarantined }) => [name, quarantined])).toEqual([["web", ["d1"]]]);
});

test("a stack without a deployment has no VMs", () => {
  expect(fleetOf(resourcesOf('{"version":3,"deployment":null}'))).toEqual([]);
  expect(fleetOf(resourcesOf('{"version":3,"deployment":{}}'))).toEqual([]);
});

test("targets of a VM are its own resources, and not those of one whose name begins the same", () => {
  const pattern = (glob: string): RegExp =>
    new RegExp(`^${glob.replace(/[.+^${}()|[\]\\]/g, "\\$&").replace(/\*+/g, ".*")}$`);
  const touched = (name: string): boolean => targetsOf("web").some((glob) => pattern(glob).test(urn(GUEST, name)));
  expect(touched("web-guest")).toBe(true);
  expect(touched("web-db-guest")).toBe(false);
  expect(touched("web2-guest")).toBe(false);
  expect(touched("web-seed-guest")).toBe(false);
  expect(touched("web-overlay-guest")).toBe(false);
});
