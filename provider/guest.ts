import * as pulumi from "@pulumi/pulumi";
import type { Check } from "./checkScript";
import type { RolloutInput } from "./admit";

/**
 * What a Guest is to become and how to reach it. `libvirt.Domain` makes the chassis before: disks that stay, network card,
 * firmware. What an upgrade changes is here, so that it is one update that can be undone.
 */
export interface GuestArgs {
  /** libvirt URI of the host, such as `qemu:///system`. With a `test:` URI nothing is waited for: that driver has no guests. */
  uri: pulumi.Input<string>;
  /** Name of the VM as the stack file has it; every message begins with it. */
  vm: pulumi.Input<string>;
  /** Name of the domain in libvirt. A change restarts the VM. Used in messages; the domain is always addressed by `uuid`. */
  domain: pulumi.Input<string>;
  /** UUID of the domain, lower case. A domain that has the name but another UUID is never touched. A change restarts the VM. */
  uuid: pulumi.Input<string>;
  /**
   * `libvirt.Domain.id`. It ties this resource to its domain: when the domain is replaced, the guest is stopped cleanly
   * first and waited for afterwards (design D4).
   */
  domainId: pulumi.Input<string>;
  /**
   * Image id that the guest must report. If unset, any image passes. The gate fails at once with `runs image "...",
   * wanted "..."` when the guest reports another one (G-8).
   */
  imageId?: pulumi.Input<string>;
  /** sha256 of the image file. A change restarts the VM, and the preview says from which image to which. */
  imageDigest: pulumi.Input<string>;
  /** Path of the overlay on the host that the VM boots from. A change restarts the VM: clean stop, new overlay, start. */
  overlayPath: pulumi.Input<string>;
  /** Memory in MiB. A change within the maximum is made live; any other restarts the VM. */
  memoryMiB: pulumi.Input<number>;
  /**
   * What memory can grow to while the VM runs, in MiB. Gives it a balloon device. If unset, memory is fixed. A change restarts the VM.
   */
  memoryMaximumMiB?: pulumi.Input<number>;
  /** Number of virtual CPUs. More of them within the maximum are given live; any other change restarts the VM. */
  vcpus: pulumi.Input<number>;
  /** What the number of virtual CPUs can grow to while the VM runs. If unset, it is fixed. A change restarts the VM. */
  vcpusMaximum?: pulumi.Input<number>;
  /** The network in one line, such as `user:2222` or `nat:default`. A change restarts the VM, unless `nic` says it all before and after. */
  network: pulumi.Input<string>;
  /**
   * The network card, on a bridge of the host or a libvirt network. Another bridge or network is changed live: the guest sees its
   * cable pulled and put in again. Another MAC address restarts the VM. If unset, the card is part of the domain (user-mode networking).
   */
  nic?: pulumi.Input<{
    type: "bridge" | "network";
    source: pulumi.Input<string>;
    mac: pulumi.Input<string>;
  }>;
  /**
   * The VM's fixed address on the libvirt network of `nic`: its DHCP server gives it to nobody else, its DNS server knows it by these
   * names, the first one without a dot. `of` ties it to a network that may be made anew under its name. A change is live, no restart.
   * If unset, the network has no entries for the VM.
   */
  lease?: pulumi.Input<{ address: string; names: string[]; of?: pulumi.Input<string> }>;
  /**
   * What the VM may send to private networks, kept up by a filter of the host on its card: nothing but to `allow` (CIDR), to name
   * servers `dns` (port 53), and to DHCP servers, or `dhcp` alone. A change is live, no restart. If unset, all. Needs `nic`.
   */
  egress?: pulumi.Input<{ allow: string[]; dns: string[]; dhcp?: string }>;
  /** How the guest is run. A change restarts the VM. */
  accelerator: pulumi.Input<"kvm" | "tcg">;
  /**
   * sha256 of the seed (user-data, NUL, meta-data, NUL, network-config). A change is applied to the running guest, no
   * restart. If unset, the seed is not checked.
   */
  seedDigest?: pulumi.Input<string>;
  /** Path of the seed's ISO image on the host. A running guest that has another seed gets this file into its drive. */
  seedPath?: pulumi.Input<string>;
  /** Whether the medium leaves the drive as soon as the guest is healthy, without a restart. libvirt puts it back for the next start. */
  ejectSeed?: pulumi.Input<boolean>;
  /** Path of the persistent disk on the host. If unset, the VM has none that could grow. */
  persistPath?: pulumi.Input<string>;
  /**
   * Size of the persistent disk in bytes. A larger one grows disk and file system in place, live; a smaller one is
   * refused at preview: `persist.size: cannot shrink from 2 GiB to 1 GiB; allowed: 2 GiB or more` (T-62).
   */
  persistBytes?: pulumi.Input<number>;
  /** Whether the VM is to run. `false` stops it cleanly; `true` starts it when it is off and waits until it is healthy. */
  running: pulumi.Input<boolean>;
  /**
   * What the guest must show to pass. `nixvm`: its status record says healthy. `none` (any cloud image): its agent
   * answers and nothing is left to start; seed and file system are then not looked at.
   */
  contract: pulumi.Input<"nixvm" | "none">;
  /** Seconds a clean stop may take before the VM is powered off, with a warning. `customTimeouts.delete` can only shorten it. */
  stopTimeoutSeconds: pulumi.Input<number>;
  /** Path of the serial log on this machine; its last 40 lines are shown when the gate fails. If unset, none are. */
  consoleLog?: pulumi.Input<string>;
  /**
   * Health checks, carried out inside the guest when it has said itself that it is healthy; each is tried again until it passes or
   * its `withinSeconds` are over. Default none. A change of them alone restarts nothing: they are asked again.
   */
  checks?: pulumi.Input<Check[]>;
  /**
   * Whether a VM that does not get healthy on a new image is brought back to the overlay it was last healthy on. Default false. The
   * step fails all the same, and the image is quarantined.
   */
  goBack?: pulumi.Input<boolean>;
  /** Whether an image that is quarantined for this VM may be tried again. Default false: a preview with it is refused. */
  retry?: pulumi.Input<boolean>;
  /**
   * How many snapshots of the persistent disk are kept in it. One is taken before each change of the image, while the VM is off; the
   * oldest of ours beyond this number are then deleted. Default 0: none is taken, and those there stay. No change of the VM by itself.
   */
  snapshots?: pulumi.Input<number>;
  /**
   * Whether a VM that is brought back gets its data of before the upgrade too. What was written since is kept in a snapshot. Default
   * false: the data stays as it is. No change of the VM by itself.
   */
  restoreData?: pulumi.Input<boolean>;
  /**
   * What has to hold before a VM that runs is stopped for a change: not paused, a window open, and the VMs of the wave before healthy
   * for the soak since their boot. What does not hold ends the step, with nothing changed. If unset, it is stopped at once.
   */
  rollout?: pulumi.Input<RolloutInput>;
}

/**
 * The life of a guest: a gate that opens when the guest itself says that it is well, a clean stop, and what it really
 * runs. Time limit of the gate: `customTimeouts.create` and `.update`, 10 minutes if unset.
 */
export class Guest extends pulumi.CustomResource {
  /** State of the domain as libvirt has it: `running`, `shut off`, ... */
  declare public readonly state: pulumi.Output<string>;
  /** Whether the guest said that it is well; unset while it is meant to be off. */
  declare public readonly healthy: pulumi.Output<boolean | undefined>;
  /** Id of the image that the guest runs. */
  declare public readonly imageId: pulumi.Output<string | undefined>;
  /** Version of that image, for people. */
  declare public readonly imageVersion: pulumi.Output<string | undefined>;
  /** The kernel's id of this boot: another one means that the guest was restarted. */
  declare public readonly bootId: pulumi.Output<string | undefined>;
  /** Start of this boot, ISO 8601 in UTC. */
  declare public readonly bootedAt: pulumi.Output<string | undefined>;
  /** `/etc/machine-id` of the guest. */
  declare public readonly machineId: pulumi.Output<string | undefined>;
  /** The guest's public SSH host key. */
  declare public readonly sshHostKey: pulumi.Output<string | undefined>;
  /** First IPv4 address that is not a loopback one (T-58). With user-mode networking it is of no use from outside. */
  declare public readonly ip: pulumi.Output<string | undefined>;
  /** Bytes of the file system on the persistent disk as the guest reports them. */
  declare public readonly persistBytes: pulumi.Output<number | undefined>;
  /** Names of our snapshots in the persistent disk, oldest first; unset where none are asked for. */
  declare public readonly dataSnapshots: pulumi.Output<string[] | undefined>;

  constructor(name: string, args: GuestArgs, opts?: pulumi.CustomResourceOptions) {
    // Outputs must be named here for the SDK to make properties of them.
    const outputs = {
      state: undefined,
      healthy: undefined,
      imageVersion: undefined,
      bootId: undefined,
      bootedAt: undefined,
      machineId: undefined,
      sshHostKey: undefined,
      ip: undefined,
      dataSnapshots: undefined,
    };
    super("nixvm:index:Guest", name, { imageId: undefined, persistBytes: undefined, ...outputs, ...args }, opts);
  }
}
