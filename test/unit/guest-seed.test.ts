import { createHash } from "node:crypto";
import { statSync } from "node:fs";
import fc from "fast-check";
import { hostKeyOf } from "../../components/plan/hostkey";
import { guestDir, Sandbox } from "./guest-sandbox";

const KEY_A = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== a@host";
const KEY_B = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB== b@host";
const HOST_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nUSABLE\n-----END OPENSSH PRIVATE KEY-----\n";

interface Account {
  name: string;
  role: string;
  authorizedKeys: string[];
  passwordHash: string | null;
}
const account = (name: string, role: string, ...authorizedKeys: string[]): Account => ({
  name,
  role,
  authorizedKeys,
  passwordHash: null,
});

function seed(change: Record<string, unknown> = {}, network: unknown = undefined): Record<string, string> {
  const nixvm = {
    contract: 1,
    rootMode: "readonly",
    persist: { mount: "/var", fs: "ext4", label: "var" },
    identity: { machineId: "0123456789abcdef0123456789abcdef" },
    accounts: [account("admin", "admin", KEY_A), account("user", "user", KEY_B)],
    rootPasswordHash: null,
    tcpPorts: [22],
    udpPorts: [],
    dns: ["9.9.9.9"],
    ...change,
  };
  const nics = { nic0: { match: { macaddress: "02:00:00:00:00:01" }, dhcp4: true } };
  return {
    "user-data": `#cloud-config\n${JSON.stringify({ hostname: "web", nixvm }, null, 2)}\n`,
    "meta-data": '{"instance-id":"u","local-hostname":"web"}',
    "network-config": JSON.stringify({ version: 2, ethernets: network ?? nics }),
  };
}
const digestOf = (s: Record<string, string>) =>
  createHash("sha256").update([s["user-data"], s["meta-data"], s["network-config"]].join("\0")).digest("hex");

let box: Sandbox;
beforeEach(() => (box = new Sandbox()));
afterEach(() => box.done());

/** What the initrd and then the unit do. */
function boot(): string {
  const early = { NIXVM_EARLY: "1" };
  const runs = [box.guest("seed", "read", early), box.guest("seed", "render", early), box.guest("seed")];
  expect(runs.map((run) => run.code)).toEqual([0, 0, 0]);
  return runs.map((run) => run.log).join("");
}
/** `systemctl restart nixvm-seed` after the medium was changed. */
function reapply(files: Record<string, string>): void {
  box.medium(files);
  box.write("calls", "");
  expect(box.guest("seed").code).toBe(0);
}

test("all scripts are valid for dash, bash and busybox", () => {
  for (const script of ["seed", "persist", "grow", "status", "initrd", "lib.sh", "render.sh"])
    for (const shell of ["dash", "bash --posix", "busybox sh"])
      box.tool(
        "sh",
        "-c",
        `if command -v ${shell.split(" ")[0]} > /dev/null; then ${shell} -n '${guestDir}/${script}'; fi`,
      );
});

test("the first start applies everything", () => {
  const files = seed();
  box.medium(files);
  boot();
  expect(box.state("seed")).toMatchObject({ state: "applied", digest: digestOf(files), reason: "" });
  expect(box.read("run/etc/hostname")).toBe("web\n");
  expect(box.read("proc/sys/kernel/hostname")).toBe("web\n");
  expect(box.read("run/etc/machine-id")).toBe("0123456789abcdef0123456789abcdef\n");
  expect(box.read("run/etc/hosts")).toMatch(/^127\.0\.1\.1\tweb$/m);
  expect(box.read("run/etc/resolv.conf")).toBe("nameserver 9.9.9.9\n");
  expect(box.read("run/etc/passwd")).toMatch(/^admin:x:1000:1000::\/home\/admin:\/bin\/bash$/m);
  expect(box.read("run/etc/passwd")).toMatch(/^user:x:1001:1001:/m);
  expect(box.read("run/etc/group")).toMatch(/^sudo:x:27:admin$/m);
  expect(box.read("run/etc/shadow")).toMatch(/^admin:!:20000:/m);
  expect(box.read("run/etc/shadow")).toMatch(/^root:!\*:20000:/m);
  expect(box.read("run/ssh/admin")).toBe(`${KEY_A}\n`);
  expect(box.read("run/ssh/user")).toBe(`${KEY_B}\n`);
  expect(box.read("networkd/10-nixvm-nic0.network")).toMatch(/MACAddress=02:00:00:00:00:01[^]*DHCP=ipv4/);
  expect(box.read("home/admin/.profile")).toBe("# profile\n");
  expect(box.read("var/lib/identity/ssh_host_ed25519_key")).toBe("made in the guest\n");
  expect(box.calls()).toContain(`nft -f ${box.path("run/nftables")}`);
});

test("what every program reads is open to all", () => {
  box.medium(seed());
  boot();
  const mode = (name: string) => (statSync(box.path(name)).mode & 0o777).toString(8);
  for (const dir of ["run", "run/etc", "run/ssh", "networkd", "var/lib", "home"])
    expect([dir, mode(dir)]).toEqual([dir, "755"]);
  for (const file of [
    "run/etc/passwd",
    "run/etc/group",
    "run/etc/machine-id",
    "run/etc/hosts",
    "run/etc/resolv.conf",
    "run/ssh/admin",
  ])
    expect([file, mode(file)]).toEqual([file, "644"]);
});

test("secrets are private", () => {
  box.medium(seed({ identity: { sshHostKey: HOST_KEY }, rootPasswordHash: "$y$j9T$salt$hash" }));
  boot();
  const mode = (name: string) => (statSync(box.path(name)).mode & 0o777).toString(8);
  expect(mode("run/seed")).toBe("700");
  expect(mode("run/seed/current/user-data")).toBe("600");
  expect(mode("var/lib/nixvm")).toBe("700");
  expect(mode("var/lib/nixvm/seed/user-data")).toBe("600");
  expect(mode("var/lib/identity/ssh_host_ed25519_key")).toBe("600");
});

test("a deleted key, account and NIC are gone, a new port is open, and nothing else is touched", () => {
  box.medium(
    seed({
      accounts: [
        account("admin", "admin", KEY_A, KEY_B),
        account("user", "user", KEY_B),
        account("eve", "admin", KEY_B),
      ],
    }),
  );
  boot();
  expect(box.read("run/etc/group")).toMatch(/^sudo:x:27:admin,eve$/m);
  const next = seed(
    { accounts: [account("admin", "admin", KEY_A), account("user", "user")], tcpPorts: [22, 8080], udpPorts: [53] },
    {},
  );
  reapply(next);
  expect(box.state("seed")).toMatchObject({ state: "applied", digest: digestOf(next), pending: "" });
  expect(box.read("run/ssh/admin")).toBe(`${KEY_A}\n`);
  expect(box.read("run/ssh/user")).toBe("");
  expect(box.has("run/ssh/eve")).toBe(false);
  expect(box.read("run/etc/passwd")).not.toMatch(/eve/);
  expect(box.read("run/etc/group")).not.toMatch(/eve/);
  expect(box.has("networkd/10-nixvm-nic0.network")).toBe(false);
  expect(box.read("run/nftables")).toMatch(/tcp dport 8080 accept\n {4}udp dport 53 accept/);
  expect(box.calls()).toContain("networkctl reload");
  expect(box.has("home/eve")).toBe(true);
});

test("the same seed again changes nothing", () => {
  box.medium(seed());
  boot();
  box.write("calls", "");
  const run = box.guest("seed");
  expect(run.log).toContain("changed: nothing");
  expect(box.calls()).not.toMatch(/networkctl|restart/);
});

test("user numbers stay with their names, over restarts and other accounts", () => {
  box.medium(seed({ accounts: [account("a", "user"), account("b", "user")] }));
  boot();
  box.restart();
  box.medium(seed({ accounts: [account("c", "user"), account("b", "user")] }));
  boot();
  expect(box.read("run/etc/passwd")).toMatch(/^c:x:1002:[^]*^b:x:1001:/m);
  box.restart();
  box.medium(seed({ accounts: [account("a", "user")] }));
  boot();
  expect(box.read("run/etc/passwd")).toMatch(/^a:x:1000:/m);
});

describe("a seed with a fault changes nothing and is reported", () => {
  const faults: [string, Record<string, string>, RegExp][] = [
    ["not JSON", { ...seed(), "user-data": "#cloud-config\nhostname: web\n" }, /user-data is not a JSON object/],
    ["cut off", { ...seed(), "user-data": seed()["user-data"]!.slice(0, 200) }, /user-data is not a JSON object/],
    ["no user-data", { "meta-data": "{}" }, /no user-data/],
    ["another contract", seed({ contract: 2 }), /contract is 2, this guest knows 1/],
    ["a root mode the image cannot do", seed({ rootMode: "tmpfs" }), /rootMode is "tmpfs", this image can do readonly/],
    ["a port out of range", seed({ tcpPorts: [22, 70000] }), /tcpPorts \[22,70000\] has an entry that is not a port/],
    ["a port that is text", seed({ udpPorts: ["53; drop"] }), /udpPorts/],
    ["an account of the system", seed({ accounts: [account("sshd", "admin")] }), /'sshd' is one of the system's own/],
    ["an account twice", seed({ accounts: [account("a", "user"), account("a", "admin")] }), /"a" twice/],
    ["an account name with a colon", seed({ accounts: [account("a:b", "user")] }), /accounts\[0\]\.name/],
    ["a role unknown", seed({ accounts: [account("a", "root")] }), /role is "root", allowed are admin and user/],
    [
      "a key with a line break",
      seed({ accounts: [account("a", "user", `${KEY_A}\n${KEY_B}`)] }),
      /not an SSH public key/,
    ],
    ["a hash with a colon", seed({ rootPasswordHash: "$y$a:0" }), /rootPasswordHash/],
    ["a machine id too short", seed({ identity: { machineId: "abc" } }), /machineId "abc" is not 32/],
    [
      "a host key that ssh-keygen refuses",
      seed({ identity: { sshHostKey: HOST_KEY.replace("USABLE", "x") } }),
      /sshHostKey is not a usable private key/,
    ],
    [
      "a host name with a space",
      { ...seed(), "user-data": seed()["user-data"]!.replace('"web"', '"we b"') },
      /hostname "we b"/,
    ],
    ["a bad address", seed({}, { nic0: { addresses: ["10.0.0.1"] } }), /addresses .* not ADDRESS\/PREFIX/],
    ["accounts of a wrong type", seed({ accounts: ["admin"] }), /cannot be read|accounts/],
  ];

  // One guest for all of them: each fault finds what the one before has left, which has to be the good seed.
  describe("on the running guest", () => {
    const good = seed();
    let running: Sandbox;
    let before: string[];
    const inEffect = () =>
      ["etc/passwd", "ssh/admin", "nftables", "etc/hostname"].map((name) => running.read(`run/${name}`));
    beforeAll(() => {
      running = box = new Sandbox();
      box.medium(good);
      boot();
      before = inEffect();
    });
    afterAll(() => running.done());

    test.each(faults)("%s", (_name, files, reason) => {
      running.medium(files);
      expect(running.guest("seed").code).toBe(0);
      expect(running.state("seed")).toMatchObject({
        state: "failed",
        digest: digestOf(good),
        reason: expect.stringMatching(reason),
      });
      expect(inEffect()).toEqual(before);
    });

    test("and the good seed again clears the report", () => {
      running.medium(good);
      expect(running.guest("seed").code).toBe(0);
      expect(running.state("seed")).toMatchObject({ state: "applied", reason: "" });
    });
  });

  test("all faults are named at once", () => {
    box.medium(seed({ contract: 9, tcpPorts: [0], rootMode: "x" }));
    boot();
    expect(box.state("seed")["reason"]).toMatch(/contract is 9.*rootMode is "x".*tcpPorts/);
  });

  test("at the next start the copy on the persistent disk holds", () => {
    const good = seed();
    box.medium(good);
    boot();
    box.restart();
    box.medium({ ...good, "user-data": "rubbish" });
    boot();
    expect(box.state("seed")).toMatchObject({
      state: "failed",
      digest: digestOf(good),
      reason: expect.stringContaining("not a JSON object"),
    });
    expect(box.read("run/ssh/admin")).toBe(`${KEY_A}\n`);
  });
});

describe("a password file on the persistent disk", () => {
  const hash = "$6$salt$" + "a".repeat(86);
  const shadow = () => /^user:([^:]*):/m.exec(box.read("run/etc/shadow"))?.[1];
  const place = (text: string) => box.write("var/lib/identity/passwords/user", text);

  test("holds for an account that the seed gives no hash (V-19)", () => {
    place(`${hash}\n`);
    box.medium(seed());
    boot();
    expect(shadow()).toBe(hash);
  });

  test.each(["", "plain text", "$6$x:0:0", "secret"])("with %j leaves it locked (V-26)", (text) => {
    place(`${text}\n`);
    box.medium(seed());
    boot();
    expect(shadow()).toBe("!");
    expect(box.state("seed")).toMatchObject({ state: "applied" });
  });
});

describe("without a medium", () => {
  test("the copy of the last good seed holds, which is no fault", () => {
    const good = seed();
    box.medium(good);
    boot();
    box.restart();
    box.remove("medium");
    boot();
    expect(box.state("seed")).toMatchObject({
      state: "kept",
      digest: digestOf(good),
      reason: expect.stringContaining("cidata"),
    });
    expect(box.read("run/etc/hostname")).toBe("web\n");
  });

  test("and without a copy nobody gets in, but the guest starts", () => {
    boot();
    expect(box.state("seed")).toMatchObject({ state: "missing", digest: "" });
    expect(box.read("run/nftables")).not.toMatch(/dport (?!68|546)/);
    expect(box.read("run/etc/passwd")).toBe(box.read("share/etc/passwd"));
    expect(box.read("run/etc/machine-id")).toBe("11112222333344445555666677778888\n");
  });

  test("a drive without a medium holds nobody up for long", () => {
    box.write("proc/uptime", "10.00 20.00\n");
    box.write(
      "bin/sleep",
      `#!/bin/sh\necho sleep >> "$SANDBOX/calls"\nread -r up rest < "$SANDBOX/proc/uptime"\necho "$((\${up%%.*} + 1)).00 0" > "$SANDBOX/proc/uptime"\n`,
    );
    box.tool("chmod", "755", box.path("bin/sleep"));
    box.write("sys/block/sr0/size", "0\n");
    box.guest("seed", "read", { NIXVM_SEED_WAIT: "30" });
    expect(box.calls().match(/sleep/g)).toHaveLength(3);
    box.write("calls", "");
    box.remove("sys/block/sr0");
    box.guest("seed", "read", { NIXVM_SEED_WAIT: "30" });
    expect(box.calls().match(/sleep/g)).toHaveLength(30);
  });

  test("our own disks are never taken for the medium", () => {
    box.disk("vdb", "persist", 1);
    boot();
    expect(box.calls()).not.toMatch(/vdb/);
  });
});

describe("identity", () => {
  test("machine id and host key made in the guest outlive restarts and images", () => {
    box.medium(seed({ identity: {} }));
    boot();
    const id = box.read("run/etc/machine-id");
    const key = box.read("var/lib/identity/ssh_host_ed25519_key");
    box.restart();
    box.write("proc/sys/kernel/random/uuid", "aaaaaaaa-3333-4444-5555-666677778888\n");
    boot();
    expect(box.read("run/etc/machine-id")).toBe(id);
    expect(box.read("var/lib/identity/ssh_host_ed25519_key")).toBe(key);
    expect(box.calls()).not.toMatch(/ssh-keygen/);
  });

  test("a host key of the seed takes the place of another one, and the server is restarted", () => {
    box.medium(seed());
    boot();
    reapply(seed({ identity: { sshHostKey: HOST_KEY } }));
    expect(box.read("var/lib/identity/ssh_host_ed25519_key")).toBe(HOST_KEY);
    expect(box.read("var/lib/identity/ssh_host_ed25519_key.pub")).toBe("ssh-ed25519 AAAAderived\n");
    expect(box.calls()).toMatch(/systemctl .*restart sshd\.service/);
  });

  test("a host key of the seed is there from the first start, where ssh-keygen does not run for want of accounts (T-51)", () => {
    const { privateKey, publicKey } = hostKeyOf("ab".repeat(16), "web");
    const machineId = "0123456789abcdef0123456789abcdef";
    box.medium(seed({ identity: { machineId, sshHostKey: privateKey } }));
    boot();
    expect(box.read("var/lib/identity/ssh_host_ed25519_key")).toBe(privateKey);
    expect(box.read("var/lib/identity/ssh_host_ed25519_key.pub")).toBe(`${publicKey}\n`);
    expect(box.read("run/etc/machine-id")).toBe(`${machineId}\n`);
  });

  test("a changed machine id waits for the next start", () => {
    box.medium(seed());
    boot();
    reapply(seed({ identity: { machineId: "f".repeat(32) } }));
    expect(box.read("run/etc/machine-id")).toBe("0123456789abcdef0123456789abcdef\n");
    expect(box.state("seed")["pending"]).toContain("machineId");
    box.restart();
    boot();
    expect(box.read("run/etc/machine-id")).toBe(`${"f".repeat(32)}\n`);
  });
});

test("a static network becomes a networkd file", () => {
  const nic = {
    match: { macaddress: "02:00:00:00:00:02" },
    addresses: ["192.168.77.10/24", "fd00::2/64"],
    routes: [
      { to: "default", via: "192.168.77.1" },
      { to: "10.0.0.0/8", via: "192.168.77.2", metric: 50 },
    ],
    nameservers: { addresses: ["192.168.77.1"] },
    mtu: 1400,
  };
  box.medium(seed({ dns: [] }, { nic0: nic }));
  boot();
  expect(box.read("networkd/10-nixvm-nic0.network")).toBe(
    "[Match]\nMACAddress=02:00:00:00:00:02\n[Link]\nMTUBytes=1400\n[Network]\nDHCP=no\nAddress=192.168.77.10/24\nAddress=fd00::2/64\n" +
      "[Route]\nGateway=192.168.77.1\n[Route]\nDestination=10.0.0.0/8\nGateway=192.168.77.2\nMetric=50\n" +
      "[DHCPv4]\nClientIdentifier=mac\nUseDNS=no\nUseHostname=no\n",
  );
  expect(box.read("run/etc/resolv.conf")).toBe("nameserver 192.168.77.1\n");
});

test("the root hash reaches shadow as it is (T-104)", () => {
  box.medium(seed({ rootPasswordHash: "$y$j9T$a/b.&\\1$x" }));
  boot();
  expect(box.read("run/etc/shadow").split("\n")[0]).toBe("root:$y$j9T$a/b.&\\1$x:20000:0:99999:7:::");
});

test("what cannot be put into effect is named, and the rest is", () => {
  box.medium(seed());
  box.write("nft-fails", "");
  boot();
  expect(box.state("seed")).toMatchObject({ state: "failed", reason: "could not be put into effect: firewall rules" });
  expect(box.has("home/admin")).toBe(true);
});

test("any set of ports is let through, and no other (T-98, T-99)", () => {
  const ports = fc.uniqueArray(fc.integer({ min: 1, max: 65535 }), { maxLength: 8 });
  boot();
  fc.assert(
    fc.property(ports, ports, (tcpPorts, udpPorts) => {
      reapply(seed({ tcpPorts, udpPorts }));
      const rules = box.read("run/nftables");
      const open = (kind: string) =>
        [...rules.matchAll(new RegExp(`^ +${kind} dport (\\d+) accept$`, "gm"))].map((m) => Number(m[1]));
      const order = (list: number[]) => [...list].sort((a, b) => a - b);
      expect(open("tcp")).toEqual(order(tcpPorts));
      expect(open("udp")).toEqual(order(udpPorts));
    }),
    { numRuns: 5 },
  );
});

describe("status", () => {
  const status = () => JSON.parse(box.read("run/status.json")) as Record<string, never>;

  test("says what each part did", () => {
    box.disk("vdb", "persist", 32);
    const files = seed();
    box.medium(files);
    box.guest("seed", "read");
    box.guest("persist");
    box.guest("seed", "render");
    box.guest("seed");
    box.guest("grow");
    expect(box.guest("status").code).toBe(0);
    expect(status()).toEqual({
      schema: 1,
      imageId: "img-v1",
      imageVersion: "v1",
      contract: 1,
      bootId: "99992222-3333-4444-5555-666677778888",
      bootedAt: "2025-11-20T00:00:00Z",
      machineId: "0123456789abcdef0123456789abcdef",
      hostname: "web",
      rootMode: "readonly",
      healthy: true,
      reasons: [],
      persist: { state: "formatted", label: "var", mount: "/var", sizeBytes: 31 * 1024 * 1024, reason: "" },
      rollback: { state: "none", reason: "", dataset: "" },
      home: { state: "root", reason: "" },
      scratch: { state: "none", reason: "", sizeBytes: 0, uuid: "" },
      allowlist: { state: "none", reason: "", entries: 0 },
      update: { state: "off", reason: "", mode: "image", running: "", staged: "" },
      seed: { state: "applied", digest: digestOf(files), reason: "" },
      sshHostKey: "ssh-ed25519 AAAAmade",
      rebootPending: false,
    });
  });

  test("is not healthy with a failed unit, a refused disk or a refused seed, and names each", () => {
    box.tool("sh", "-c", `echo x > '${box.disk("vdb", "persist", 32)}' && truncate -s 32M '${box.path("dev/vdb")}'`);
    box.medium({ "meta-data": "{}" });
    box.write("failed-units", "app.service loaded failed failed An application\n");
    box.guest("seed", "read");
    box.guest("persist");
    box.guest("seed", "render");
    box.guest("seed");
    box.guest("status");
    expect(status()).toMatchObject({ healthy: false, persist: { state: "refused" }, seed: { state: "failed" } });
    expect(status()["reasons"]).toEqual([
      "unit app.service failed",
      expect.stringMatching(/^persist refused: no known signature, but the first MiB is not empty/),
      "seed failed: the seed has no user-data",
    ]);
  });

  test("is only renewed, not made, by the others: while the system starts nobody can say that it is healthy", () => {
    box.medium(seed());
    boot();
    expect(box.has("run/status.json")).toBe(false);
    box.guest("status");
    reapply(seed({ contract: 7 }));
    expect(status()).toMatchObject({ healthy: false, seed: { state: "failed" } });
  });
});

test("names of the seed are in the hosts file behind those of the guest itself, follow a changed seed, and a wrong one changes nothing", () => {
  const hosts = [
    { address: "10.0.0.9", names: ["db.internal", "db"] },
    { address: "fd00::9", names: ["db6"] },
  ];
  box.medium(seed({ hosts }));
  boot();
  expect(box.read("run/etc/hosts")).toMatch(
    /^127\.0\.1\.1\tweb\n::1\t.*\n10\.0\.0\.9\tdb\.internal db\nfd00::9\tdb6\n$/m,
  );
  reapply(seed({ hosts: [{ address: "10.0.0.8", names: ["db"] }] }));
  expect(box.read("run/etc/hosts")).toMatch(/ip6-loopback\n10\.0\.0\.8\tdb\n$/);
  for (const wrong of [
    [{ address: "10.0.0.8", names: [] }],
    [{ address: "x", names: ["a"] }],
    [{ address: "10.0.0.8", names: ["a b"] }],
    "10.0.0.8 a",
  ]) {
    reapply(seed({ hosts: wrong }));
    expect(box.state("seed")).toMatchObject({ state: "failed", reason: expect.stringContaining("nixvm.hosts") });
    expect(box.read("run/etc/hosts")).toMatch(/ip6-loopback\n10\.0\.0\.8\tdb\n$/);
  }
});
