import { type PlanContext, PRESET_DEFAULTS, PRESETS } from "../../components/plan";
import { base, one, planOf, problemsOf, sshKey, textsOf, vmOf } from "./plan-support";

describe("refused combinations (8.4)", () => {
  type Row = [what: string, vm: object, path: string, part: string, extra?: Partial<PlanContext>];
  const rows: Row[] = [
    ["readonly without persist", { persist: false }, "fleet.web.persist", "leaves /var read-only"],
    ["readonly with /persist", { persist: { mount: "/persist" } }, "fleet.web.persist.mount", "leaves /var read-only"],
    [
      "zfs-rollback on ext4",
      { preset: "rollback", persist: { fs: "ext4" } },
      "fleet.web.persist.fs",
      "the pool that rootMode zfs-rollback needs",
    ],
    ["zfs without zfs-rollback", { persist: { fs: "zfs" } }, "fleet.web.persist.fs", "is for rootMode zfs-rollback"],
    [
      "a pool at /var",
      { preset: "rollback", persist: { mount: "/var" } },
      "fleet.web.persist.mount",
      "is not where the datasets",
    ],
    [
      "zfs-rollback without persist",
      { preset: "rollback", persist: false },
      "fleet.web.persist",
      "the pool that rootMode zfs-rollback needs",
    ],
    ["pull with readonly", { update: "pull" }, "fleet.web.update", "rootMode is readonly"],
    [
      "pull with the store in the image",
      { preset: "workbench", update: { mode: "pull" } },
      "fleet.web.update.mode",
      "store is image",
    ],
    [
      "home larger than memory",
      { memory: "1GiB", home: { mode: "tmpfs", size: "2GiB" } },
      "fleet.web.home.size",
      "is more than the memory of the VM (1GiB)",
    ],
    [
      "workbench in little memory",
      { preset: "workbench", memory: "512MiB" },
      "fleet.web.home.size",
      '"4GiB" is more than the memory',
    ],
    [
      "a root in memory larger than the memory",
      { preset: "sealed", rootSize: "5GiB" },
      "fleet.web.rootSize",
      "is more than the memory of the VM (4GiB)",
    ],
    ["a root size without a root in memory", { rootSize: "1GiB" }, "fleet.web.rootSize", "rootMode is readonly"],
    [
      "nixOverlay over a partition",
      { preset: "zvm", scratch: { size: "1GiB", nixOverlay: true } },
      "fleet.web.scratch.nixOverlay",
      "store is partition",
    ],
    [
      "nixOverlay over a dataset",
      { preset: "rollback", scratch: { size: "1GiB", nixOverlay: true } },
      "fleet.web.scratch.nixOverlay",
      "store is dataset",
    ],
    [
      "bridge without a name",
      { network: { mode: "bridge" } },
      "fleet.web.network.bridge",
      "is missing, and needed in mode bridge",
    ],
    [
      "a bridge the host does not have (T-120)",
      { network: "bridge:br9" },
      "fleet.web.network",
      "is not a bridge of host local; allowed: br0, br1",
      { hosts: { local: { bridges: ["br0", "br1"] } } },
    ],
    [
      "a smaller volume (T-62)",
      { persist: { size: "5GiB" } },
      "fleet.web.persist.size",
      "is smaller than the volume is now (10GiB)",
      { current: { web: { persistBytes: 10 * 1024 ** 3 } } },
    ],
    [
      "a root mode the image cannot do",
      { preset: "zvm" },
      "fleet.web.rootMode",
      "is not a root mode that image os can do; allowed: readonly, persistent",
      { images: { os: { rootModes: ["readonly", "persistent"] } } },
    ],
    [
      "home kept with nothing to keep it on",
      { preset: "sealed", home: "persistent" },
      "fleet.web.home",
      "has nowhere to be kept",
    ],
    [
      "a size for a kept home",
      { home: { mode: "persistent", size: "1GiB" } },
      "fleet.web.home.size",
      "is the limit of a tmpfs",
    ],
    [
      "a pull interval without pull",
      { update: { mode: "image", every: "1h" } },
      "fleet.web.update.every",
      "is for update mode pull",
    ],
    [
      "scratch in both spellings",
      { scratch: { size: "1GiB" }, vmDiskSize: 1 },
      "fleet.web.vmDiskSize",
      "either scratch or vmDiskSize",
    ],
    [
      "a reserved pool name",
      { preset: "rollback", persist: { label: "mirror" } },
      "fleet.web.persist.label",
      "a word that ZFS keeps for itself",
    ],
    [
      "an address on a bridge",
      { network: { mode: "bridge", bridge: "br0", address: "10.0.0.2" } },
      "fleet.web.network.address",
      "is for network mode nat",
    ],
    [
      "more snapshots than anybody keeps",
      { persist: { snapshots: 101 } },
      "fleet.web.persist.snapshots",
      "is not a number of snapshots",
    ],
    ["half a snapshot", { persist: { snapshots: 0.5 } }, "fleet.web.persist.snapshots", "is not a number of snapshots"],
    [
      "a bridge in mode nat",
      { network: { mode: "nat", bridge: "br0" } },
      "fleet.web.network.bridge",
      "is for network mode bridge",
    ],
    [
      "an SSH port in mode nat",
      { network: { mode: "nat", sshPort: 2222 } },
      "fleet.web.network.sshPort",
      "is for network mode user",
    ],
  ];
  test.each(rows)("%s", (_what, vm, path, part, ...[extra]) => {
    const problems = problemsOf(one(vm), extra);
    expect(problems.map((problem) => problem.path)).toEqual([path]);
    expect(textsOf(one(vm), extra).join("\n")).toContain(part);
  });

  test("an image of another contract is refused", () => {
    expect(textsOf(one({}), { images: { os: { contract: 2 } } })[0]).toContain("contract version 2");
    expect(textsOf(one({}), { images: { os: { contract: 1 } } })).toEqual([]);
  });

  test("the message names the VM when the line at fault is shared, and the line, not the VM", () => {
    const config = {
      ...base,
      defaults: { image: "os", persist: { mount: "/persist" } },
      fleet: { a: {}, b: { preset: "zvm" } },
    };
    expect(textsOf(config)).toEqual([expect.stringMatching(/^defaults\.persist\.mount: "\/persist" .*\(VM a\)/)]);
  });

  describe("data that is to go back", () => {
    const rollout = { goBack: true, restoreDataOnRollback: true };
    test("is refused without snapshots, for each volume", () => {
      const fleet = {
        a: {},
        b: { persist: { snapshots: 1 } },
        c: { preset: "sealed" },
        d: { persist: { snapshots: 0 } },
      };
      const allowed =
        "leaves nothing that rollout.restoreDataOnRollback could bring back; allowed: 1 or more, or restoreDataOnRollback: false";
      expect(textsOf({ ...base, fleet, rollout })).toEqual(
        ["a", "d"].map((vm) => `fleet.${vm}.persist.snapshots: 0 ${allowed}`),
      );
      expect(vmOf({ ...base, fleet: { b: fleet.b, c: fleet.c }, rollout }, "b")).toMatchObject({
        restoreData: true,
        persist: { snapshots: 1 },
      });
      expect(vmOf({ ...base, fleet: { c: fleet.c }, rollout }, "c").restoreData).toBe(false);
      expect(vmOf(one({}))).toMatchObject({ restoreData: false, persist: { snapshots: 0 } });
    });

    test("is refused where no VM goes back", () => {
      const of = (more: object) =>
        one({ persist: { snapshots: 1 } }, { rollout: { restoreDataOnRollback: true, ...more } });
      expect(textsOf(of({ goBack: false }))).toEqual([
        "rollout.restoreDataOnRollback: true is for VMs that are brought back to their former image, and goBack is false; allowed: goBack: true, or false",
      ]);
      expect(textsOf(of({}))).toEqual([]);
      expect(problemsOf(of({ goBack: "no" })).map(({ path }) => path)).toEqual(["rollout.goBack"]);
    });
  });

  test("a field that is wrong itself causes no second message", () => {
    expect(problemsOf(one({ preset: "zvn", persist: false })).map((problem) => problem.path)).toEqual([
      "fleet.web.preset",
    ]);
  });
});

describe("what is allowed", () => {
  test("a volume may grow, and a raised generation may begin smaller", () => {
    const current = { web: { persistBytes: 10 * 1024 ** 3, generation: 0 } };
    expect(textsOf(one({ persist: { size: "11GiB" } }), { current })).toEqual([]);
    expect(textsOf(one({ persist: { size: "5GiB" }, generation: 1 }), { current })).toEqual([]);
    expect(
      textsOf(one({ persist: { size: "5GiB" } }), { current: { web: { ...current.web, generation: -1 } } }),
    ).toEqual([]);
  });

  test("an empty stack is a plan without VMs", () => {
    for (const config of [{}, { fleet: null, hosts: null }, { fleet: {} }, { hosts: { local: null } }]) {
      expect(planOf(config).vms).toEqual([]);
      expect(planOf(config).hosts.map((host) => host.name)).toEqual(["local"]);
    }
  });

  test.each([
    ["sealed", {}, "fleet.web.persist", "changes at every boot"],
    ["workbench", {}, "fleet.web.rootMode", "the next image upgrade, which discards them"],
    ["template", { scratch: { size: "1GiB" } }, "fleet.web.scratch.size", "secrets may still end up on a disk"],
    [
      "template",
      { memory: "1GiB", home: { mode: "tmpfs", size: "600MiB" } },
      "fleet.web.home.size",
      "more than half of the memory",
    ],
    ["template", { tcpPorts: [80] }, "fleet.web.tcpPorts", "does not open port 22"],
    ["zvm", { adminKeys: [sshKey], userKeys: [sshKey] }, "fleet.web.adminKeys", "no account with role admin"],
    ["template", { adminKeys: [] }, "fleet.web.accounts", "nobody can log in over SSH"],
  ])("%s with %j is allowed with a warning", (preset, vm, path, part) => {
    const warnings = planOf(one({ preset, ...vm })).warnings;
    const warning = warnings.find((candidate) => candidate.path === path);
    expect(warning?.message).toContain(part);
  });
});

describe("presets (8.2)", () => {
  test.each(PRESETS)("%s fills in what its seed says, and can be overridden (E-2)", (preset) => {
    const vm = vmOf(one({ preset, userKeys: [sshKey] }));
    const want = PRESET_DEFAULTS[preset];
    expect(vm).toMatchObject({
      rootMode: want.rootMode,
      home: want.home,
      store: want.store,
      update: { mode: want.update },
      memoryBytes: want.memoryBytes,
      vcpus: 2,
      scratch: null,
    });
    expect(vm.persist === null).toBe(!want.persist);
    expect(vm.accounts.map(({ name, role }) => ({ name, role }))).toEqual(want.accounts);
    expect(vmOf(one({ preset, vcpus: 7 })).vcpus).toBe(7);
  });

  test("the table (V-55)", () => {
    expect(vmOf(one({})).persist).toMatchObject({
      mount: "/var",
      fs: "ext4",
      label: "var",
      protect: true,
      retain: true,
    });
    expect(vmOf(one({ preset: "rollback" })).persist).toMatchObject({ mount: "/persist", fs: "zfs", label: "rpool" });
    expect(vmOf(one({ preset: "zvm" })).persist).toMatchObject({ mount: "/persist", fs: "ext4", label: "persist" });
    expect(vmOf(one({ preset: "workbench" })).home).toEqual({ mode: "tmpfs", sizeBytes: 4 * 1024 ** 3 });
    expect(vmOf(one({ preset: "sealed" })).persist).toBeNull();
    expect(vmOf(one({ preset: "zvm" }))).toMatchObject({ memoryMiB: 4096, vcpus: 2 });
  });
});

describe("layers", () => {
  test("the VM wins over its group's and the defaults' lines; maps are merged, lists replaced", () => {
    const config = {
      ...base,
      defaults: {
        ...base.defaults,
        memory: "1GiB",
        persist: { size: "20GiB", protect: false },
        dns: ["9.9.9.9"],
        tcpPorts: [22, 80],
      },
      fleet: { web: { persist: { size: "30GiB" }, tcpPorts: [22, 443, 443] }, none: { preset: "zvm", persist: false } },
      groups: { w: { count: 2, memory: 512 } },
    };
    const web = vmOf(config);
    expect(web.persist).toMatchObject({ sizeBytes: 30 * 1024 ** 3, protect: false });
    expect(web).toMatchObject({ memoryMiB: 1024, dns: ["9.9.9.9"], tcpPorts: [22, 443] });
    expect(vmOf(config, "w-2")).toMatchObject({
      memoryMiB: 512,
      group: "w",
      hostname: "w-2",
      domainName: "nixvm-test-w-2",
    });
    expect(vmOf(config, "none").persist).toBeNull();
  });

  test("a network of another mode replaces the defaults' network, one of the same mode completes it", () => {
    const config = {
      ...base,
      networks: { lan: { subnet: "10.0.0.0/24" } },
      defaults: { ...base.defaults, network: "nat:lan" },
      fleet: { a: { network: { address: "10.0.0.9" } }, b: { network: "user" }, c: { network: "bridge:br0" }, d: {} },
    };
    expect(vmOf(config, "a").network).toEqual({
      mode: "nat",
      network: "nixvm-test-lan",
      entry: "lan",
      address: { ip: "10.0.0.9", prefixLength: 24, gateway: "10.0.0.1" },
      mac: null,
    });
    expect(vmOf(config, "b").network).toMatchObject({ mode: "user", sshPort: expect.any(Number) });
    expect(vmOf(config, "c").network).toEqual({ mode: "bridge", bridge: "br0", mac: null });
    expect(vmOf(config, "d").network).toMatchObject({ network: "nixvm-test-lan", address: null });
  });

  test("without a word the network is libvirt's default (T-36, T-117), or user with the embedded libvirt (D8)", () => {
    expect(vmOf(one({})).network).toEqual({ mode: "nat", network: "default", entry: null, address: null, mac: null });
    const embedded = { defaults: { poolRoot: "/p", network: "user" as const } };
    expect(vmOf(one({}), "web", embedded).network.mode).toBe("user");
    expect(vmOf(one({ network: "nat" }), "web", embedded).network.mode).toBe("nat");
  });

  test("an isolated network has no gateway; an existing one keeps its name", () => {
    const config = {
      ...base,
      networks: {
        dark: { subnet: "10.0.0.0/24", mode: "isolated" },
        default: { create: false, subnet: "192.168.122.0/24" },
      },
      fleet: { a: { network: { network: "dark", address: "10.0.0.9" } }, b: { network: { address: "192.168.122.9" } } },
    };
    expect(vmOf(config, "a").network).toMatchObject({ address: { gateway: null } });
    expect(vmOf(config, "b").network).toMatchObject({
      network: "default",
      entry: "default",
      address: { gateway: "192.168.122.1" },
    });
  });

  test("keys go to the accounts of their role, each once", () => {
    const accounts = [
      { name: "root2", role: "admin", authorizedKeys: [sshKey] },
      { name: "bob", role: "user" },
    ];
    const vm = vmOf(one({ accounts, adminKeys: [`${sshKey}\n`] }));
    expect(vm.accounts.map(({ authorizedKeys }) => authorizedKeys)).toEqual([[sshKey], []]);
  });

  test("waits are longer under emulation, unless they are written (G-9)", () => {
    const tcg = { hosts: { local: { accelerator: "tcg" } } };
    expect(vmOf(one({}))).toMatchObject({ gateTimeoutSeconds: 300, stopTimeoutSeconds: 120 });
    expect(vmOf(one({}, tcg))).toMatchObject({ gateTimeoutSeconds: 900, stopTimeoutSeconds: 360 });
    const written = one({ stopTimeout: "10s" }, { ...tcg, rollout: { gateTimeout: "1m", stopTimeout: "2m" } });
    expect(vmOf(written)).toMatchObject({ gateTimeoutSeconds: 60, stopTimeoutSeconds: 10 });
    expect(planOf({}, { defaults: { accelerator: "tcg", poolRoot: "/p" } }).hosts[0]?.accelerator).toBe("tcg");
  });

  test("images: format and packing from the name, id from the facts, one for each host in use (T-5)", () => {
    const config = {
      hosts: { a: {}, b: { uri: "qemu+ssh://b/system" } },
      images: {
        os: { path: "x/OS.QCOW2.zst" },
        raw: { url: "https://x.example/os.img?v=1", sha256: "0".repeat(64) },
        idle: { path: "i.raw", format: "qcow2" },
      },
      defaults: { image: "os", host: "a" },
      fleet: { v1: {}, v2: {}, v3: { host: "b" }, v4: { image: "raw" } },
    };
    const plan = planOf(config, { images: { os: { id: "os-1" } } });
    expect(plan.images.map((image) => image.key)).toEqual(["a/os", "a/raw", "b/os"]);
    expect(plan.images[0]).toMatchObject({
      format: "qcow2",
      packed: "zstd",
      id: "os-1",
      path: "x/OS.QCOW2.zst",
      url: null,
    });
    expect(plan.images[1]).toMatchObject({ format: "raw", packed: null, id: null, path: null });
  });

  test("hosts, networks and firmware", () => {
    const firmware = { loader: "/c.fd", nvramTemplate: "/v.fd" };
    const config = one(
      {},
      { hosts: { h: { uri: "test:///default", pool: { path: "/x", name: "n" }, firmware, consoleDir: "/c" } } },
    );
    expect(planOf(config).hosts).toEqual([
      {
        name: "h",
        uri: "test:///default",
        accelerator: "kvm",
        pool: { name: "n", path: "/x", create: true },
        consoleDir: "/c",
        firmware,
      },
    ]);
    expect(vmOf(config)).toMatchObject({ host: "h", firmware });
    expect(planOf({}).hosts[0]).toMatchObject({
      uri: "qemu:///system",
      pool: { name: "nixvm-test", path: "/pools/nixvm-test" },
    });
  });

  test("vmDiskSize is scratch in GiB, 0 is none (E-1, E-3)", () => {
    expect(vmOf(one({ vmDiskSize: 3 })).scratch).toEqual({
      sizeBytes: 3 * 1024 ** 3,
      nixOverlay: false,
      volumeName: "nixvm-test-web-scratch",
    });
    expect(vmOf(one({ vmDiskSize: 0 })).scratch).toBeNull();
  });
});
