import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { transformFileSync } from "@swc/core";
import { planFleet } from "../../components/plan";
import { poolWarnings } from "../../provider/pool";
import { preflight, PreflightHost, PreflightVm } from "../../provider/preflight";
import { Probes, realProbes } from "../../provider/probes";
import { RunResult } from "../../provider/run";
import { UUID } from "./provider-fake";
import { evaluate, root } from "./tools-support";

const host: PreflightHost = {
  name: "local",
  uri: "qemu:///system",
  accelerator: "tcg",
  poolPath: "/pool/nixvm",
  poolCreate: true,
};
const vm: PreflightVm = { name: "web", domain: "fleet-web", sshPort: 2201, host: "local" };

const capabilities = (domain: string, loader = "<value>efi</value>") =>
  `<domainCapabilities><domain>${domain}</domain><os supported='yes'><enum name='firmware'>${loader}</enum></os></domainCapabilities>`;

/** A machine on which all is well, with changes; `answers` are what virsh says to a verb. */
function machine(answers: Record<string, Partial<RunResult>> = {}, change: Partial<Probes> = {}): Probes {
  const all: Record<string, Partial<RunResult>> = {
    domcapabilities: { stdout: capabilities("qemu") },
    list: { stdout: `${UUID} fleet-web\n` },
    domstate: { stdout: "running (booted)\n" },
    dumpxml: { stdout: "hostfwd=tcp:127.0.0.1:2201-:22" },
    ...answers,
  };
  return {
    run: async (_command, args) => ({ code: 0, stdout: "", stderr: "", ...all[args[3]!] }),
    onPath: async () => true,
    kind: async (path) => (path === "/pool" || path === "/" ? "folder" : "missing"),
    writable: async () => true,
    space: async () => ({ freeBytes: 2 ** 40, inMemory: false }),
    portFree: async () => true,
    isRoot: () => true,
    env: {},
    ...change,
  };
}

const refused = (text: string): Partial<RunResult> => ({
  code: 1,
  stderr: `error: ${text.replace(/: /, "\nerror: ")}\n`,
});

it("finds nothing where all is well", async () => {
  expect(await preflight([host], [vm], machine())).toEqual([]);
});

it.each<[string, Partial<PreflightHost>, Probes, string, RegExp]>([
  [
    "libvirt away",
    {},
    machine({
      domcapabilities: refused(
        "failed to connect to the hypervisor: Failed to connect socket to '/run/s': No such file or directory",
      ),
    }),
    "hosts.local.uri",
    /^does not answer: Failed to connect socket to '\/run\/s': No such file/,
  ],
  [
    "libvirt refusing",
    {},
    machine({
      domcapabilities: refused(
        "failed to connect to the hypervisor: authentication unavailable: no polkit agent available",
      ),
    }),
    "hosts.local.uri",
    /^refuses the connection: authentication unavailable/,
  ],
  [
    "no QEMU",
    {},
    machine({
      domcapabilities: refused(
        "failed to get emulator capabilities: invalid argument: unable to find any emulator to serve 'x86_64' architecture",
      ),
    }),
    "hosts.local.uri",
    /^has no QEMU/,
  ],
  [
    "no KVM",
    { accelerator: "kvm" },
    machine({
      domcapabilities: refused(
        "failed to get emulator capabilities: invalid argument: KVM is not supported by '/usr/bin/qemu-system-x86_64' on this host",
      ),
    }),
    "hosts.local.accelerator",
    /KVM is not supported/,
  ],
  ["KVM not offered", { accelerator: "kvm" }, machine(), "hosts.local.accelerator", /is not offered/],
  [
    "no UEFI",
    {},
    machine({ domcapabilities: { stdout: capabilities("qemu", "") } }),
    "hosts.local.uri",
    /no UEFI firmware/,
  ],
  [
    "no xsltproc",
    {},
    machine({}, { onPath: async (name) => name !== "xsltproc" }),
    "hosts.local",
    /needed to complete the definition/,
  ],
  [
    "no mkisofs",
    {},
    machine({}, { onPath: async (name) => name !== "mkisofs" }),
    "hosts.local",
    /needed to make the seed medium/,
  ],
  [
    "no virsh",
    {},
    machine({ domcapabilities: { code: undefined, failure: "missing" } }, { onPath: async (name) => name !== "virsh" }),
    "hosts.local",
    /needed to talk to libvirt/,
  ],
  ["a pool that is missing", { poolCreate: false }, machine(), "hosts.local.pool.path", /^does not exist/],
  [
    "a pool below a file",
    {},
    machine({}, { kind: async (path) => (path === "/pool" ? "other" : "missing") }),
    "hosts.local.pool.path",
    /since \/pool is none/,
  ],
  [
    "a pool that cannot be written",
    {},
    machine({}, { writable: async () => false }),
    "hosts.local.pool.path",
    /\/pool is not writable/,
  ],
  [
    "a full pool",
    { needBytes: 2 ** 41 },
    machine(),
    "hosts.local.pool.path",
    /too little space: 1 TiB are free, 2 TiB are needed/,
  ],
  [
    "a port that is taken",
    {},
    machine({ list: { stdout: "" } }, { portFree: async () => false }),
    "fleet.web.network.sshPort",
    /is in use on this machine/,
  ],
  [
    "a port that our own guest no longer holds",
    {},
    machine({ domstate: { stdout: "shut off (shutdown)\n" } }, { portFree: async () => false }),
    "fleet.web.network.sshPort",
    /is in use/,
  ],
])("reports %s", async (_name, change, probes, path, message) => {
  const problems = await preflight([{ ...host, ...change }], [vm], probes);
  expect(problems).toHaveLength(1);
  expect(problems[0]).toMatchObject({ path, message: expect.stringMatching(message) as string });
  expect(problems[0]!.allowed).not.toBe("");
});

it("reports everything at once", async () => {
  const probes = machine(
    {
      domcapabilities: refused("failed to connect to the hypervisor: no"),
      list: refused("failed to connect to the hypervisor: no"),
    },
    {
      onPath: async () => false,
      writable: async () => false,
      portFree: async () => false,
    },
  );
  expect(await preflight([host], [vm], probes)).toHaveLength(6);
});

it.each<[string, Partial<PreflightHost>, Probes]>([
  [
    "the test driver",
    { uri: "test:///default" },
    machine({ domcapabilities: refused("x: y") }, { onPath: async () => false }),
  ],
  [
    "a test driver that a daemon serves",
    { uri: "test+unix:///default?socket=/run/test" },
    machine({ domcapabilities: refused("x: y") }, { onPath: async () => false }),
  ],
  [
    "the folders of another machine",
    { uri: "qemu+ssh://host/system" },
    machine({}, { writable: async () => false, portFree: async () => false }),
  ],
  [
    "the rights of a user who asks a system libvirt",
    {},
    machine({}, { isRoot: () => false, writable: async () => false }),
  ],
  ["a port held by our own running guest", {}, machine({}, { portFree: async () => false })],
])("does not mind %s", async (_name, change, probes) => {
  expect(await preflight([{ ...host, ...change }], [vm], probes)).toEqual([]);
});

it("trusts a UUID more than a name", async () => {
  const probes = machine({}, { portFree: async () => false });
  const foreign = { ...vm, uuid: "99999999-2222-4333-8444-555555555555" };
  expect(await preflight([host], [foreign], probes)).toHaveLength(1);
  expect(await preflight([host], [{ ...vm, uuid: UUID }], probes)).toEqual([]);
});

describe("where the pool of a scratch disk may be", () => {
  const inMemory = (kind: "tmpfs" | "ramfs" | undefined, allow?: string): Probes =>
    machine(
      {},
      {
        space: async () => (kind ? { freeBytes: 2 ** 40, inMemory: kind } : { freeBytes: Infinity }),
        env: allow === undefined ? {} : { CCVM_SCRATCH_ALLOW_TMPFS: allow },
      },
    );
  const scratch = { ...host, scratch: true };

  it.each(["tmpfs", "ramfs"] as const)("not on %s: refused before anything is made (E-37, E-41)", async (kind) => {
    expect(await preflight([scratch], [], inMemory(kind))).toEqual([
      {
        path: "hosts.local.pool.path",
        value: "/pool/nixvm",
        message: `lies in memory (${kind}), where a scratch disk would use up the host's memory`,
        allowed: "a folder on a disk; or CCVM_SCRATCH_ALLOW_TMPFS=1, if that is meant",
      },
    ]);
    expect(await poolWarnings([scratch], inMemory(kind))).toEqual([]);
  });

  it("there all the same with CCVM_SCRATCH_ALLOW_TMPFS=1, and with a warning (E-38)", async () => {
    expect(await preflight([scratch], [], inMemory("tmpfs", "1"))).toEqual([]);
    expect(await poolWarnings([scratch], inMemory("tmpfs", "1"))).toMatchObject([
      {
        path: "hosts.local.pool.path",
        message: expect.stringMatching(/in memory \(tmpfs\), and .* allows it/) as string,
      },
    ]);
  });

  it.each(["0", "", "yes", "true", "01", "1 ", "11"])("not with %j for it (E-39)", async (value) => {
    expect(await preflight([scratch], [], inMemory("tmpfs", value))).toHaveLength(1);
    expect(await poolWarnings([scratch], inMemory("tmpfs", value))).toEqual([]);
  });

  it("anywhere for VMs without one", async () => {
    expect(await preflight([host], [], inMemory("tmpfs"))).toEqual([]);
    expect(await poolWarnings([host], inMemory("tmpfs", "1"))).toEqual([]);
    expect(await poolWarnings([scratch], machine())).toEqual([]);
  });

  it.each<[string, Partial<PreflightHost>, Probes]>([
    ["on another machine", { uri: "qemu+ssh://host/system" }, inMemory("tmpfs")],
    ["in a folder that this user cannot look at", {}, inMemory(undefined)],
  ])("%s it is not looked at, and that is said", async (_name, change, probes) => {
    expect(await preflight([{ ...scratch, ...change }], [], probes)).toEqual([]);
    expect(await poolWarnings([{ ...scratch, ...change }], probes)).toMatchObject([
      { path: "hosts.local.pool.path", message: expect.stringMatching(/cannot be seen from here/) as string },
    ]);
  });

  it("is nothing to libvirt's test driver", async () => {
    expect(await poolWarnings([{ ...scratch, uri: "test:///default" }], inMemory("tmpfs", "1"))).toEqual([]);
  });

  it("by default nowhere that is made for temporary files (E-40)", () => {
    const env: NodeJS.ProcessEnv = {
      ...process.env,
      TMP: "/tmp/a",
      TMPDIR: "/tmp/b",
      LIBVIRT_DEFAULT_URI: "test:///default",
    };
    delete env["NIXVM_POOL_ROOT"];
    const named = evaluate("libvirtd", "(await m.ensureHost({ root: input })).env.NIXVM_POOL_ROOT", root, { env });
    expect(named).toBe("/var/lib/libvirt/images");
    expect(evaluate("host-paths", "m.hostPaths(input).images", root, { env })).toBe(`${root}/.nixvm/libvirt/images`);
    expect(planFleet({ hosts: { local: {} } }, { project: "nixvm", stack: "test", defaults: {} })).toMatchObject({
      ok: false,
      problems: [{ path: "hosts.local.pool.path", message: "is missing" }],
    });
  });

  it("is found out of the file system that the path leads to (E-37, E-41)", () => {
    // A namespace of its own, in which anybody may mount; so the probe runs in a Node process there, on what jest would have compiled.
    const dir = mkdtempSync(join(tmpdir(), "nixvm pool "));
    for (const name of ["probes", "run"]) {
      const { code } = transformFileSync(resolve(__dirname, `../../provider/${name}.ts`), {
        jsc: { target: "es2022", parser: { syntax: "typescript" } },
        module: { type: "commonjs" },
      });
      writeFileSync(join(dir, `${name}.js`), code);
    }
    const script = `cd "$1" && mkdir tmpfs ramfs disk && mount -t tmpfs t tmpfs && mount -t ramfs r ramfs || exit 1
      mkdir tmpfs/pool && ln -s tmpfs/pool link && ln -s "$PWD/ramfs" far
      for folder in tmpfs link ramfs far disk; do
        "$2" -e 'require("./probes.js").realProbes.space(process.argv[1]).then((s) => console.log(s.inMemory))' "$folder"
      done`;
    const { stdout, stderr } = spawnSync("unshare", ["-rm", "sh", "-c", script, "-", dir, process.execPath], {
      encoding: "utf8",
    });
    rmSync(dir, { recursive: true });
    expect(stderr).toBe("");
    expect(stdout.split("\n")).toEqual(["tmpfs", "tmpfs", "ramfs", "ramfs", "false", ""]);
  });
});

describe("the real machine", () => {
  it("knows a port that is taken", async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as { port: number };
    expect(await realProbes.portFree(port)).toBe(false);
    await new Promise((resolve) => server.close(resolve));
    expect(await realProbes.portFree(port)).toBe(true);
  });

  it("knows folders, files, space and programs", async () => {
    const dir = mkdtempSync(join(tmpdir(), "nixvm "));
    writeFileSync(join(dir, "file"), "");
    expect(await realProbes.kind(dir)).toBe("folder");
    expect(await realProbes.kind(join(dir, "file"))).toBe("other");
    expect(await realProbes.kind(join(dir, "file", "below"))).toBe("missing");
    expect(await realProbes.writable(dir)).toBe(true);
    expect((await realProbes.space(dir)).freeBytes).toBeGreaterThan(0);
    expect(await realProbes.onPath("sh")).toBe(true);
    expect(await realProbes.onPath("nixvm-no-such-program")).toBe(false);
    rmSync(dir, { recursive: true });
  });
});

describe("bridges of a host that is another machine", () => {
  const rack: PreflightHost = { ...host, name: "rack", uri: "qemu+ssh://rack/system" };
  const on = (bridge: string): PreflightVm => ({ name: "web", domain: "fleet-web", host: "rack", bridge });
  const dumped = (answer: Partial<RunResult>): Probes => machine({ "iface-dumpxml": answer });

  it("are asked of its libvirt, once each, and one that is missing or no bridge is refused before anything is made (T-120)", async () => {
    const asked: string[] = [];
    const probes = machine();
    const run = probes.run;
    probes.run = async (command, args, ms) => {
      if (args[3] === "iface-dumpxml") asked.push(args.slice(2).join(" "));
      const stdout = "<interface type='bridge' name='br0'>\n</interface>";
      return args[3] === "iface-dumpxml" ? { code: 0, stdout, stderr: "" } : run(command, args, ms);
    };
    expect(await preflight([rack], [on("br0"), { ...on("br0"), name: "db" }], probes)).toEqual([]);
    expect(asked).toEqual(["qemu+ssh://rack/system iface-dumpxml br0"]);
    for (const answer of [
      { stdout: "<interface type='ethernet' name='eth0'/>" },
      refused("failed to get interface 'eth0': Interface not found: couldn't find interface named 'eth0'"),
    ]) {
      expect(await preflight([rack], [on("eth0")], dumped(answer))).toEqual([
        {
          path: "fleet.web.network.bridge",
          value: "eth0",
          message: "is not a bridge of host rack",
          allowed: "the name of a bridge of that host; make one first where there is none",
        },
      ]);
    }
  });

  it("are not judged where that libvirt cannot tell", async () => {
    const answer = refused("this function is not supported by the connection driver: virInterfaceLookupByName");
    expect(await preflight([rack], [on("br0")], dumped(answer))).toEqual([]);
  });
});
