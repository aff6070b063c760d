import { createPrivateKey, createPublicKey, sign, verify } from "node:crypto";
import fc from "fast-check";
import { hostKeyOf, identityOf, sshPortOf } from "../../components/plan";
import * as names from "../../components/plan/names";
import { isSshPublicKey, isUnicastMac, NAME_PATTERN } from "../../components/plan/text";

const key = "0123456789abcdef".repeat(4);
const GOLDEN = {
  uuid: "a8a030da-7fa0-81a6-af58-c0b23f632965",
  machineId: "ed2e0ec28594458c818cb5f11252d8c5",
  mac: "02:cd:84:1c:a5:6f",
  hostId: "dbd36cb7",
};
const vmName = fc.stringMatching(/^[a-z]([a-z0-9-]{0,20}[a-z0-9])?$/);
const anyKey = fc.stringMatching(/^([0-9a-f]{2}){16,40}$/);

describe("identity", () => {
  test("is the same for the same key and name, for ever (Z-50, G-12)", () => {
    // Written down on purpose: a change of the derivation would give every existing VM a new identity.
    expect(identityOf(key, "web")).toEqual({
      uuid: expect.stringMatching(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/),
      machineId: expect.stringMatching(/^[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}$/),
      mac: expect.stringMatching(/^02(:[0-9a-f]{2}){5}$/),
      hostId: expect.stringMatching(/^[0-9a-f]{8}$/),
    });
    expect(identityOf(key, "web")).toEqual(GOLDEN);
    fc.assert(fc.property(anyKey, vmName, (k, n) => expect(identityOf(k, n)).toEqual(identityOf(k, n))));
  });

  test("every MAC is unicast, locally administered and not QEMU's (T-93)", () => {
    fc.assert(
      fc.property(anyKey, vmName, (k, n) => {
        const { mac, hostId } = identityOf(k, n);
        expect(isUnicastMac(mac)).toBe(true);
        expect(Number.parseInt(mac.slice(0, 2), 16) & 2).toBe(2);
        expect(mac.startsWith("52:54")).toBe(false);
        expect(hostId).not.toBe("00000000");
      }),
    );
  });

  test("10,000 VMs of one fleet share nothing (T-91 to T-93, Z-51)", () => {
    const all = Array.from({ length: 10_000 }, (_, i) => identityOf(key, `worker-${i}`));
    for (const field of ["uuid", "machineId", "mac"] as const) {
      expect(new Set(all.map((identity) => identity[field])).size).toBe(all.length);
    }
    // 32 bits: not enough for 10,000, but for all VMs that could ever meet one pool.
    expect(new Set(all.slice(0, 500).map(({ hostId }) => hostId)).size).toBe(500);
  });

  test("two fleets do not share an identity for a VM of the same name", () => {
    fc.assert(
      fc.property(anyKey, anyKey, vmName, (a, b, n) => {
        fc.pre(a !== b);
        expect(identityOf(a, n).uuid).not.toBe(identityOf(b, n).uuid);
      }),
    );
  });

  test("what is given wins, and the rest stays derived", () => {
    const given = identityOf(key, "web", { mac: "02:AA:00:00:00:01", uuid: null });
    expect(given).toEqual({ ...GOLDEN, mac: "02:aa:00:00:00:01" });
  });

  test.each(["", "secret-but-no-hex", "0123", "0".repeat(31)])("the key %p is refused without being shown", (bad) => {
    expect(() => identityOf(bad, "web")).toThrow("at least 32 hex digits");
    if (bad !== "") expect(() => identityOf(bad, "web")).not.toThrow(bad);
  });
});

describe("host key held by the stack (T-95)", () => {
  test("is a valid OpenSSH pair, stable, different for each VM", () => {
    fc.assert(
      fc.property(anyKey, vmName, (k, n) => {
        const pair = hostKeyOf(k, n);
        expect(pair).toEqual(hostKeyOf(k, n));
        expect(isSshPublicKey(pair.publicKey)).toBe(true);
        expect(hostKeyOf(k, `${n}x`).publicKey).not.toBe(pair.publicKey);
        // The file carries the public blob in clear, and the private seed followed by the point.
        const body = Buffer.from(pair.privateKey.split("\n").slice(1, -2).join(""), "base64");
        const blob = Buffer.from(pair.publicKey.split(" ")[1] ?? "", "base64");
        expect(body.subarray(0, 15).toString("latin1")).toBe("openssh-key-v1\0");
        expect(body.includes(blob)).toBe(true);
        const point = blob.subarray(-32);
        const at = body.lastIndexOf(point);
        const seed = body.subarray(at - 32, at);
        const pkcs8 = Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), seed]);
        const own = createPrivateKey({ key: pkcs8, format: "der", type: "pkcs8" });
        const spki = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), point]);
        const other = createPublicKey({ key: spki, format: "der", type: "spki" });
        expect(verify(null, Buffer.from("x"), other, sign(null, Buffer.from("x"), own))).toBe(true);
      }),
      { numRuns: 25 },
    );
  });
});

describe("names", () => {
  test("carry the prefix, and one VM's never meet another's", () => {
    const digest = "0123456789abcdef".repeat(4);
    expect(names.prefixOf("nixvm", "demo")).toBe("nixvm-demo");
    expect(names.domainName("p-s", "web")).toBe("p-s-web");
    expect(names.networkName("p-s", "lan")).toBe("p-s-lan");
    expect(names.baseVolumeName("p-s", digest)).toBe("p-s-base-0123456789ab");
    expect(names.baseVolumeName("p-s", `sha256:${digest}`)).toBe("p-s-base-0123456789ab");
    expect(names.overlayVolumeName("p-s", "web", digest, "x1")).toBe("p-s-web-0123456789ab-x1");
    expect(names.persistVolumeName("p-s", "web")).toBe("p-s-web-persist");
    expect(names.persistVolumeName("p-s", "web", 2)).toBe("p-s-web-persist-g2");
    expect(names.scratchVolumeName("p-s", "web")).toBe("p-s-web-scratch");
    expect(names.seedVolumeName("p-s", "web")).toBe("p-s-web-seed.iso");
    expect(names.consoleLogPath("/var/log/", "p-s-web")).toBe("/var/log/p-s-web.log");
    fc.assert(
      fc.property(vmName, vmName, (a, b) => {
        fc.pre(a !== b);
        expect(names.persistVolumeName("p", a)).not.toBe(names.persistVolumeName("p", b));
        expect(names.overlayVolumeName("p", a, digest, "n")).not.toBe(names.persistVolumeName("p", b));
      }),
    );
  });

  test("the longest ones still fit into a file name", () => {
    const [prefix, vm] = ["p".repeat(100), "v".repeat(63)];
    expect(names.isPrefix(prefix)).toBe(true);
    expect(NAME_PATTERN.test(vm)).toBe(true);
    const longest = names.overlayVolumeName(prefix, vm, "a".repeat(64), "n".repeat(32));
    expect(longest.length).toBeLessThanOrEqual(255);
  });

  test("bad parts are refused", () => {
    expect(() => names.overlayVolumeName("p", "v", "a".repeat(64), "../x")).toThrow("nonce");
    expect(() => names.digest12("xyz")).toThrow("12 lower-case hex digits");
    expect(names.isPrefix("../x")).toBe(false);
    expect(names.isPrefix("p".repeat(101))).toBe(false);
  });

  test("SSH ports stay between the registered ports and those that Linux hands out", () => {
    fc.assert(
      fc.property(fc.string(), (name) => {
        expect(sshPortOf(name)).toBeGreaterThanOrEqual(20_000);
        expect(sshPortOf(name)).toBeLessThan(32_000);
      }),
    );
  });
});
