import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import * as fc from "fast-check";
import { readMachine } from "../../cli/machineDir";
import { entryOf } from "../../cli/machineEntry";
import { machineFiles } from "../../cli/machineFiles";
import { readFolder } from "../../cli/machineFolder";
import { writeFolder } from "../../cli/verbs/exportMachine";
import { config, KEY, planned } from "../helpers/fleets";

const FACTS = {
  uuid: "3f0c8b52-6d0e-4a57-9f3e-1c2d3e4f5a6b",
  mac: "52:54:00:aa:bb:01",
  machineId: "8c1f0e6d2b3a4c5d9e7f80123456789a",
};
const HASH = "$6$abcdefgh$0123456789abcdefghijklmnopqrstuvwxyz";

let dir: string;
beforeEach(() => (dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm export "))));
afterEach(() => fs.rmSync(dir, { recursive: true, force: true }));

function vmOf(fields: Record<string, unknown>, more: Record<string, unknown> = {}) {
  const [vm] = planned(config([], { fleet: { web: fields }, ...more })).vms;
  if (vm === undefined) throw new Error("no VM");
  return vm;
}

const port = fc.integer({ min: 1, max: 65_535 });
const ports = fc.uniqueArray(port, { maxLength: 8 }).map((all) => all.sort((a, b) => a - b));

test("what is exported is imported as the same VM (T-88, T-98, T-99, T-104)", () => {
  const fields = fc.record({
    memory: fc.integer({ min: 64, max: 65_536 }),
    vcpus: fc.integer({ min: 1, max: 64 }),
    persist: fc.integer({ min: 64, max: 200_000 }).map((mebibytes) => ({ size: `${mebibytes}MiB` })),
    hostname: fc.constantFrom("web", "other-name"),
    network: fc.constantFrom("nat", "bridge:br0"),
    adminKeys: fc.constantFrom([], [KEY]),
    userKeys: fc.constantFrom([], [KEY]),
    tcpPorts: ports,
    udpPorts: ports,
    dns: fc.constantFrom(["9.9.9.9"], ["1.1.1.1", "2606:4700:4700::1111"]),
    rootPasswordHash: fc.constantFrom("", HASH),
  });
  fc.assert(
    fc.property(fields, (given) => {
      const before = vmOf(given);
      const files = new Map(Object.entries(machineFiles(before, FACTS).files));
      const { entry, rootPasswordHash, left } = entryOf(readMachine(files).machine, files, {
        name: "web",
        newIdentity: false,
        diskBytes: 0,
        defaultNetwork: "nat",
        subnets: {},
      });
      expect(left.map(({ file }) => file)).toEqual(["profile"]);
      const after = vmOf({ ...entry, ...(rootPasswordHash === undefined ? {} : { rootPasswordHash }) });
      const { uuid, machineId, mac } = FACTS;
      const network = before.network.mode === "user" ? before.network : { ...before.network, mac };
      expect(after).toEqual({ ...before, network, identity: { ...before.identity, uuid, machineId, mac } });
    }),
    { numRuns: 200 },
  );
});

test("a fixed address is written with its gateway (T-88)", () => {
  const networks = { lan: { subnet: "192.168.77.0/24" } };
  const network = { mode: "nat", network: "lan", address: "192.168.77.10" };
  const { files } = machineFiles(vmOf({ network }, { networks }), FACTS);
  expect(files.static_ip).toBe("address=192.168.77.10/24\ngateway=192.168.77.1\n");
});

test("what has no place there is named (T-88)", () => {
  const vm = vmOf({
    network: "user",
    scratch: { size: "1GiB" },
    accounts: [
      { name: "admin", role: "admin", passwordHash: HASH },
      { name: "deploy", role: "user" },
    ],
  });
  const { left, files } = machineFiles(vm, FACTS);
  expect(left.map(({ file }) => file)).toEqual([
    ...["profile", "accounts.admin.passwordHash", "accounts.deploy", "network", "scratch", "ssh_host_ed25519_key"],
  ]);
  expect(JSON.stringify(left)).not.toContain(HASH);
  expect(files.network).toBe("nat\n");
});

test("files are for their owner only, whatever the umask is, and all there or none (T-25, T-88)", () => {
  const before = process.umask(0o022);
  try {
    const folder = path.join(dir, "machines", "web");
    writeFolder(folder, { uuid: "x\n", root_password_hash: `${HASH}\n` });
    expect(fs.statSync(folder).mode & 0o777).toBe(0o700);
    for (const file of fs.readdirSync(folder)) expect(fs.statSync(path.join(folder, file)).mode & 0o777).toBe(0o600);
    expect(readFolder(folder).get("root_password_hash")).toBe(`${HASH}\n`);

    const broken = path.join(dir, "machines", "broken");
    expect(() => writeFolder(broken, { uuid: "x\n", "no/such/folder": "" })).toThrow(/ENOENT/);
    expect(fs.readdirSync(path.join(dir, "machines"))).toEqual(["web"]);
  } finally {
    process.umask(before);
  }
});
