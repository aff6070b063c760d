import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { FakeProject } from "./cli-fake";

jest.setTimeout(30_000);

const part = (bytes: Buffer): Buffer => Buffer.concat([Buffer.from([0, 0, 0, bytes.length]), bytes]);
const KEY = `ssh-ed25519 ${Buffer.concat([part(Buffer.from("ssh-ed25519")), part(Buffer.alloc(32, 7))]).toString("base64")}`;
/** That of the real ssh, which a project stands before. */
const { PATH } = process.env;
const HOSTS = {
  local: { uri: "qemu:///system", pool: { path: "/pool" } },
  rack: { uri: "qemu+ssh://root@rack/system", pool: { path: "/pool" } },
};
const NAT = { network: "network default" };
let fake: FakeProject;

beforeEach(() => {
  fake = new FakeProject("config:\n  nixvm:fleet:\n    web: {}\n    db: {}\n");
  fake.state({ web: {}, db: { ...NAT, uri: "qemu+ssh://root@rack/system" } });
  fake.domains({ web: "running", db: "running" });
  fake.config({
    hosts: HOSTS,
    images: { os: { path: "os.qcow2" } },
    defaults: { image: "os", persist: { size: "1GiB" }, network: "user" },
    fleet: { web: { host: "local", userKeys: [KEY] }, db: { host: "rack", network: "nat", adminKeys: [KEY] } },
  });
});
afterEach(() => fake.remove());

const known = (vm: string): string => path.join(fake.dir, ".nixvm", "ssh", `prod.${vm}.known_hosts`);
const address = (text: string): string => ` eth0 52:54:00:00:00:01 ipv4 ${text}/24\n`;

test("ssh goes to the forwarded port as the first account with a key, and passes on the exit code", async () => {
  fake.write("ssh.code", "7");
  expect(await fake.run("ssh", "web", "--", "uptime", "-p")).toMatchObject({ code: 7 });
  const [args = []] = fake.calls("ssh");
  expect(args.slice(args.indexOf("-p"))).toEqual(["-p", "2222", "-l", "user", "127.0.0.1", "--", "uptime", "-p"]);
  expect(args).toEqual(expect.arrayContaining(["HostKeyAlias=nixvm-prod-web", "StrictHostKeyChecking=yes"]));
  expect(args).toContain(`UserKnownHostsFile="${known("web")}"`);
  expect(fs.readFileSync(known("web"), "utf8")).toMatch(/^nixvm-prod-web ssh-ed25519 AAAA\S+\n$/);
  expect(fs.statSync(known("web")).mode & 0o777).toBe(0o600);
});

test("a VM with DHCP is asked for its address: its agent first, then its network; through the host that it is on", async () => {
  fake.write("addresses.agent", "");
  fake.write("addresses.lease", address("192.168.122.9"));
  fake.write("addresses.arp", address("192.168.122.8"));
  const { stdout } = await fake.run("ssh", "db", "--json");
  expect(JSON.parse(stdout)).toMatchObject({ host: "192.168.122.9", port: 22, jump: "root@rack", user: "admin" });
  fake.write("addresses.agent", address("192.168.122.7"));
  expect(JSON.parse((await fake.run("ssh", "db", "--json")).stdout)).toMatchObject({ host: "192.168.122.7" });
  for (const source of ["agent", "lease", "arp"]) fake.write(`addresses.${source}`, "");
  expect(await fake.run("ssh", "db")).toMatchObject({
    code: 3,
    stderr: expect.stringContaining("no address is known"),
  });
  expect(fake.calls("ssh")).toEqual([]);
});

test("without a known host key, an account or a VM that runs nobody is spoken to", async () => {
  fake.state({ web: { sshHostKey: "" } });
  const none = await fake.run("ssh", "web");
  expect(none).toMatchObject({ code: 3, stderr: expect.stringContaining("host key is not known") });
  expect(none.stderr).toContain("pulumi up --refresh");
  fake.state({ web: {} });
  fake.config({
    hosts: HOSTS,
    images: { os: { path: "o.qcow2" } },
    defaults: { image: "os", persist: { size: "1GiB" } },
    fleet: { web: { host: "local" } },
  });
  expect(await fake.run("ssh", "web")).toMatchObject({ code: 3, stderr: expect.stringContaining("--user") });
  fake.domains({ web: "paused" });
  expect(await fake.run("ssh", "web")).toMatchObject({ code: 3, stderr: expect.stringContaining("nixvm resume web") });
  expect(await fake.run("ssh", "web", "--user", "-oProxyCommand=x")).toMatchObject({ code: 2 });
  expect(await fake.run("ssh", "web", "-i", "no such file")).toMatchObject({ code: 2 });
  expect(fake.calls("ssh")).toEqual([]);
});

test("a key that is another one with each boot is asked of the guest, and the known one holds while it is silent", async () => {
  fake.state({ web: { persistPath: null } });
  expect(await fake.run("ssh", "web")).toMatchObject({ code: 0 });
  expect(fake.calls("virsh", "qemu-agent-command").length).toBeGreaterThan(0);
  fake.state({ web: {} });
  const before = fake.calls("virsh", "qemu-agent-command").length;
  expect(await fake.run("ssh", "web")).toMatchObject({ code: 0 });
  expect(fake.calls("virsh", "qemu-agent-command")).toHaveLength(before);
});

test("an exported ssh_config is private, the same each time, and never written over somebody else's", async () => {
  fake.write("addresses.agent", address("192.168.122.7"));
  const file = path.join(fake.dir, "my ssh", "config");
  const { stdout } = await fake.run("export", "ssh-config", "-o", file, "--json");
  expect(JSON.parse(stdout)).toEqual({ file, knownHosts: `${file}.known_hosts`, hosts: ["db", "web"], missing: [] });
  const text = fs.readFileSync(file, "utf8");
  for (const one of [file, `${file}.known_hosts`]) expect(fs.statSync(one).mode & 0o777).toBe(0o600);
  const read = (host: string): string =>
    execFileSync("ssh", ["-G", "-F", file, host], { encoding: "utf8", env: { PATH }, stdio: "pipe" });
  expect(read("web")).toMatch(/^port 2222$/m);
  expect(read("db")).toMatch(/^proxyjump root@rack$/m);
  expect(read("web")).toContain(`userknownhostsfile ${file}.known_hosts`);
  await fake.run("export", "ssh-config", "-o", file);
  expect(fs.readFileSync(file, "utf8")).toBe(text);
  fake.domains({ web: "running", db: "shut off" });
  expect(JSON.parse((await fake.run("export", "ssh-config", "-o", file, "--json")).stdout)).toMatchObject({
    hosts: ["web"],
    missing: [{ name: "db", why: "no address is known: it is shut off" }],
  });
  expect(fs.readFileSync(file, "utf8")).toContain("# db: no address is known: it is shut off");
  fs.writeFileSync(file, "Host mine\n");
  expect(await fake.run("export", "ssh-config", "-o", file)).toMatchObject({ code: 2 });
  expect(fs.readFileSync(file, "utf8")).toBe("Host mine\n");
});

test("a console is attached by UUID, and refused without a terminal (T-60, G-14)", async () => {
  const { stdout } = await fake.run("console", "web", "--json");
  const command = ["virsh", "-c", "qemu:///system", "console", "u-web", "--safe"];
  expect(JSON.parse(stdout)).toEqual({ command });
  const refused = await fake.run("console", "web");
  expect(refused).toMatchObject({ code: 3, stderr: expect.stringContaining("nixvm logs web --serial") });
  expect(fake.calls("virsh", "console")).toEqual([]);
});

test("the serial log is read also of a VM that is off, and not of one on another host", async () => {
  const consoleLog = path.join(fake.dir, "web.log");
  fs.writeFileSync(consoleLog, "one\r\n\u001b[1mtwo\u001b[0m\r\nthree\r\n");
  fake.state({ web: { consoleLog }, db: { consoleLog, uri: "qemu+ssh://root@rack/system" } });
  fake.domains({ web: "shut off", db: "running" });
  expect(await fake.run("logs", "web", "--serial", "-n", "2")).toMatchObject({ code: 0, stdout: "two\nthree\n" });
  const remote = await fake.run("logs", "db", "--serial");
  expect(remote).toMatchObject({ code: 3, stderr: expect.stringContaining(`is on rack: ${consoleLog}`) });
  expect(await fake.run("logs", "web")).toMatchObject({ code: 3, stderr: expect.stringContaining("nixvm start web") });
  expect(await fake.run("logs", "web", "--serial", "--unit", "x")).toMatchObject({ code: 2 });
  expect(await fake.run("logs", "web", "--lines", "-3")).toMatchObject({ code: 2 });
  fs.rmSync(consoleLog);
  expect(await fake.run("logs", "web", "--serial")).toMatchObject({
    code: 3,
    stderr: expect.stringContaining("cannot be read"),
  });
});

test("a serial log is followed, also into the next start, which begins it anew", async () => {
  const consoleLog = path.join(fake.dir, "web.log");
  fs.writeFileSync(consoleLog, "first boot\n");
  fake.state({ web: { consoleLog } });
  const following = fake.run("logs", "web", "--serial", "--follow", "--json");
  const pause = (): Promise<unknown> => new Promise((resolve) => setTimeout(resolve, 1500));
  await pause();
  fs.appendFileSync(consoleLog, "half a ");
  await pause();
  fs.appendFileSync(consoleLog, "line\n");
  await pause();
  fs.writeFileSync(consoleLog, "again\n");
  await pause();
  process.emit("SIGINT");
  const { code, stdout } = await following;
  expect(code).toBe(130);
  const lines = stdout.split("\n").filter((line) => line.startsWith('{"MESSAGE"'));
  expect(lines.map((line) => JSON.parse(line).MESSAGE)).toEqual(["first boot", "half a line", "again"]);
});

test("exec refuses a time limit that is none, and a VM that is off or gone", async () => {
  expect(await fake.run("exec", "web", "--timeout", "soon", "--", "true")).toMatchObject({ code: 2 });
  fake.domains({ db: "shut off" });
  expect(await fake.run("exec", "db", "--", "true")).toMatchObject({ code: 3 });
  const gone = await fake.run("exec", "web", "--json", "--", "true");
  expect(gone.code).toBe(3);
  expect(JSON.parse(gone.stdout).error.message).toContain('"pulumi up --refresh" makes it again');
});
