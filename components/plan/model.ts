import { z } from "zod";
import * as leaf from "./leaf";
import { groupRollout, POLICY_KEYS, policyShape } from "./model-rollout";
import { firmware, vmSchema, vmShape } from "./model-vm";
import * as text from "./text";

const pool = leaf.keys(
  {
    /** Default `<project>-<stack>`. */
    name: leaf
      .word(
        /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/,
        "the name of a storage pool",
        "up to 128 letters, digits, dots, _ and -",
      )
      .optional()
      .describe("Name of the libvirt storage pool. Default <project>-<stack>."),
    /** Needed with `create: false`. */
    path: leaf
      .absolutePath()
      .optional()
      .describe(
        "Folder of the pool on the host. Default: a folder of the pool's name below the place for managed pools. Needed when create is false.",
      ),
    /** Part 1 of the contract: a pool of that name that is not ours is an error. */
    create: leaf
      .bool()
      .optional()
      .describe("Whether the pool is made, and removed, by this stack. Default true; false uses an existing one."),
  },
  "name, path and create",
);

const host = leaf.keys(
  {
    /** A libvirt connection. */
    uri: leaf
      .word(
        /^(qemu|test)(\+[a-z0-9]+)?:\/\/\S+$/,
        "a libvirt URI",
        "qemu:///system, qemu+ssh://user@host/system or the like",
      )
      .optional()
      .describe("libvirt connection. Default: what setup found, else qemu:///system."),
    /** G-7, F-1. */
    accelerator: leaf
      .choice(["kvm", "tcg"], "an accelerator")
      .optional()
      .describe(
        "kvm, or tcg for emulation, which is some ten times slower. Default: what setup's probe VM proved, else kvm.",
      ),
    /** Disks live here. */
    pool: pool.optional().describe("Storage pool for all disks of this stack on this host."),
    /** T-60. */
    consoleDir: leaf
      .absolutePath()
      .optional()
      .describe("Folder on the host for the logs of the serial consoles. Default /var/log/libvirt/qemu."),
    /** T-13. */
    firmware: firmware.optional(),
  },
  "uri, accelerator, pool, consoleDir and firmware",
);

const buildHost = leaf.keys(
  {
    /** Name or address. */
    host: leaf
      .word(
        /^[A-Za-z0-9]([A-Za-z0-9._:-]*[A-Za-z0-9])?$/,
        "a host",
        "a host name, an address, or a name from ~/.ssh/config",
      )
      .describe("Machine with Nix that the image is built on, over SSH."),
    /** Default: as ssh has it. */
    user: leaf
      .word(/^[A-Za-z_][A-Za-z0-9_.-]*$/, "a user", "the name of an account there")
      .optional()
      .describe("Account there. Default: as for ssh."),
    /** Default: as ssh has it. */
    port: leaf
      .whole(1, 65535, "a port", "a whole number from 1 to 65535")
      .optional()
      .describe("Port of its SSH server. Default: as for ssh, 22."),
    /** G-5. */
    privateKey: leaf
      .secretText(
        /^-----BEGIN [A-Z ]*PRIVATE KEY-----/,
        "a private key",
        "the text of a private key without a passphrase",
      )
      .optional()
      .describe("Private key for it: pulumi config set --secret --path. Default: the keys that ssh finds by itself."),
  },
  "host, user, port and privateKey",
);

const image = leaf.keys(
  {
    /** One of path, url, flake and digest. */
    path: leaf
      .word(/^[^\0\n]+$/, "a path", "a file, relative to the project's folder or absolute")
      .optional()
      .describe(
        "Image file on this machine, relative to the project's folder: .qcow2, .raw or .img, also with .zst behind it. One of path, url, flake and digest.",
      ),
    /** One of path, url, flake and digest; needs sha256. */
    url: leaf
      .word(/^https?:\/\/\S+$/, "a download address", "an address that begins with https:// or http://")
      .optional()
      .describe("Where to download the image from. Needs sha256. One of path, url, flake and digest."),
    /** One of path, url, flake and digest. */
    digest: leaf
      .word(/^[0-9a-f]{12,64}$/, "a digest", "12 to 64 lower-case hex digits, as the stack's output images has them")
      .optional()
      .describe(
        "An image that is on the hosts already, by the beginning of its digest: see rollout.keepImages. One of path, url, flake and digest.",
      ),
    /** One of path, url, flake and digest. */
    flake: leaf
      .word(
        /^[^-#\0\n][^#\0\n]*#[A-Za-z0-9_][A-Za-z0-9_.+-]*$/,
        "a flake with what to build of it",
        "<flake>#<attribute>, such as ./nix#core or github:owner/repo#image",
      )
      .optional()
      .describe(
        "Flake and attribute that `nixvm image build` builds the image from; relative folders start at the project's. One of path, url, flake and digest.",
      ),
    /** Only with flake. */
    buildHost: buildHost.optional().describe("Where a flake is built. Default: this machine, which then needs Nix."),
    /** Part 2: digest of the file as it is read. */
    sha256: leaf
      .word(/^[0-9a-f]{64}$/, "a SHA-256 digest", "64 lower-case hex digits, as printed by `sha256sum`")
      .optional()
      .describe(
        "SHA-256 of the file as downloaded or as it lies there. Needed with url; with path it is checked when given.",
      ),
    /** C-28, V-66. */
    id: leaf
      .word(/^[\x21-\x7e]{1,200}$/, "an image id", "up to 200 printable characters without spaces")
      .optional()
      .describe(
        "What the guest must report to run. Default: the id in the file beside the image (<name>.json), if there is one.",
      ),
    /** Default from the file's name. */
    format: leaf
      .choice(["qcow2", "raw"], "an image format")
      .optional()
      .describe("qcow2 or raw. Default: from the file's name."),
  },
  "path, or url and sha256, or flake, or digest",
);

const networkEntry = leaf.keys(
  {
    /** A name from `hosts`. */
    host: leaf
      .word(text.NAME_PATTERN, "the name of a host", "a name from nixvm:hosts")
      .optional()
      .describe("Name from nixvm:hosts. Default: the only host there is."),
    /** Needed unless `create: false`; no overlap on one host. */
    subnet: leaf
      .subnet()
      .optional()
      .describe(
        "IPv4 network such as 192.168.77.0/24; the host takes its first address. Needed, unless create is false.",
      ),
    /** T-117, T-118. */
    mode: leaf
      .choice(["nat", "isolated"], "a network mode")
      .optional()
      .describe(
        "nat (default): guests reach out through the host. isolated: guests reach each other and the host only.",
      ),
    /** Without it every VM needs an address. */
    dhcp: leaf
      .bool()
      .optional()
      .describe("Whether the host hands out addresses. Default true; with false every VM on it needs network.address."),
    /** DNS domain. */
    domain: leaf
      .word(
        /^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/,
        "a domain",
        "a DNS domain in lower case, such as lan.example",
      )
      .optional()
      .describe("DNS domain of the guests. Default none."),
    /** 15 characters at most. */
    bridge: leaf
      .word(text.INTERFACE_PATTERN, "the name of a bridge", text.INTERFACE_ALLOWED)
      .optional()
      .describe("Name for the host's bridge of this network. Default: libvirt chooses, such as virbr1."),
    /** Use an existing network. */
    create: leaf
      .bool()
      .optional()
      .describe(
        "Whether the network is made, and removed, by this stack. Default true; false uses an existing libvirt network.",
      ),
    /** libvirt's name. */
    name: leaf
      .word(
        /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$/,
        "the name of a libvirt network",
        "up to 100 letters, digits, dots, _ and -",
      )
      .optional()
      .describe("libvirt's name of the network. Default <project>-<stack>-<name>, with create: false the name itself."),
  },
  "subnet, mode, dhcp and so on",
);

const rollout = leaf.keys(
  {
    ...policyShape,
    /** G-8, G-9. */
    gateTimeout: leaf
      .duration()
      .optional()
      .describe(
        "How long to wait for a VM to say that it is healthy; then the rollout stops. Default 5m under KVM, 15m under TCG.",
      ),
    /** T-39, G-9. */
    stopTimeout: leaf
      .duration()
      .optional()
      .describe("How long a clean stop may take before the power is cut. Default 2m under KVM, 6m under TCG."),
    /** T-39. */
    timeLimit: leaf
      .duration()
      .optional()
      .describe(
        "How long one run may go on to restart VMs for a change; what is left then waits for the next run. Default: no limit.",
      ),
    /** T-47. */
    goBack: leaf
      .bool()
      .optional()
      .describe(
        "Whether a VM that does not get healthy on a new image is brought back to its former one. Default true; the rollout stops either way.",
      ),
    /** T-48, T-49. */
    keepImages: leaf
      .whole(0, 100, "a number of images")
      .optional()
      .describe(
        "How many former images stay on the hosts, so that images.<name>.digest can go back to one at once. Default 0.",
      ),
    /** T-47, T-53. Refused without snapshots of every persistent volume, and with goBack: false. */
    restoreDataOnRollback: leaf
      .bool()
      .optional()
      .describe(
        "Whether a VM that is brought back gets its data of before the upgrade too; what the failed image wrote is then kept in a snapshot. Default false: the data stays as it is. Needs persist.snapshots, and goBack.",
      ),
    /** T-47. */
    retry: leaf
      .list(
        leaf.word(/^[0-9a-f]{12,64}$/, "a digest", "12 to 64 lower-case hex digits, as the refusal names them"),
        "digests of images",
      )
      .optional()
      .describe("Images that failed and may be tried again, by the digest that the refusal names. Default none."),
  },
  `${POLICY_KEYS}, gateTimeout, stopTimeout, timeLimit, goBack, keepImages, restoreDataOnRollback and retry`,
);

const group = leaf.keys(
  {
    /** Part 5. */
    count: leaf.whole(0, 1000, "a number of VMs").describe("Number of members: <group>-1, <group>-2 and so on."),
    /** Field by field over that of the fleet. */
    rollout: groupRollout
      .optional()
      .describe(
        "How changes go through this group, where that differs from nixvm:rollout. It is then rolled out by itself.",
      ),
    /** G-2. A member that is not there is refused. */
    members: leaf
      .numbered(vmSchema.nullable(), "fields of a VM")
      .optional()
      .describe("Fields of single members where they differ from the group, by number: 2 is <group>-2."),
    ...vmShape,
  },
  "count, rollout, members and fields of a VM",
);

/** The sections of the config, without the namespace `nixvm`. Nothing after the colon is the same as an empty section. */
export const configShape = {
  /** T-1. Default: one host called `local`. */
  hosts: leaf
    .named(host.nullable(), "libvirt hosts")
    .nullish()
    .describe("libvirt hosts by name. Default: one host, local."),
  /** T-5, T-49. */
  images: leaf
    .named(image, "images")
    .nullish()
    .describe("Base images by name. VMs name them; a changed entry upgrades all its VMs."),
  /** T-117. */
  networks: leaf
    .named(networkEntry, "networks")
    .nullish()
    .describe("libvirt networks by name. VMs name them in network.network."),
  /** G-2. Lowest layer but the preset. */
  defaults: vmSchema
    .nullish()
    .describe(
      "Fields that hold for every VM unless its own entry or its group says otherwise. They win over the preset.",
    ),
  /** G-2. Paths in messages read fleet.<name>.<field>. */
  fleet: leaf
    .named(vmSchema.nullable(), "VMs")
    .nullish()
    .describe("The VMs by name. Adding an entry adds a VM, removing it removes the VM; others are untouched."),
  /** Part 5. */
  groups: leaf.named(group, "groups of VMs").nullish().describe("Groups of equal VMs by name."),
  /** Part 6, D4. */
  rollout: rollout.nullish().describe("How changes go through the fleet."),
};

export const configSchema = leaf.keys(configShape, Object.keys(configShape).join(", "));

/** The config of a stack as written, without the namespace. */
export type Config = z.infer<typeof configSchema>;
/** A host as written. */
export type HostConfig = z.infer<typeof host>;
/** An image as written. */
export type ImageConfig = z.infer<typeof image>;
/** A network as written. */
export type NetworkConfig = z.infer<typeof networkEntry>;
