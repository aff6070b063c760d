import { z } from "zod";
import * as leaf from "./leaf";
import { wrong } from "./errors";
import { allowlist } from "./model-allowlist";
import { health } from "./model-health";
import { egress, hostsFile } from "./model-network";
import { seed } from "./model-seed";
import { MIB } from "./size";
import * as text from "./text";

/** What happens to the root file system at boot (C-1). */
export const ROOT_MODES = ["readonly", "tmpfs", "zfs-rollback", "persistent"] as const;
/** Sets of defaults, one for each seed document (8.2). */
export const PRESETS = ["template", "zvm", "rollback", "workbench", "sealed"] as const;
/** Where the Nix store is kept (C-7). */
export const STORES = ["image", "partition", "dataset", "overlay"] as const;

export type RootMode = (typeof ROOT_MODES)[number];
export type Preset = (typeof PRESETS)[number];
export type Store = (typeof STORES)[number];

/*
 * Each field: `.describe()` is what an editor shows (meaning, unit, default and effect); the comment above it names the
 * rows it comes from and what is refused. Nothing here has a default of its own: layers are merged first (resolve.ts).
 */

const persist = leaf.keys(
  {
    /** T-34, T-62. At least 64MiB; smaller than the size in use is refused. */
    size: leaf
      .size(64 * MIB, "64MiB")
      .optional()
      .describe(
        "Size of the volume. Default 10GiB. Raising it grows the volume and its file system in place, without data loss; lowering it is refused.",
      ),
    /** C-2. `readonly` needs /var (8.4). */
    mount: leaf
      .choice(["/var", "/persist"], "a mount point of the persistent volume")
      .optional()
      .describe("Where the guest mounts it. Default from the preset: /var for template, /persist for the others."),
    /** Z-16, 8.4. `zfs-rollback` needs zfs. */
    fs: leaf
      .choice(["ext4", "zfs"], "a file system")
      .optional()
      .describe("File system that the guest makes on a blank volume. Default ext4, for preset rollback zfs."),
    /** Q-7, 8.5. At most 16 characters; reserved pool names are refused with zfs. */
    label: leaf
      .word(text.LABEL_PATTERN, "a label", text.LABEL_ALLOWED)
      .optional()
      .describe(
        "Label of the file system, or name of the pool. Default var, persist or rpool, by mount point and file system.",
      ),
    /** T-53. */
    protect: leaf
      .bool()
      .optional()
      .describe("Whether Pulumi refuses to delete the volume until this is set to false. Default true."),
    /** T-53, D3. */
    retain: leaf
      .bool()
      .optional()
      .describe(
        "Whether the volume stays on the host, with its data, when the VM is removed from the stack. Default true.",
      ),
    /** T-53. Needs a pool with room for what is overwritten. */
    snapshots: leaf
      .whole(0, 100, "a number of snapshots")
      .optional()
      .describe(
        "How many snapshots of the data are kept in the volume: one is taken before each upgrade of the image, with the VM off. They take the space of what is overwritten later. Default 0: none is taken, and those there stay.",
      ),
  },
  "size, mount, fs, label, protect, retain and snapshots",
);

const scratch = leaf.keys(
  {
    /** E-1 to E-4. At least 64MiB: a LUKS header takes 16 of it. */
    size: leaf.size(64 * MIB, "64MiB").describe("Size of the scratch disk. Sparse on the host, emptied at every boot."),
    /** E-7, 8.4. Needs a read-only store. */
    nixOverlay: leaf
      .bool()
      .optional()
      .describe("Whether the writable layer of /nix/store is on the scratch disk. Default false."),
  },
  "size and nixOverlay",
);

const home = z
  .union(
    [
      z.enum(["persistent", "tmpfs"]),
      leaf.keys(
        {
          mode: leaf
            .choice(["persistent", "tmpfs"], "a way to keep /home")
            .describe("persistent: kept on the persistent volume or root. tmpfs: in memory, gone at power-off."),
          /** P-4, 8.4. Only with tmpfs; more than the memory is refused. */
          size: leaf
            .size(MIB, "1MiB")
            .optional()
            .describe("Limit of the tmpfs. Default half of the memory, for preset workbench 4GiB."),
        },
        "mode and size",
      ),
    ],
    { error: wrong("a way to keep /home", "persistent, tmpfs, or a map such as { mode: tmpfs, size: 4GiB }") },
  )
  .describe("Whether /home is kept. Default from the preset.");

const update = z
  .union(
    [
      z.enum(["image", "pull"]),
      leaf.keys(
        {
          mode: leaf
            .choice(["image", "pull"], "a way to update")
            .describe("image: by `pulumi up` with a new image. pull: the guest fetches its configuration itself."),
          /** V-37. Only with pull. */
          flake: leaf
            .word(/^[\x21-\x7e]+$/, "a flake reference", "a flake reference without spaces, such as git+https://…#vm")
            .optional()
            .describe("What the guest pulls. Default: what its image names."),
          /** V-30. Only with pull. */
          every: leaf.duration().optional().describe("Time between two pulls, such as 1h. Default 1h."),
        },
        "mode, flake and every",
      ),
    ],
    { error: wrong("a way to update", "image, pull, or a map such as { mode: pull, every: 1h }") },
  )
  .describe("Who brings a new system: image (default) or pull (C-20). pull needs a writable store.");

/** How the NIC is connected, in words: the short form of `network`. */
export const NETWORK_SHORTHAND = /^(nat|user|nat:[a-z][a-z0-9-]*|bridge:[A-Za-z0-9_][A-Za-z0-9_.-]{0,14})$/;

const NETWORK_WRONG = wrong(
  "a network",
  "nat, nat:<network>, user, bridge:<bridge>, or a map such as { mode: nat, address: 192.168.77.10 }",
);

const network = z
  .union(
    [
      z.string({ error: NETWORK_WRONG }).regex(NETWORK_SHORTHAND, { error: NETWORK_WRONG }),
      leaf.keys(
        {
          /** T-94, T-36, C-30. */
          mode: leaf
            .choice(["nat", "bridge", "user"], "a network mode")
            .optional()
            .describe(
              "nat: on a libvirt network (the default); bridge: on a bridge of the host; user: no daemon needed, reachable by SSH through a port of the host.",
            ),
          /** T-117. A key of `networks`, or `default`. */
          network: leaf
            .word(/^[A-Za-z0-9_.-]+$/, "a network", "default, or a name from nixvm:networks")
            .optional()
            .describe("Only nat: a name from nixvm:networks, or default for libvirt's own. Default: default."),
          /** Inside the subnet of the network, not its gateway, not used twice. */
          address: leaf
            .word(/^[0-9.]+$/, "an IPv4 address", "an IPv4 address such as 192.168.77.10")
            .optional()
            .describe("Only nat: fixed IPv4 address. Default: by DHCP."),
          /** T-119, 8.4. */
          bridge: leaf
            .word(text.INTERFACE_PATTERN, "the name of a bridge", text.INTERFACE_ALLOWED)
            .optional()
            .describe("Only bridge, and needed there: the host's bridge, such as br0."),
          /** D8. One VM each on a host. */
          sshPort: leaf
            .whole(1024, 65535, "a port for SSH")
            .optional()
            .describe(
              "Only user: port on 127.0.0.1 of the host that leads to the guest's SSH. Default: made from the VM's name, 20000 to 31999.",
            ),
          /** T-93. Same as identity.mac. */
          mac: leaf
            .mac()
            .optional()
            .describe("MAC address, such as 02:6e:76:00:00:01. Default: made once from the VM's name, kept for life."),
        },
        "mode, network, address, bridge, sshPort and mac",
      ),
    ],
    {
      error: NETWORK_WRONG,
    },
  )
  .describe(
    "How the VM is connected. Default nat on libvirt's default network, or user where the project runs its own libvirt. A change restarts the VM and keeps its data.",
  );

const account = leaf.keys(
  {
    /** C-17. Not a system account, not used twice. */
    name: leaf.word(text.ACCOUNT_PATTERN, "an account name", text.ACCOUNT_ALLOWED).describe("Login name."),
    /** C-16, T-110, T-111. */
    role: leaf.choice(["admin", "user"], "a role").describe("admin: sudo without password. user: no sudo."),
    /** T-96, T-97. */
    authorizedKeys: leaf.sshKeys().optional().describe("SSH public keys that may log in. Default none."),
    /** C-14, T-112. Secret. */
    passwordHash: leaf
      .cryptHash()
      .optional()
      .describe(
        "Crypt hash for logins at the console; SSH takes keys only. Default none: locked. Write it with `pulumi config set --secret`.",
      ),
  },
  "name, role, authorizedKeys and passwordHash",
);

const identity = leaf.keys(
  {
    /** T-92. */
    uuid: leaf
      .word(text.UUID_PATTERN, "a UUID", "a UUID such as 3f0c8b52-6d0e-8a57-9f3e-1c2d3e4f5a6b", (value) =>
        /[1-9a-e]/i.test(value),
      )
      .optional()
      .describe("libvirt UUID. Default: derived."),
    /** T-91. */
    machineId: leaf
      .word(text.MACHINE_ID_PATTERN, "a machine-id", "32 lower-case hex digits, not all zero", (value) =>
        /[1-9a-f]/.test(value),
      )
      .optional()
      .describe("Content of /etc/machine-id. Default: derived."),
    /** T-93. */
    mac: leaf.mac().optional().describe("MAC address; the same as network.mac. Default: derived."),
    /** T-95, C-13. */
    sshHostKey: leaf
      .choice(["guest", "stack"], "a place for the SSH host key")
      .optional()
      .describe(
        "guest (default): made in the guest, kept on its persistent volume, never in the state. stack: derived, a secret of the stack, the same after a loss of the volume.",
      ),
  },
  "uuid, machineId, mac and sshHostKey",
);

/** UEFI firmware (T-13); the model has no other. */
export const firmware = leaf
  .keys(
    {
      /** T-13. */
      loader: leaf.absolutePath().describe("UEFI code, such as /usr/share/OVMF/OVMF_CODE_4M.fd."),
      /** T-13. */
      nvramTemplate: leaf
        .absolutePath()
        .describe("UEFI variables that a new VM starts with, such as /usr/share/OVMF/OVMF_VARS_4M.fd."),
    },
    "loader and nvramTemplate",
  )
  .describe("UEFI files on the host. Default: libvirt chooses UEFI without secure boot.");

const SHAPE = "Default from the preset";

/** The fields of a VM. The same in `defaults`, `fleet.<name>` and `groups.<name>`. */
export const vmShape = {
  /** T-41, T-49. A name from `images`. */
  image: leaf
    .word(text.NAME_PATTERN, "the name of an image", "a name from nixvm:images")
    .optional()
    .describe(
      "Name from nixvm:images. Needed, here or in defaults. A change makes a new boot disk and restarts the VM; its data and identity stay.",
    ),
  /** D4. A name from `hosts`. */
  host: leaf
    .word(text.NAME_PATTERN, "the name of a host", "a name from nixvm:hosts")
    .optional()
    .describe("Name from nixvm:hosts. Default: the only host there is."),
  /** 8.2. */
  preset: leaf
    .choice(PRESETS, "a preset")
    .optional()
    .describe(
      "Set of defaults: template (read-only root, data in /var), zvm (root in memory), rollback (ZFS root emptied at boot), workbench (root kept, /home in memory), sealed (nothing kept). Default template.",
    ),
  /** C-1, 8.4. Refused when the image is known not to support it. */
  rootMode: leaf
    .choice(ROOT_MODES, "a root mode")
    .optional()
    .describe(
      "What happens to the root file system: readonly, tmpfs, zfs-rollback or persistent. Default from the preset.",
    ),
  /** V-2, 8.4. Only with tmpfs; more than the memory is refused. */
  rootSize: leaf
    .size(64 * MIB, "64MiB")
    .optional()
    .describe("Limit of a root in memory. Only with rootMode tmpfs. Default half of the memory."),
  /** C-4, P-4. */
  home: home.optional(),
  /** C-7, 8.4. */
  store: leaf
    .choice(STORES, "a place for the Nix store")
    .optional()
    .describe("Where the Nix store is: image (read-only), partition, dataset or overlay. Default from the preset."),
  /** T-1, T-4, T-53, 8.4. */
  persist: z
    .union([z.literal(false), persist], {
      error: wrong("a persistent volume", "false, or a map such as { size: 10GiB }"),
    })
    .optional()
    .describe("The disk that outlives upgrades, or false for none. Default from the preset: 10GiB, none for sealed."),
  /** E-1 to E-10. */
  scratch: z
    .union([z.literal(false), scratch], { error: wrong("a scratch disk", "false, or a map such as { size: 20GiB }") })
    .optional()
    .describe("A disk encrypted under a key that only the guest has, or false (default) for none."),
  /** E-1, Q-2. Not together with scratch. */
  vmDiskSize: leaf
    .whole(0, 65536, "a number of GiB")
    .optional()
    .describe("Another way to write scratch.size: whole GiB. Default 0: none."),
  /** V-13 to V-20, P-13 to P-18, C-12. Needs a persistent volume. */
  allowlist: allowlist.optional(),
  /** T-90. Of its own for each VM. */
  hostname: leaf
    .word(text.HOSTNAME_PATTERN, "a host name", text.HOSTNAME_ALLOWED)
    .optional()
    .describe("Host name inside the guest. Default: the VM's name."),
  /** T-33, T-44. */
  memory: leaf
    .memory()
    .optional()
    .describe(
      `Memory: 512MiB, 4GiB, or a bare number of MiB. ${SHAPE}: 2GiB, more for others. A change up to memoryMaximum is made live, any other restarts the VM.`,
    ),
  /** T-44. */
  memoryMaximum: leaf
    .memory()
    .optional()
    .describe(
      "What memory can grow to while the VM runs, through a balloon device. Default: memory is fixed. A change restarts the VM.",
    ),
  /** T-44. */
  vcpus: leaf
    .whole(1, 255, "a number of virtual CPUs")
    .optional()
    .describe(
      `Number of virtual CPUs. ${SHAPE}: 2. More of them up to vcpusMaximum are given live, any other change restarts the VM.`,
    ),
  /** T-44. */
  vcpusMaximum: leaf
    .whole(1, 255, "a number of virtual CPUs")
    .optional()
    .describe("What vcpus can grow to while the VM runs. Default: vcpus is fixed. A change restarts the VM."),
  /** T-54. The entry stays, and with it all that must be one VM's own; T-53 holds as for an entry that is removed. */
  state: leaf
    .choice(["present", "absent"], "a state of a VM")
    .optional()
    .describe(
      "Whether the VM is there. Default present; absent removes it with its disks and keeps this entry, so that present makes it again as the same VM. Needs persist.protect: false first; with persist.retain its data stays on the host.",
    ),
  /** T-37. */
  running: leaf
    .bool()
    .optional()
    .describe("Whether the VM is to run. Default true; false stops it cleanly and keeps it defined."),
  /** T-94, T-117 to T-123. */
  network: network.optional(),
  /** C-16, C-17. */
  accounts: leaf
    .list(account, "accounts, such as [{ name: admin, role: admin }]")
    .optional()
    .describe(
      "Accounts in the guest. Default from the preset: admin and user for template, zvm for zvm, admin for rollback, user for the others.",
    ),
  /** T-96. */
  adminKeys: leaf
    .sshKeys()
    .optional()
    .describe(
      "SSH public keys for every account with role admin, besides its own; file:<path> takes those in a file. Default none.",
    ),
  /** T-97. */
  userKeys: leaf
    .sshKeys()
    .optional()
    .describe(
      "SSH public keys for every account with role user, besides its own; file:<path> takes those in a file. Default none.",
    ),
  /** T-104, T-116. Secret. */
  rootPasswordHash: leaf
    .cryptHash()
    .optional()
    .describe(
      "Crypt hash of root's password, for the serial console only. Default none: locked. Write it with `pulumi config set --secret`.",
    ),
  /** T-98, T-101, T-102. */
  tcpPorts: leaf.ports().optional().describe("TCP ports open in the guest; all others are closed. Default [22]."),
  /** T-99, T-101, T-102. */
  udpPorts: leaf.ports().optional().describe("UDP ports open in the guest; all others are closed. Default none."),
  /** T-105. */
  dns: leaf
    .list(leaf.ipAddress(), "IP addresses, such as [1.1.1.1]")
    .optional()
    .describe("Name servers of the guest. Default [1.1.1.1, 1.0.0.1]."),
  /** Names without a name server. */
  hostsFile: hostsFile.optional(),
  /** Refused with user networking, where no host filters. */
  egress: egress.optional(),
  /** G-5. */
  seed: seed.optional(),
  /** T-88 to T-95. */
  identity: identity
    .optional()
    .describe(
      "What makes this VM this VM. Default: derived once from the stack's key and the VM's name; write it only to adopt an existing VM's.",
    ),
  /** T-50. */
  generation: leaf
    .whole(0, 1_000_000, "a generation")
    .optional()
    .describe(
      "Raise it to throw the VM's data away: a new persistent volume is made. Default 0. Needs persist.protect: false first.",
    ),
  /** T-13. */
  firmware: firmware.optional(),
  /** T-44. */
  cpuModel: leaf
    .word(
      /^[A-Za-z0-9_.+-]{1,64}$/,
      "a CPU model",
      "a model of `virsh cpu-models`, host-passthrough, host-model or maximum",
    )
    .optional()
    .describe("CPU model. Default: the host's under KVM, a plain one otherwise. A change restarts the VM."),
  /** C-20, V-43, 8.4. */
  update: update.optional(),
  /** G-8. */
  health: health.optional(),
  /** G-9. */
  gateTimeout: leaf
    .duration()
    .optional()
    .describe("How long an upgrade waits for this VM to say that it is healthy. Default from nixvm:rollout."),
  /** T-39. */
  stopTimeout: leaf
    .duration()
    .optional()
    .describe("How long a clean stop may take before the power is cut. Default from nixvm:rollout."),
};

export const vmSchema = leaf.keys(vmShape, "fields of a VM, such as image and memory");

/** A VM as written: every field optional, texts with units. */
export type VmConfig = z.infer<typeof vmSchema>;
