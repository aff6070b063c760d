import type { AllowlistConfig } from "./model-allowlist";
import type { Preset, RootMode, Store } from "./model-vm";
import { GIB } from "./size";

/** An account that a preset makes. Keys come from the stack file. */
export interface PresetAccount {
  readonly name: string;
  readonly role: "admin" | "user";
}

/** What a preset fills in; every field can be overridden as far as validate.ts allows the result (8.2, 8.4). */
export interface PresetDefaults {
  /** C-1. */
  readonly rootMode: RootMode;
  /** C-4; the size is bytes, `null` the kernel's half of the memory. */
  readonly home: { readonly mode: "persistent" } | { readonly mode: "tmpfs"; readonly sizeBytes: number | null };
  /** Whether there is a persistent volume when the stack file says nothing. */
  readonly persist: boolean;
  /** Mount point of the persistent volume, if there is one. */
  readonly mount: "/var" | "/persist";
  /** Its file system. */
  readonly fs: "ext4" | "zfs";
  /** C-7. */
  readonly store: Store;
  /** C-16, C-17. */
  readonly accounts: readonly PresetAccount[];
  /** Entries of `users` are for every account of the VM, whatever its name. */
  readonly allowlist: AllowlistConfig;
  /** C-20. */
  readonly update: "image" | "pull";
  /** Bytes of memory. T: the seed's sample has 2048 MiB; V: 4096; P: twice its 4 GiB home; E: below 8.4's limits. */
  readonly memoryBytes: number;
  /** Virtual CPUs: 2 in all seeds that name a number for a default. */
  readonly vcpus: number;
}

/** Size of a persistent volume when the stack file gives none: thin, so that only written blocks take space. */
export const DEFAULT_PERSIST_BYTES = 10 * GIB;

const admin: PresetAccount = { name: "admin", role: "admin" };
const user: PresetAccount = { name: "user", role: "user" };
/** V-4. */
const zvm: PresetAccount = { name: "zvm", role: "user" };

/**
 * V-13 to V-20: the seven paths that the zvm document keeps, and no other. Three of them (host keys, machine id, password
 * hash) are kept with the VM's identity, so no seed names them (C-13).
 */
export const ZVM_ALLOWLIST = {
  directories: ["/etc/ssh", "/var/lib/nixos", "/var/lib/netbird", "/var/log"],
  files: ["/etc/machine-id", "/persist/passwords/zvm"],
  users: { zvm: { directories: [".config/netbird"] } },
} satisfies AllowlistConfig;

/** P-14, P-15, P-36: two folders; shell history, tokens and whatever else a home collects are not kept. */
const WORKBENCH_ALLOWLIST = {
  users: { user: { directories: ["Documents", { directory: ".ssh", mode: "0700" }] } },
} satisfies AllowlistConfig;

/** Section 8.2, one entry for each seed document. */
export const PRESET_DEFAULTS: Readonly<Record<Preset, PresetDefaults>> = {
  template: {
    rootMode: "readonly",
    home: { mode: "persistent" },
    persist: true,
    mount: "/var",
    fs: "ext4",
    store: "image",
    accounts: [admin, user],
    allowlist: {},
    update: "image",
    memoryBytes: 2 * GIB,
    vcpus: 2,
  },
  zvm: {
    rootMode: "tmpfs",
    home: { mode: "tmpfs", sizeBytes: null },
    persist: true,
    mount: "/persist",
    fs: "ext4",
    store: "partition",
    accounts: [zvm],
    allowlist: ZVM_ALLOWLIST,
    update: "pull",
    memoryBytes: 4 * GIB,
    vcpus: 2,
  },
  rollback: {
    rootMode: "zfs-rollback",
    home: { mode: "persistent" },
    persist: true,
    mount: "/persist",
    fs: "zfs",
    store: "dataset",
    accounts: [admin],
    allowlist: {},
    update: "image",
    memoryBytes: 4 * GIB,
    vcpus: 2,
  },
  workbench: {
    rootMode: "persistent",
    home: { mode: "tmpfs", sizeBytes: 4 * GIB },
    persist: true,
    mount: "/persist",
    fs: "ext4",
    store: "image",
    accounts: [user],
    allowlist: WORKBENCH_ALLOWLIST,
    update: "image",
    memoryBytes: 8 * GIB,
    vcpus: 2,
  },
  sealed: {
    rootMode: "tmpfs",
    home: { mode: "tmpfs", sizeBytes: null },
    persist: false,
    mount: "/persist",
    fs: "ext4",
    store: "overlay",
    accounts: [user],
    allowlist: {},
    update: "image",
    memoryBytes: 4 * GIB,
    vcpus: 2,
  },
};
