import { createHash } from "node:crypto";
import fc from "fast-check";
import { parse } from "yaml";
import { hostKeyOf, identityOf, PRESETS, seedDigest, type SeedFiles, seedFiles } from "../../components/plan";
import { one, sshKey, vmOf } from "./plan-support";

const key = "0123456789abcdef".repeat(4);
const identity = identityOf(key, "web");
const lan = { networks: { lan: { subnet: "192.168.77.0/24" }, dark: { subnet: "10.0.0.0/24", mode: "isolated" } } };

const seedOf = (vm: unknown): SeedFiles => seedFiles(vmOf(one(vm, lan)), identity);
const bodyOf = (files: SeedFiles) => JSON.parse(files.userData.replace("#cloud-config\n", ""));

describe("the seed", () => {
  test("is what the guest contract says, byte for byte", () => {
    expect(
      seedOf({ adminKeys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICTsQRRP8XfI5CgIOj5ZW5UA5HjyusdBpCYNKfMqiHMe a"] }),
    ).toMatchSnapshot();
  });

  test("has no key that only another system needs (E-16, G-10)", () => {
    const keysOf = (vm: unknown) => Object.keys(bodyOf(seedOf(vm)).nixvm);
    const always = [
      "contract",
      "rootMode",
      "persist",
      "identity",
      "accounts",
      "rootPasswordHash",
      "tcpPorts",
      "udpPorts",
      "dns",
    ];
    expect(keysOf({})).toEqual(always);
    expect(new Set(keysOf({ preset: "zvm" }))).toEqual(new Set([...always, "home", "allowlist", "update"]));
    expect(new Set(keysOf({ vmDiskSize: 1 }))).toEqual(new Set([...always, "scratch"]));
    expect(bodyOf(seedOf({ preset: "rollback" })).nixvm.identity).toEqual({
      machineId: identity.machineId,
      hostId: identity.hostId,
    });
    expect(bodyOf(seedOf({})).nixvm.identity).toEqual({ machineId: identity.machineId });
    expect(bodyOf(seedOf({ preset: "sealed" })).nixvm.persist).toBeNull();
  });

  test("does not depend on image, shape, host or rollout", () => {
    const a = seedOf({});
    const b = seedOf({
      memory: "4GiB",
      vcpus: 4,
      gateTimeout: "1m",
      running: false,
      persist: { size: "99GiB" },
      cpuModel: "max",
    });
    expect(b).toEqual(a);
    expect(seedDigest(b)).toBe(seedDigest(a));
  });

  test("is the same for the same input, JSON and YAML at once, for any VM", () => {
    const vm = fc.record(
      {
        preset: fc.constantFrom(...PRESETS),
        hostname: fc.stringMatching(/^[a-z]([a-z0-9-]{0,20}[a-z0-9])?$/),
        tcpPorts: fc.uniqueArray(fc.integer({ min: 1, max: 65535 }), { maxLength: 5 }),
        userKeys: fc.array(
          fc.stringMatching(/^[ -~]{0,20}$/).map((comment) => `${sshKey} ${comment}`),
          { maxLength: 2 },
        ),
        rootPasswordHash: fc.stringMatching(/^\$6\$[./A-Za-z0-9]{8,20}$/),
        dns: fc.array(fc.ipV4(), { maxLength: 2 }),
        network: fc.constantFrom<unknown>("nat", "user", "bridge:br0", { network: "lan", address: "192.168.77.10" }),
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(vm, (entry) => {
        const files = seedOf(entry);
        expect(seedOf(structuredClone(entry))).toEqual(files);
        expect(files.userData.startsWith("#cloud-config\n{\n")).toBe(true);
        expect(parse(files.userData)).toEqual(bodyOf(files));
        for (const text of [files.metaData, files.networkConfig]) expect(parse(text)).toEqual(JSON.parse(text));
        expect(JSON.parse(files.metaData)["instance-id"]).toBe(identity.uuid);
      }),
      { numRuns: 50 },
    );
  });

  test("the order of ports in the stack file is not another seed", () => {
    expect(seedOf({ tcpPorts: [443, 22, 443] })).toEqual(seedOf({ tcpPorts: [22, 443] }));
  });

  test("the network is found by MAC; a fixed address has a route only where there is a way out", () => {
    const net = (vm: unknown) => JSON.parse(seedOf(vm).networkConfig).ethernets.nic0;
    const match = { macaddress: identity.mac };
    expect(net({})).toEqual({ match, dhcp4: true });
    expect(net({ network: { network: "lan", address: "192.168.77.10" } })).toEqual({
      match,
      addresses: ["192.168.77.10/24"],
      routes: [{ to: "default", via: "192.168.77.1" }],
      nameservers: { addresses: ["1.1.1.1", "1.0.0.1"] },
    });
    expect(net({ dns: [], network: { network: "dark", address: "10.0.0.9" } })).toEqual({
      match,
      addresses: ["10.0.0.9/24"],
    });
  });

  test("passwords are locked unless a hash is given; an empty one is none (T-104, T-112)", () => {
    const hash = "$6$saltsalt$hashhash";
    const accounts = [
      { name: "a", role: "admin", passwordHash: hash },
      { name: "b", role: "user", passwordHash: "" },
    ];
    const body = bodyOf(seedOf({ accounts, rootPasswordHash: "" }));
    expect(body.users[0]).toMatchObject({ lock_passwd: false, passwd: hash, groups: ["sudo"] });
    expect(body.users[1]).toEqual({ name: "b", shell: "/bin/bash", lock_passwd: true, ssh_authorized_keys: [] });
    expect(body.nixvm.accounts[0].passwordHash).toBe(hash);
    expect(body.nixvm.accounts[1].passwordHash).toBeNull();
    expect(body.nixvm.rootPasswordHash).toBeNull();
  });

  test("a host key is there only when the stack holds it, and then it has to be given (T-95)", () => {
    const pair = hostKeyOf(key, "web");
    const vm = vmOf(one({ identity: { sshHostKey: "stack" } }));
    const body = bodyOf(seedFiles(vm, identity, pair));
    expect(body.nixvm.identity.sshHostKey).toBe(pair.privateKey);
    expect(body.ssh_keys).toEqual({ ed25519_private: pair.privateKey, ed25519_public: pair.publicKey });
    expect(() => seedFiles(vm, identity)).toThrow("identity.sshHostKey is stack");
    expect(seedFiles(vmOf(one({})), identity, pair).userData).not.toContain("PRIVATE KEY");
  });

  test("the digest is that of the three files with NUL between them", () => {
    const files = seedOf({});
    const bytes = Buffer.concat(
      [files.userData, "\0", files.metaData, "\0", files.networkConfig].map((text) => Buffer.from(text)),
    );
    expect(seedDigest(files)).toBe(createHash("sha256").update(bytes).digest("hex"));
    expect(seedDigest({ ...files, metaData: "" })).not.toBe(seedDigest(files));
  });
});
