import type { Problem } from "./errors";
import type { Preset, RootMode, Store } from "./model-vm";
import type { Window } from "./windows";

/** What the program knows besides the stack file. All of it is plain data; facts that are not known are left out. */
export interface PlanContext {
  /** Pulumi project name; begins every name in libvirt. */
  readonly project: string;
  /** Pulumi stack name; second part of the prefix. */
  readonly stack: string;
  /** Defaults that setup found on this machine (D8). */
  readonly defaults?: {
    /** libvirt URI of hosts that name none. Default `qemu:///system`. */
    readonly uri?: string;
    /** Accelerator of hosts that name none; from a probe VM, never guessed (G-7). Default `kvm`. */
    readonly accelerator?: Accelerator;
    /** Folder under which managed pools are made. Without it a pool's path has to be written. */
    readonly poolRoot?: string;
    /** Folder of serial console logs. Default `/var/log/libvirt/qemu`. */
    readonly consoleDir?: string;
    /** Network mode of VMs that name none: `user` with the embedded libvirt (D8). Default `nat` (T-36). */
    readonly network?: "nat" | "user";
  };
  /** What is known about images, by their name in the stack file, from the sidecar files. */
  readonly images?: Readonly<Record<string, ImageFacts>>;
  /** What is known about hosts, by their name in the stack file. */
  readonly hosts?: Readonly<Record<string, HostFacts>>;
  /**
   * What is known about VMs that are there, by name: needed to refuse shrinking before anything is registered (T-62), and to tell
   * VMs that are new or change from the others. Left out: nobody has looked, so all are taken for VMs that are there.
   */
  readonly current?: Readonly<Record<string, CurrentVm>>;
}

/** How guests run (G-7): with the processor's help, or emulated. */
export type Accelerator = "kvm" | "tcg";

/** Facts of an image: its digest, and the content of the JSON file beside it. */
export interface ImageFacts {
  /** SHA-256 of its content. */
  readonly digest?: string;
  /** What the guest will report. */
  readonly id?: string;
  /** Version, for display. */
  readonly version?: string;
  /** Disk format, where it is known without the file. */
  readonly format?: "qcow2" | "raw";
  /** Version of the guest contract; one that this program does not speak is refused. */
  readonly contract?: number;
  /** Root modes that the image can do; others are refused (8.4). */
  readonly rootModes?: readonly string[];
}

/** Facts of a host. */
export interface HostFacts {
  /** Bridges that the host has; a bridge that is not among them is refused (T-120). */
  readonly bridges?: readonly string[];
}

/** Facts of a VM that exists. */
export interface CurrentVm {
  /** Bytes of its persistent volume. */
  readonly persistBytes?: number;
  /** Generation of that volume; a raised one may be smaller. Default 0. */
  readonly generation?: number;
  /** First 12 hex digits of the digest of the image that it boots from; left out when that is none of ours. */
  readonly imageDigest?: string;
  /** Whether it is on. Left out: taken for on. */
  readonly running?: boolean;
  /** Whether it is healthy; only `false` means something. Left out: nobody has asked it. */
  readonly healthy?: boolean;
}

/** UEFI files (T-13). */
export interface FirmwarePlan {
  readonly loader: string;
  readonly nvramTemplate: string;
}

/** A libvirt host. Every configured host is planned, also without VMs: retained volumes keep its pool. */
export interface HostPlan {
  /** Name in the stack file. */
  readonly name: string;
  /** libvirt connection. */
  readonly uri: string;
  readonly accelerator: Accelerator;
  /** Pool for all disks; `create: false` means that it is there already and is never removed. */
  readonly pool: { readonly name: string; readonly path: string; readonly create: boolean };
  /** Folder of serial console logs; the log of a VM is `consoleLogPath(consoleDir, domainName)`. */
  readonly consoleDir: string;
  /** `null`: libvirt chooses UEFI without secure boot. */
  readonly firmware: FirmwarePlan | null;
}

/** A base image on a host: one for each pair that at least one VM uses (T-5). */
export interface ImagePlan {
  /** `<host>/<image>`, unique in the plan. */
  readonly key: string;
  /** Name in the stack file. */
  readonly name: string;
  /** Name of the host. */
  readonly host: string;
  /** File as written, relative to the project's folder or absolute; `null` without one, as for an image that is on the hosts already. */
  readonly path: string | null;
  /** Address; `null` without one. */
  readonly url: string | null;
  /** Wanted SHA-256 of the file or download as it is (packed if it is packed); `null` when none was given. */
  readonly sha256: string | null;
  /** Format inside the packing. */
  readonly format: "qcow2" | "raw";
  /** Packing, by the name's ending `.zst`. */
  readonly packed: "zstd" | null;
  /** Image id that guests have to report: from the stack file, else from the facts, else `null` (not known yet). */
  readonly id: string | null;
}

/** A libvirt network that the stack file names. */
export interface NetworkPlan {
  /** Name in the stack file. */
  readonly name: string;
  /** Name of the host. */
  readonly host: string;
  /** libvirt's name. */
  readonly libvirtName: string;
  /** Whether we make it; `false`: it exists, and is never changed or removed. */
  readonly create: boolean;
  readonly mode: "nat" | "isolated";
  /** CIDR, gateway and usable addresses; `null` for an existing network of which nothing was said. */
  readonly subnet: { readonly cidr: string; readonly prefixLength: number; readonly gateway: string } | null;
  readonly dhcp: boolean;
  readonly domain: string | null;
  /** Bridge name; `null`: libvirt chooses. */
  readonly bridge: string | null;
}

/** How a VM's NIC is connected. `mac` is the address asked for; `null`: that of the derived identity. */
export type Attachment =
  | {
      readonly mode: "nat";
      /** libvirt's name of the network. */
      readonly network: string;
      /** Key in `plan.networks`; `null` for libvirt's own `default`. */
      readonly entry: string | null;
      /** Fixed address; `null`: DHCP. `gateway` is `null` on an isolated network. */
      readonly address: { readonly ip: string; readonly prefixLength: number; readonly gateway: string | null } | null;
      readonly mac: string | null;
    }
  | { readonly mode: "bridge"; readonly bridge: string; readonly mac: string | null }
  | { readonly mode: "user"; readonly sshPort: number; readonly mac: string | null };

/** A line of `/etc/hosts`. */
export interface HostsLine {
  readonly address: string;
  readonly names: readonly string[];
}

/** All that a VM may send to private networks. */
export interface EgressPlan {
  /** CIDR, sorted, without repetition. */
  readonly allow: readonly string[];
  /** Name servers it may ask: those of its guest, and the host's on a libvirt network. */
  readonly dns: readonly string[];
  /** Its DHCP server, where that is known. */
  readonly dhcp: string | null;
}

/** An account in the guest (C-16). */
export interface AccountPlan {
  readonly name: string;
  readonly role: "admin" | "user";
  readonly authorizedKeys: readonly string[];
  /** Secret. `null`: locked (T-112). */
  readonly passwordHash: string | null;
}

/** The persistent volume of a VM (T-4, T-53). */
export interface PersistPlan {
  readonly sizeBytes: number;
  readonly mount: "/var" | "/persist";
  readonly fs: "ext4" | "zfs";
  readonly label: string;
  readonly protect: boolean;
  readonly retain: boolean;
  /** How many snapshots of it are kept; 0: none is taken. */
  readonly snapshots: number;
  /** Name of the volume in the pool; changes only with the generation (T-50). */
  readonly volumeName: string;
}

/** A path that outlives a restart although the file system around it does not (C-12). */
export interface AllowlistEntry {
  /** Absolute, without a slash at its end. */
  readonly path: string;
  readonly user: string;
  readonly group: string;
  /** Four octal digits. Set at every start (P-30). */
  readonly mode: string;
  readonly how: "bindmount" | "symlink";
  /** P-32. */
  readonly inInitrd: boolean;
}

/** What the guest brings in from its persistent volume. Each list is sorted by path: parents come first. */
export interface AllowlistPlan {
  readonly directories: readonly AllowlistEntry[];
  readonly files: readonly AllowlistEntry[];
}

/** What is asked in a guest besides its own word, with every default filled in. */
export type HealthCheck = {
  readonly name: string;
  /** Of one try. */
  readonly timeoutSeconds: number;
  /** Until it has to pass, from when the guest itself says that it is healthy. */
  readonly withinSeconds: number;
} & (
  | { readonly kind: "command"; readonly command: string }
  | { readonly kind: "tcp"; readonly address: string; readonly port: number }
  | {
      readonly kind: "http";
      readonly address: string;
      readonly port: number;
      readonly path: string;
      /** Absent: any from 200 to 399. */
      readonly status?: number;
      /** Absent: any answer will do. */
      readonly contains?: string;
    }
);

/**
 * One VM, with every default filled in. Depends on its own entry, its group and `defaults` only, but for `after`, `rollout` and the
 * names of other VMs in `hostsFile`.
 */
export interface VmPlan {
  readonly name: string;
  /** Group it is a member of, or `null`. */
  readonly group: string | null;
  readonly host: string;
  /** Name of the image in the stack file. */
  readonly image: string;
  /** Key in `plan.images`. */
  readonly imageKey: string;
  readonly preset: Preset;
  readonly rootMode: RootMode;
  /** Limit of a root in memory; `null`: the kernel's half of the memory, or another root mode. */
  readonly rootSizeBytes: number | null;
  /** `sizeBytes: null`: the kernel's half of the memory. */
  readonly home: { readonly mode: "persistent" } | { readonly mode: "tmpfs"; readonly sizeBytes: number | null };
  readonly store: Store;
  readonly persist: PersistPlan | null;
  readonly scratch: { readonly sizeBytes: number; readonly nixOverlay: boolean; readonly volumeName: string } | null;
  /**
   * Preset's and stack file's entries, by path. Without those that are kept in another way: the SSH host key, machine id and
   * password hashes by identity (C-13), the rest of a kept /home or of the persistent volume's own mount point.
   */
  readonly allowlist: AllowlistPlan;
  readonly hostname: string;
  readonly memoryBytes: number;
  /** `memoryBytes` in MiB, always whole (T-33): the unit of the libvirt provider. */
  readonly memoryMiB: number;
  /** What it can grow to live; `null`: fixed. */
  readonly memoryMaximumMiB: number | null;
  readonly vcpus: number;
  /** What they can grow to live; `null`: fixed. */
  readonly vcpusMaximum: number | null;
  readonly running: boolean;
  readonly network: Attachment;
  readonly accounts: readonly AccountPlan[];
  /** Secret. `null`: locked (T-104). */
  readonly rootPasswordHash: string | null;
  /** Sorted, without repetition. */
  readonly tcpPorts: readonly number[];
  readonly udpPorts: readonly number[];
  readonly dns: readonly string[];
  /** Lines of its own, sorted by address, and then those of other VMs with a fixed address on its network, if it wants them. */
  readonly hostsFile: readonly HostsLine[];
  /** What it may send to private networks; `null`: all. */
  readonly egress: EgressPlan | null;
  /** The medium with the seed leaves the drive once the VM is healthy. */
  readonly ejectSeed: boolean;
  /** Overrides for `identityOf`; `null`: derived. */
  readonly identity: {
    readonly uuid: string | null;
    readonly machineId: string | null;
    readonly mac: string | null;
    readonly sshHostKey: "guest" | "stack";
  };
  readonly generation: number;
  /** The VM's own, else the host's, else `null`. */
  readonly firmware: FirmwarePlan | null;
  readonly cpuModel: string | null;
  readonly update:
    | { readonly mode: "image" }
    | { readonly mode: "pull"; readonly flake: string | null; readonly everySeconds: number };
  /** Sorted by name. */
  readonly health: readonly HealthCheck[];
  /** Scaled by the accelerator unless written (G-9). */
  readonly gateTimeoutSeconds: number;
  readonly stopTimeoutSeconds: number;
  /** Back to the former image when a new one fails. */
  readonly goBack: boolean;
  /** Its data goes back with it. */
  readonly restoreData: boolean;
  /** First 12 digits of the digests of images that may be tried again. */
  readonly retry: readonly string[];
  /** libvirt's name of the domain. */
  readonly domainName: string;
  /** VMs that have to be done before this one is touched (D4): one of its own wave, or the last ones of the wave before. */
  readonly after: readonly string[];
  /** What it has to see to before it restarts for a change; `null` when it is new, or off. */
  readonly rollout: RolloutContext | null;
}

/** A number of VMs, or a part of those that are there, such as "25%". */
export type Amount = number | string;

/** How VMs that are there are changed, with every default filled in. */
export interface RolloutPolicy {
  /** Whether a group has one of its own. */
  readonly own: boolean;
  readonly canary: Amount;
  /** Sizes; the last one repeats. Never empty. */
  readonly batches: readonly Amount[];
  readonly maxUnavailable: Amount;
  /** Names of VMs and groups. */
  readonly order: readonly string[];
  /** 0: no longer than until they are healthy. */
  readonly soakSeconds: number;
  /** None: at any time. */
  readonly windows: readonly Window[];
  readonly pause: boolean;
  /** Of the whole rollout; `null`: none. */
  readonly timeLimitSeconds: number | null;
}

/** Why VMs are changed together. `unhealthy`: they were that before anything was changed. */
export type WaveKind = "new" | "canary" | "batch" | "unhealthy";

/** VMs that are done before the next wave begins, at most `lanes` of them at a time. */
export interface Wave {
  readonly kind: WaveKind;
  /** Group whose policy it follows; `null`: the fleet's. */
  readonly group: string | null;
  /** Whether the image of its VMs changes, as far as that is known. */
  readonly changes: boolean;
  readonly vms: readonly string[];
  readonly lanes: number;
}

/** What a VM has to see to before it restarts for a change. */
export interface RolloutContext {
  /** Number of its wave, from 1, among those that are like it: of VMs whose image changes, or of the others. */
  readonly wave: number;
  readonly waves: number;
  readonly kind: WaveKind;
  /** VMs that must have been healthy for `soakSeconds`: those of the wave before. None when there is nothing to wait for. */
  readonly before: readonly { readonly vm: string; readonly domain: string; readonly uri: string }[];
  readonly soakSeconds: number;
  readonly windows: readonly Window[];
  readonly pause: boolean;
  /** How long a run may go on to restart VMs; absent: no limit. */
  readonly timeLimitSeconds?: number;
}

/** Everything that can be known before a resource is made. Plain data. */
export interface Plan {
  /** `<project>-<stack>`. */
  readonly prefix: string;
  /** Sorted by name. */
  readonly hosts: readonly HostPlan[];
  /** Sorted by key; used ones only. */
  readonly images: readonly ImagePlan[];
  /** How many former images stay on the hosts. */
  readonly keepImages: number;
  /** Sorted by name. */
  readonly networks: readonly NetworkPlan[];
  /** In rollout order, which does not depend on the order of the stack file. */
  readonly vms: readonly VmPlan[];
  /** How the rollout goes, first wave first. */
  readonly waves: readonly Wave[];
  /** Allowed, but likely not what was meant (8.4). */
  readonly warnings: readonly Problem[];
}

/** Either a plan, or all mistakes at once. */
export type PlanResult =
  { readonly ok: true; readonly plan: Plan } | { readonly ok: false; readonly problems: readonly Problem[] };
