import { evaluate, toNix } from "./nix-support";

// What a NixOS configuration is refused for, as a function of plain facts (N0+).

const good = {
  host: "web",
  rootMode: "tmpfs",
  store: "partition",
  standalone: false,
  home: "tmpfs",
  mount: "/persist" as string | null,
  fs: "ext4",
  scratch: false,
  nixOverlay: false,
  update: "image",
  otherUpdater: false,
  hostId: null as string | null,
  zfsBroken: false,
  systemdInitrd: true,
  userborn: false,
  sysusers: false,
  etcOverlay: false,
  passwords: [] as string[],
  clearSwap: [] as string[],
  allowlistFaults: [] as string[],
  allowlistUsed: false,
  preservation: true,
};
const pool = { rootMode: "zfs-rollback", store: "dataset", home: "persistent", fs: "zfs", hostId: "0f1e2d3c" };
const template = { rootMode: "readonly", store: "image", home: "persistent", mount: "/var" };

interface Answer {
  refused: string[];
  warnings: string[];
}
function demands(changes: Partial<typeof good>): Answer {
  const { assertions, warnings } = evaluate<{
    assertions: { assertion: boolean; message: string }[];
    warnings: string[];
  }>(`import ./modules/demands.nix ${toNix({ ...good, ...changes })}`);
  return { refused: assertions.filter((entry) => !entry.assertion).map((entry) => entry.message), warnings };
}

describe("demands on a configuration", () => {
  test.each([
    ["zvm", {}],
    ["rollback", pool],
    ["workbench", { rootMode: "persistent", store: "image", allowlistUsed: true }],
    ["sealed, which warns", { store: "overlay", mount: null, scratch: true, nixOverlay: true }],
    ["template", template],
  ])("the preset %s meets them all", (_, facts) => expect(demands(facts).refused).toEqual([]));

  const MEMORY = "what is in memory only would be written to a disk in clear";
  test.each<[string, Partial<typeof good>, string]>([
    [
      "a read-only root without /var",
      { ...template, mount: null },
      'nixvm.persist.mount is null, allowed is "/var": with nixvm.rootMode readonly all that is written is below /var',
    ],
    [
      "a read-only root with its volume elsewhere",
      { ...template, mount: "/persist" },
      'nixvm.persist.mount is "/persist", allowed is "/var": with nixvm.rootMode readonly all that is written is below /var',
    ],
    [
      "a rollback without a pool",
      { ...pool, fs: "ext4" },
      'nixvm.persist.fs is "ext4", allowed is "zfs": nixvm.rootMode zfs-rollback has its pool on the persistent volume',
    ],
    [
      "a pool elsewhere than at /persist",
      { ...pool, mount: "/var" },
      'nixvm.persist.mount is "/var", allowed is "/persist": the datasets of nixvm.rootMode zfs-rollback are for it',
    ],
    [
      "a pool without a rollback",
      { fs: "zfs" },
      'nixvm.persist.fs is "zfs", allowed is "ext4": nixvm.rootMode tmpfs has no pool',
    ],
    [
      "a rollback without a host id",
      { ...pool, hostId: null },
      "networking.hostId is null, allowed is 8 hexadecimal digits: ZFS marks an open pool with it",
    ],
    [
      "the host id of the manual (Z-52)",
      { ...pool, hostId: "a1b2c3d4" },
      'networking.hostId is "a1b2c3d4", allowed is 8 random hexadecimal digits: this is the sample of a manual, and two machines with the same one may open one pool',
    ],
    [
      "a kernel without ZFS (Z-6)",
      { ...pool, zfsBroken: true },
      "boot.kernelPackages is a kernel without ZFS, allowed is one that ZFS supports, such as the default: nixvm.rootMode zfs-rollback is on ZFS",
    ],
    [
      "a store that such an image does not have",
      { store: "dataset" },
      'nixvm.store is "dataset", allowed is "overlay", "image", "partition": that is what an image for nixvm.rootMode tmpfs has',
    ],
    [
      "updates into a root that never changes",
      { ...template, update: "pull", store: "partition" },
      'nixvm.update.mode is "pull", allowed is "image": nixvm.rootMode readonly never changes',
    ],
    [
      "updates into a store that never changes",
      { update: "pull", store: "image" },
      'nixvm.update.mode is "pull", allowed is "image": a new system needs a store that can be written, and nixvm.store is "image"',
    ],
    [
      "two ways of updates",
      { otherUpdater: true },
      "system.autoUpgrade.enable is true, allowed is false: nixvm.update brings in new systems, and two would fight",
    ],
    [
      "a layer above a store that is written anyway",
      { nixOverlay: true },
      'nixvm.scratch.nixOverlay is true, allowed is false: it is a layer above a store that is read-only, and nixvm.store is "partition"',
    ],
    [
      "an image by itself that has no partition for what is kept",
      { ...template, standalone: true },
      "nixvm.image.standalone is true, allowed is false: only an image for rootMode tmpfs has room for what /persist keeps",
    ],
    [
      "a home that is kept nowhere",
      { home: "persistent", mount: null },
      'nixvm.home.mode is "persistent", allowed is "tmpfs", or a persistent volume: with nixvm.rootMode tmpfs alone there is nowhere to keep it',
    ],
    [
      "memory that goes to a disk (P-40, C-31)",
      { clearSwap: ["/dev/vdz"] },
      `swapDevices is ["/dev/vdz"], allowed is none, or such with randomEncryption.enable: ${MEMORY}`,
    ],
    [
      "a password in the image (Z-81)",
      { passwords: ["root", "zvm"] },
      "users.users is with a password of root, zvm, allowed is hashedPasswordFile: an image holds no password",
    ],
    [
      "a wrong allowlist",
      { allowlistFaults: ['directories[0]: "x" is not an absolute path'], allowlistUsed: true },
      'nixvm.allowlist is wrong (directories[0]: "x" is not an absolute path), allowed is what these texts say: nothing is kept from a wrong list',
    ],
    [
      "an allowlist and no volume",
      { allowlistUsed: true, mount: null },
      'nixvm.persist.mount is null, allowed is "/persist" or "/var": nixvm.allowlist has nowhere to keep its paths',
    ],
    [
      "an allowlist in a root that never changes",
      { ...template, allowlistUsed: true },
      "nixvm.allowlist is not empty, allowed is an empty list: with nixvm.rootMode readonly all of /var is kept, and no path can be mounted",
    ],
    [
      "an allowlist without what mounts it",
      { allowlistUsed: true, preservation: false },
      "nixvm.allowlist is not empty, allowed is that with the module preservation: it mounts the paths, and the flake's nixosModules.default has it",
    ],
    [
      "a scripted stage 1 (C-10)",
      { systemdInitrd: false },
      "boot.initrd.systemd.enable is false, allowed is true: units in the initrd look after root, seed and disks",
    ],
    [
      "userborn",
      { userborn: true },
      "services.userborn.enable is true, allowed is false: account files come from the seed",
    ],
    [
      "sysusers",
      { sysusers: true },
      "systemd.sysusers.enable is true, allowed is false: account files come from the seed",
    ],
    [
      "an overlay as /etc",
      { etcOverlay: true },
      "system.etc.overlay.enable is true, allowed is false: /etc is a part of the root, made before the system starts",
    ],
  ])("%s is refused by name of host, option and value", (_, facts, message) => {
    expect(demands(facts).refused).toContain(`host web: ${message}`);
  });

  test("swap is the disk's matter where nothing is in memory only, and all faults are named at once", () => {
    expect(demands({ ...template, clearSwap: ["/dev/vdz"] }).refused).toEqual([]);
    expect(demands({ systemdInitrd: false, otherUpdater: true, update: "pull", store: "image" }).refused).toHaveLength(
      3,
    );
  });

  test.each<[string, Partial<typeof good>, RegExp | null]>([
    ["nothing kept", { mount: null, store: "image" }, /^host web: nixvm\.persist\.mount is null .*new at every start$/],
    [
      "scratch beside a root that is written in clear",
      { rootMode: "persistent", store: "image", scratch: true },
      /rootMode persistent writes in clear/,
    ],
    [
      "scratch beside a home that is written in clear",
      { ...pool, scratch: true },
      /home\.mode persistent writes in clear/,
    ],
    ["zvm", {}, null],
  ])("warnings: %s", (_, facts, warning) => {
    expect(demands(facts).warnings).toEqual(warning === null ? [] : [expect.stringMatching(warning)]);
  });
});
