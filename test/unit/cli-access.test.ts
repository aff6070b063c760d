import { execFileSync, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import fc from "fast-check";
import { bestAddress, declaredEndpoint, endpointAt, macsOf, parseAddresses, remoteHost } from "../../cli/address";
import type { FleetVm } from "../../cli/fleet";
import { isLines, journalArguments, serialLines } from "../../cli/journal";
import { badPath, isOurs, knownHostLine, publicKey, sshArguments, sshConfig, type SshTarget } from "../../cli/ssh";

const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm access "));
afterAll(() => fs.rmSync(dir, { recursive: true, force: true }));

const vm = (uri: string, network: string, sshPort?: number): FleetVm =>
  ({ name: "web", uri, network, ...(sshPort === undefined ? {} : { sshPort }) }) as FleetVm;

describe("the address of a VM", () => {
  test.each([
    ["qemu:///system", undefined],
    ["qemu+unix:///system?socket=/run/libvirt.sock", undefined],
    ["test:///default", undefined],
    ["qemu+ssh://root@rack-2.example:2222/system?no_tty=1", "root@rack-2.example:2222"],
    ["qemu+libssh2://rack/system", "rack"],
    ["qemu+ssh://[fd00::1]:22/system", "[fd00::1]:22"],
    ["qemu+ssh://a%40b@rack/system", "a@b@rack"],
  ])("%s is reached through %s", (uri, jump) => {
    expect(remoteHost(uri)?.jump).toBe(jump);
    expect(declaredEndpoint(vm(uri, "user, ssh on 127.0.0.1:2222", 2222))).toEqual({
      ...{ host: "127.0.0.1", port: 2222 },
      ...(jump === undefined ? {} : { jump }),
    });
  });

  test("a forwarded port of a host without SSH cannot be reached, and why is said", () => {
    const user = vm("qemu+tls://rack/system", "user, ssh on 127.0.0.1:2222", 2222);
    expect(declaredEndpoint(user)).toEqual({ why: expect.stringContaining("open on rack for that machine only") });
    expect(endpointAt(vm("qemu+tls://rack/system", "bridge br0"), "10.0.0.9")).toEqual({ host: "10.0.0.9", port: 22 });
  });

  test("a fixed address is known without asking, one of DHCP is not", () => {
    expect(declaredEndpoint(vm("qemu:///system", "network lan, 192.168.77.10"))).toEqual({
      host: "192.168.77.10",
      port: 22,
    });
    expect(declaredEndpoint(vm("qemu:///system", "network default"))).toBeUndefined();
    expect(declaredEndpoint(vm("qemu:///system", "bridge br0"))).toBeUndefined();
  });

  test("it is one of the domain's own cards, IPv4 first, and never one that leads nowhere", () => {
    const text = ` lo         00:00:00:00:00:00    ipv4         127.0.0.1/8
 lo         00:00:00:00:00:00    ipv6         ::1/128
 docker0    02:42:ac:11:00:02    ipv4         172.17.0.1/16
 eth0       52:54:00:0A:00:01    ipv6         fe80::1/64
 eth0       52:54:00:0a:00:01    ipv6         fd00::7/64
 eth0       52:54:00:0a:00:01    ipv4         169.254.3.4/16
 eth0       52:54:00:0a:00:01    ipv4         10.0.0.7/24
`;
    const macs = macsOf("<domain><interface><mac address='52:54:00:0a:00:01'/></interface></domain>");
    expect(macs).toEqual(["52:54:00:0a:00:01"]);
    const found = parseAddresses(text);
    expect(found).toHaveLength(7);
    expect(bestAddress(found, macs)).toBe("10.0.0.7");
    expect(bestAddress(found.slice(0, 6), macs)).toBe("fd00::7");
    expect(bestAddress(found.slice(0, 4), macs)).toBeUndefined();
    expect(bestAddress(found, [])).toBeUndefined();
    expect(parseAddresses("")).toEqual([]);
  });
});

const target: SshTarget = { host: "127.0.0.1", port: 2222, alias: "nixvm-prod-web", user: "admin", knownHosts: "/k" };

/** What OpenSSH makes of options: its own reading, one `name value` a line. */
function read(...args: string[]): Record<string, string> {
  const text = execFileSync("ssh", ["-G", ...args], { encoding: "utf8", stdio: "pipe" });
  return Object.fromEntries(text.split("\n").map((line) => line.split(/ (.*)/).slice(0, 2) as [string, string]));
}

const expected = {
  ...{ hostname: "127.0.0.1", port: "2222", user: "admin", hostkeyalias: "nixvm-prod-web" },
  ...{ stricthostkeychecking: "true", updatehostkeys: "false", globalknownhostsfile: "/dev/null" },
};

describe("ssh", () => {
  test("is told to accept the known key and no other, whatever the user's own configuration says", () => {
    const own = path.join(dir, "own");
    fs.writeFileSync(own, "Host *\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n HostKeyAlias x\n");
    const said = read("-F", own, ...sshArguments({ ...target, jump: "root@rack:2200" }, []));
    expect(said).toMatchObject({ ...expected, userknownhostsfile: "/k", proxyjump: "root@rack:2200" });
  });

  test("gets a command word by word, and none of its words is an option of ssh", () => {
    const args = sshArguments({ ...target, identity: "/keys/a 100%" }, ["-oProxyCommand=x", "a b"]);
    expect(args.slice(args.indexOf("127.0.0.1"))).toEqual(["127.0.0.1", "--", "-oProxyCommand=x", "a b"]);
    // ssh shows it as it was read, with what it will expand later.
    expect(read("-F", "/dev/null", ...args.slice(0, args.indexOf("--")))).toMatchObject({
      identityfile: "/keys/a 100%%",
    });
  });

  test("reads any path of known hosts that can be written, as an option and in ssh_config", () => {
    const name = fc.string({ unit: fc.constantFrom(..."ab %\"'\\#=$~{},é".split("")), minLength: 1, maxLength: 12 });
    fc.assert(
      fc.property(name, (part) => {
        const knownHosts = `/x/${part}/known`;
        fc.pre(badPath(knownHosts) === undefined);
        expect(read("-F", "/dev/null", ...sshArguments({ ...target, knownHosts }, [])).userknownhostsfile).toBe(
          knownHosts,
        );
        const file = path.join(dir, "config");
        fs.writeFileSync(file, sshConfig("prod", [{ name: "web", ...target, knownHosts }]));
        expect(read("-F", file, "web").userknownhostsfile).toBe(knownHosts);
      }),
      { numRuns: 40 },
    );
    expect(badPath("/x/${HOME}/k")).toMatch(/cannot be told/);
  });
});

describe("ssh_config", () => {
  test("says how each VM is reached, and why one is not there; the same fleet gives the same text", () => {
    const entries = [
      { name: "db", ...target, alias: "nixvm-prod-db", host: "10.0.0.5", port: 22, jump: "root@rack" },
      { name: "old", why: "no address is known:\nit is shut off\nHost evil" },
      { name: "web", ...target, knownHosts: `${dir}/known` },
    ];
    const text = sshConfig("prod", entries);
    expect(sshConfig("prod", entries)).toBe(text);
    expect(isOurs(text)).toBe(true);
    expect(isOurs("Host mine\n")).toBe(false);
    expect(text).toContain("# old: no address is known: it is shut off Host evil\n");
    const file = path.join(dir, "fleet");
    fs.writeFileSync(file, text);
    const known = { ...expected, userknownhostsfile: `${dir}/known` };
    expect(read("-F", file, "web")).toMatchObject(known);
    expect(read("-F", file, "nixvm-prod-web")).toMatchObject(known);
    expect(read("-F", file, "db")).toMatchObject({ hostname: "10.0.0.5", port: "22", proxyjump: "root@rack" });
    expect(read("-F", file, "old")).not.toHaveProperty("hostkeyalias");
  });
});

describe("host keys", () => {
  const pair = path.join(dir, "key");
  beforeAll(() => void execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "a comment", "-f", pair]));

  test("are found by ssh under the name of the VM", () => {
    const key = publicKey(fs.readFileSync(`${pair}.pub`, "utf8"));
    expect(key).toMatch(/^ssh-ed25519 \S+$/);
    const file = path.join(dir, "known hosts");
    fs.writeFileSync(file, knownHostLine("nixvm-prod-web", key ?? ""));
    const find = (name: string): number | null => spawnSync("ssh-keygen", ["-F", name, "-f", file]).status;
    expect([find("nixvm-prod-web"), find("nixvm-prod-db")]).toEqual([0, 1]);
  });

  test("that are none are not believed: nothing else gets into a file of known hosts", () => {
    for (const text of [
      "",
      undefined,
      "ssh-ed25519",
      "ssh-ed25519 AAAA\n* ssh-rsa BBBB",
      "@cert-authority * ssh-rsa A",
      "x y",
    ]) {
      expect([text, publicKey(text)]).toEqual([text, undefined]);
    }
    fc.assert(fc.property(fc.string(), (text) => !/[\n\r]/.test(publicKey(`ssh-ed25519 ${text}`) ?? "")));
  });
});

describe("the journal", () => {
  test("is asked for its last lines, or for all since a time; each value is part of its own word", () => {
    const usual = ["journalctl", "--no-pager", "--quiet", "--output=short-iso"];
    expect(journalArguments({ json: false })).toEqual([...usual, "--lines=100"]);
    expect(journalArguments({ json: false, since: "10 min ago", unit: "--help" })).toEqual([
      ...[...usual, "--lines=all", "--unit=--help", "--since=10 min ago"],
    ]);
    expect(journalArguments({ json: true, follow: true, boot: true })).toEqual([
      ...["journalctl", "--no-pager", "--quiet", "--output=json", "--lines=10", "--boot", "--follow"],
    ]);
    expect(["5", "all", "0", "-1", "1e3", "", "5 "].map(isLines)).toEqual([
      true,
      true,
      false,
      false,
      false,
      false,
      false,
    ]);
  });

  test("a serial log is shown as text, or as documents with the journal's key", () => {
    const log = "\u001b[2Jone\r\n\r\ntwo\nthree";
    expect(serialLines(log, 2, false)).toBe("two\nthree\n");
    expect(
      serialLines(log, 3, true)
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line)),
    ).toEqual([{ MESSAGE: "one" }, { MESSAGE: "two" }, { MESSAGE: "three" }]);
  });
});
