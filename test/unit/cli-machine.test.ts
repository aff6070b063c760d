import * as fc from "fast-check";
import { CliError, EXIT } from "../../cli/errors";
import { MACHINE_FILES, type MachineFiles, readMachine } from "../../cli/machineDir";
import { entryOf, type EntryOptions } from "../../cli/machineEntry";
import { diskPlaces } from "../../cli/machineFolder";
import { KEY } from "../helpers/fleets";

const HASH = "$6$abcdefgh$0123456789abcdefghijklmnopqrstuvwxyz";

/** A machine as nixos-vm-template writes it. */
const MACHINE = {
  profile: "core,docker\n",
  memory: "2048\n",
  vcpus: "2",
  disk_size: "30",
  uuid: "3F0C8B52-6d0e-4a57-9f3e-1c2d3e4f5a6b\n",
  "mac-address": "52:54:00:AA:bb:01\n",
  network: "bridge:br0\n",
  hostname: "web\n",
  "machine-id": "8c1f0e6d2b3a4c5d9e7f80123456789a\n",
  admin_authorized_keys: `# SSH authorized_keys for 'admin'\n\n${KEY}\n`,
  user_authorized_keys: "# nobody\n",
  tcp_ports: "# TCP ports to open\n 443 \n22\n\n#80\n22\n",
  udp_ports: "# none\n",
  "resolv.conf": "# DNS\nnameserver 1.1.1.1\nnameserver 2606:4700:4700::1111\noptions edns0\n",
  hosts: "# Extra /etc/hosts entries\n",
  root_password_hash: "",
};

const files = (more: Record<string, string | null | undefined> = {}): MachineFiles =>
  new Map(
    Object.entries({ ...MACHINE, ...more }).flatMap(([name, content]) =>
      content === undefined ? [] : [[name, content] as const],
    ),
  );

const OPTIONS: EntryOptions = {
  name: "web",
  newIdentity: false,
  diskBytes: 10 * 2 ** 30,
  defaultNetwork: "nat",
  subnets: {},
};

function refused(more: Record<string, string | null | undefined>): CliError {
  try {
    readMachine(files(more));
  } catch (error) {
    if (error instanceof CliError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

test("a machine config directory is read as nixos-vm-template means it (T-88, T-98, T-99, T-100)", () => {
  const { machine, left } = readMachine(files());
  expect(machine).toEqual({
    profiles: ["core", "docker"],
    memoryMiB: 2048,
    vcpus: 2,
    diskBytes: 30 * 2 ** 30,
    uuid: "3f0c8b52-6d0e-4a57-9f3e-1c2d3e4f5a6b",
    mac: "52:54:00:aa:bb:01",
    network: "bridge:br0",
    hostname: "web",
    machineId: "8c1f0e6d2b3a4c5d9e7f80123456789a",
    adminKeys: [KEY],
    userKeys: [],
    tcpPorts: [22, 443],
    udpPorts: [],
    dns: ["1.1.1.1", "2606:4700:4700::1111"],
  });
  expect(left).toEqual([{ file: "resolv.conf", reason: expect.stringContaining("options edns0") as string }]);
});

test("what is not there is left to the stack's defaults, not guessed (T-88)", () => {
  expect(readMachine(new Map([["profile", "core"]]))).toEqual({ machine: { profiles: ["core"] }, left: [] });
});

const text = (pattern: RegExp) => fc.stringMatching(pattern);
const line = fc.oneof(
  fc.integer({ min: 1, max: 65_535 }).map((port) => ({ text: String(port), port })),
  text(/^#[ -~]{0,20}$/).map((comment) => ({ text: comment, port: undefined })),
  fc.constantFrom("", "  ", "\t").map((empty) => ({ text: empty, port: undefined })),
);

test("ports are the lines that are no comment and not empty, each once (T-98, T-99, T-100)", () => {
  fc.assert(
    fc.property(fc.array(line, { maxLength: 30 }), fc.constantFrom("", " ", "\r"), (lines, behind) => {
      const content = lines.map((one) => `${one.text}${behind}\n`).join("");
      const ports = [...new Set(lines.flatMap(({ port }) => (port === undefined ? [] : [port])))].sort((a, b) => a - b);
      const { machine } = readMachine(files({ tcp_ports: content, udp_ports: content }));
      expect(machine.tcpPorts).toEqual(ports);
      expect(machine.udpPorts).toEqual(ports);
    }),
  );
});

test("any other line in a port file is refused, with the file and the line (T-98, T-99)", () => {
  const wrong = fc.oneof(
    fc.integer({ min: 65_536 }).map(String),
    fc.constantFrom("0", "-1", "22-80", "ssh", "22 # ssh", "1.5", "0x16", "22,80"),
  );
  fc.assert(
    fc.property(wrong, (value) => {
      const error = refused({ tcp_ports: `22\n${value}\n` });
      expect(error.code).toBe(EXIT.input);
      expect(error.message).toContain(`tcp_ports: ${JSON.stringify(value)} is not a port; allowed: `);
    }),
  );
});

test.each([
  ["memory", "2G"],
  ["memory", "63"],
  ["vcpus", "two"],
  ["disk_size", "30X"],
  ["disk_size", "1.5T"],
  ["uuid", "abc"],
  ["mac-address", "01:00:00:00:00:00"],
  ["mac-address", "52:54:00:aa:bb"],
  ["network", "bridge"],
  ["network", "bridge:a name that is far too long"],
  ["hostname", "Web Server"],
  ["machine-id", "0".repeat(32)],
  ["admin_authorized_keys", 'from="10.0.0.1" ' + KEY],
  ["admin_authorized_keys", KEY.slice(0, 60)],
  ["resolv.conf", "nameserver one.one"],
  ["resolv.conf", "nameserver fe80::1%eth0"],
  ["static_ip", "address=10.0.0.5"],
  ["static_ip", "address=10.0.0.300/24"],
])("%s: %j is refused by name, with what is allowed (T-88)", (file, content) => {
  const error = refused({ [file]: content });
  expect(error.code).toBe(EXIT.input);
  expect(error.details.field).toBe(file);
  expect(error.details.allowed).not.toBe("");
  expect(error.message).toContain(file);
});

test("a wrong secret is refused without being shown (T-95, T-104)", () => {
  const secret = "hunter2-in-clear";
  for (const file of ["root_password_hash", "ssh_host_ed25519_key"]) {
    const error = refused({ [file]: secret });
    expect(error.message).toContain(file);
    expect(JSON.stringify([error.message, error.details])).not.toContain(secret);
  }
});

test("machines without a data disk of their own are refused, with what they are (T-88)", () => {
  for (const [more, word] of [
    [{ profile: "core,mutable" }, "mutable"],
    [{ mutable: "" }, "mutable"],
    [{ privileged: "1" }, "LXC"],
    [{ mounts: "" }, "LXC"],
  ] as const) {
    const error = refused(more);
    expect(error.code).toBe(EXIT.state);
    expect(error.message).toContain(word);
  }
  expect(refused({ profile: undefined, uuid: undefined, "machine-id": undefined }).message).toContain("directory");
});

test("whatever a file holds, it is read or refused as a mistake (T-88)", () => {
  const names = fc.constantFrom(...MACHINE_FILES);
  fc.assert(
    fc.property(
      names,
      fc.oneof(fc.string(), fc.string({ unit: "binary" }), text(/^[0-9a-f:.=/ #\n]{0,40}$/)),
      (name, content) => {
        try {
          const { machine } = readMachine(files({ [name]: content }));
          expect(machine.profiles).toBeInstanceOf(Array);
        } catch (error) {
          expect(error).toBeInstanceOf(CliError);
        }
      },
    ),
    { numRuns: 1000 },
  );
});

test("every file of a directory is carried over or named with a reason (T-88)", () => {
  const all: Record<string, string | null> = {
    ...MACHINE,
    root_password_hash: HASH,
    hosts: "10.0.0.1 server\n",
    static_ip: "address=10.56.0.5/24\ngateway=10.56.0.1\n",
    allowed_cidrs: "10.0.0.0/8\n",
    deploy_keys: null,
    "ca-cert.pem": "",
    "woodpecker.env": "",
    samba_credentials: "",
    vmid: "100",
    pci_devices: "",
    "notes.txt": "",
  };
  const read = readMachine(files(all));
  const { carried, left } = entryOf(read.machine, files(all), OPTIONS);
  const named = new Set([...carried, ...left, ...read.left].map(({ file }) => file));
  expect([...named].sort()).toEqual(Object.keys(all).sort());
  for (const { reason } of [...left, ...read.left]) expect(reason).not.toBe("");
});

test("the entry has what the files say, and the hash beside it (T-88, T-104)", () => {
  const given = files({ root_password_hash: `${HASH}\n`, hostname: "other" });
  const { entry, rootPasswordHash, persistBytes, carried } = entryOf(readMachine(given).machine, given, {
    ...OPTIONS,
    image: "core",
  });
  expect(entry).toEqual({
    image: "core",
    preset: "template",
    hostname: "other",
    memory: "2GiB",
    vcpus: 2,
    persist: { size: "30GiB" },
    network: "bridge:br0",
    adminKeys: [KEY],
    userKeys: [],
    tcpPorts: [22, 443],
    udpPorts: [],
    dns: ["1.1.1.1", "2606:4700:4700::1111"],
    identity: {
      uuid: "3f0c8b52-6d0e-4a57-9f3e-1c2d3e4f5a6b",
      machineId: "8c1f0e6d2b3a4c5d9e7f80123456789a",
      mac: "52:54:00:aa:bb:01",
    },
  });
  expect(rootPasswordHash).toBe(HASH);
  expect(JSON.stringify([entry, carried])).not.toContain(HASH);
  expect(persistBytes).toBe(30 * 2 ** 30);
});

test("an empty password hash is no password (T-104)", () => {
  expect(entryOf(readMachine(files()).machine, files(), OPTIONS)).not.toHaveProperty("rootPasswordHash");
});

test("a new identity takes nothing that makes a VM that VM (T-88)", () => {
  const given = files({ hostname: "other" });
  const { entry, left } = entryOf(readMachine(given).machine, given, { ...OPTIONS, newIdentity: true });
  expect(entry).not.toHaveProperty("identity");
  expect(entry).not.toHaveProperty("hostname");
  const named = left.map(({ file }) => file);
  expect(named).toEqual(expect.arrayContaining(["uuid", "machine-id", "mac-address", "hostname"]));
});

test("the disk is never smaller than it was (T-88)", () => {
  fc.assert(
    fc.property(fc.integer({ min: 2 ** 26, max: 2 ** 43 }), fc.integer({ min: 1, max: 9000 }), (diskBytes, gib) => {
      const given = files({ disk_size: `${gib}G` });
      const { persistBytes, entry } = entryOf(readMachine(given).machine, given, { ...OPTIONS, diskBytes });
      expect(persistBytes).toBeGreaterThanOrEqual(Math.max(diskBytes, gib * 2 ** 30));
      expect(persistBytes % 2 ** 20).toBe(0);
      expect(entry.persist).toBeDefined();
    }),
  );
});

test("networks: its own, the one that is given, and user networking where there is none (T-88)", () => {
  const { machine } = readMachine(files({ network: "nat" }));
  const of = (more: Partial<EntryOptions>) => entryOf(machine, files({ network: "nat" }), { ...OPTIONS, ...more });
  expect(of({}).entry.network).toBe("nat");
  expect(of({ defaultNetwork: "user" }).entry.network).toBe("user");
  expect(of({ defaultNetwork: "user" }).left.map(({ file }) => file)).toContain("network");
  expect(of({ network: "bridge:br1" }).entry.network).toBe("bridge:br1");
  expect(() => of({ network: "bridge" })).toThrow(/--network: "bridge" is not a network; allowed: /);
});

test("a fixed address is kept where a network of the stack has it, else its reason is said (T-88)", () => {
  const given = files({ network: "nat", static_ip: "address=192.168.77.10/24\n" });
  const of = (more: Partial<EntryOptions>) => entryOf(readMachine(given).machine, given, { ...OPTIONS, ...more });
  const lan = { network: "nat:lan", subnets: { lan: "192.168.77.0/24" } };
  expect(of(lan).entry.network).toEqual({ mode: "nat", network: "lan", address: "192.168.77.10" });
  expect(of(lan).carried.map(({ file }) => file)).toContain("static_ip");
  const others: Partial<EntryOptions>[] = [
    {},
    { network: "bridge:br0" },
    { ...lan, subnets: {} },
    { ...lan, subnets: { lan: "10.0.0.0/24" } },
  ];
  for (const more of others) {
    expect(of(more).left.map(({ file }) => file)).toContain("static_ip");
    expect(of(more).entry.network).not.toHaveProperty("address");
  }
});

test("the data disk is looked for where nixos-vm-template keeps it (T-88)", () => {
  expect(diskPlaces("/h/.config/nixos-vm-template/machines/libvirt/local/web", {}, "/h")).toEqual([
    "/h/.config/nixos-vm-template/machines/libvirt/local/web/var.qcow2",
    "/h/.local/share/nixos-vm-template/vms/libvirt/local/web/var.qcow2",
    "/h/.config/nixos-vm-template/machines/libvirt/output/vms/web/var.qcow2",
  ]);
  expect(diskPlaces("/repo/machines/web", { OUTPUT_DIR: "/o" }, "/h")[2]).toBe("/repo/output/vms/web/var.qcow2");
});
