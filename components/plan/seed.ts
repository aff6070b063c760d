import { createHash } from "node:crypto";
import type { HostKey } from "./hostkey";
import type { Identity } from "./identity";
import type { AccountPlan, VmPlan } from "./types";

/** The three files of a NoCloud seed (D5). `userData` is a secret: it carries hashes and maybe a host key. */
export interface SeedFiles {
  /** `#cloud-config` and one JSON object, which is YAML too. */
  readonly userData: string;
  /** JSON with instance-id and host name. */
  readonly metaData: string;
  /** JSON of netplan, version 2; finds the NIC by its MAC address. */
  readonly networkConfig: string;
}

/** The parts of a VM that its seed depends on. Image and shape are not among them (G-10). */
export type SeedVm = Pick<
  VmPlan,
  | "hostname"
  | "rootMode"
  | "rootSizeBytes"
  | "home"
  | "persist"
  | "scratch"
  | "allowlist"
  | "accounts"
  | "rootPasswordHash"
  | "tcpPorts"
  | "udpPorts"
  | "dns"
  | "hostsFile"
  | "network"
  | "update"
  | "identity"
>;

/** Version of the guest contract that the seed is written in (design section 4). */
const CONTRACT = 1;

/**
 * Writes the seed of a VM. The same input gives the same bytes, and keys have a fixed order, so that the digest changes
 * only when the guest would (G-10). Keys that one system alone needs are there only when it is chosen.
 *
 * @param hostKey the SSH host key when the stack holds it (`identity.sshHostKey: stack`).
 * @throws when the VM wants a host key held by the stack and none is given.
 */
export function seedFiles(vm: SeedVm, identity: Identity, hostKey?: HostKey): SeedFiles {
  const { directories, files } = vm.allowlist;
  const held = vm.identity.sshHostKey === "stack" ? hostKey : undefined;
  if (vm.identity.sshHostKey === "stack" && held === undefined) {
    throw new Error(`seed of ${vm.hostname}: identity.sshHostKey is stack, so a host key has to be given`);
  }
  const userData = {
    hostname: vm.hostname,
    users: vm.accounts.map(cloudUser),
    ssh_pwauth: false,
    // For stock cloud images; ours reads the key below.
    ...(held === undefined ? {} : { ssh_keys: { ed25519_private: held.privateKey, ed25519_public: held.publicKey } }),
    nixvm: {
      contract: CONTRACT,
      rootMode: vm.rootMode,
      ...(vm.rootSizeBytes === null ? {} : { rootSizeBytes: vm.rootSizeBytes }),
      ...(vm.home.mode === "tmpfs" ? { home: { mode: "tmpfs", sizeBytes: vm.home.sizeBytes } } : {}),
      persist: vm.persist === null ? null : { mount: vm.persist.mount, fs: vm.persist.fs, label: vm.persist.label },
      ...(vm.scratch === null ? {} : { scratch: { nixOverlay: vm.scratch.nixOverlay } }),
      identity: {
        machineId: identity.machineId,
        ...(vm.rootMode === "zfs-rollback" ? { hostId: identity.hostId } : {}),
        ...(held === undefined ? {} : { sshHostKey: held.privateKey }),
      },
      accounts: vm.accounts.map(({ name, role, authorizedKeys, passwordHash }) => ({
        name,
        role,
        authorizedKeys,
        passwordHash,
      })),
      rootPasswordHash: vm.rootPasswordHash,
      tcpPorts: vm.tcpPorts,
      udpPorts: vm.udpPorts,
      dns: vm.dns,
      ...(vm.hostsFile.length === 0 ? {} : { hosts: vm.hostsFile }),
      ...(directories.length + files.length === 0 ? {} : { allowlist: { directories, files } }),
      ...(vm.update.mode === "pull"
        ? { update: { mode: "pull", flake: vm.update.flake, everySeconds: vm.update.everySeconds } }
        : {}),
    },
  };
  return {
    userData: `#cloud-config\n${JSON.stringify(userData, null, 2)}\n`,
    metaData: `${JSON.stringify({ "instance-id": identity.uuid, "local-hostname": vm.hostname })}\n`,
    networkConfig: `${JSON.stringify(networkConfig(vm, identity))}\n`,
  };
}

/** What changes when the seed does: SHA-256 of the three files with NUL between them; the guest reports the same. */
export function seedDigest(files: SeedFiles): string {
  return createHash("sha256").update([files.userData, files.metaData, files.networkConfig].join("\0")).digest("hex");
}

function cloudUser(account: AccountPlan): Record<string, unknown> {
  const { name, role, authorizedKeys, passwordHash } = account;
  return {
    name,
    ...(role === "admin" ? { groups: ["sudo"], sudo: "ALL=(ALL) NOPASSWD:ALL" } : {}),
    shell: "/bin/bash",
    lock_passwd: passwordHash === null,
    ...(passwordHash === null ? {} : { passwd: passwordHash }),
    ssh_authorized_keys: authorizedKeys,
  };
}

function networkConfig(vm: SeedVm, identity: Identity): Record<string, unknown> {
  const address = vm.network.mode === "nat" ? vm.network.address : null;
  const match = { macaddress: identity.mac };
  if (address === null) return { version: 2, ethernets: { nic0: { match, dhcp4: true } } };
  const nic = {
    match,
    addresses: [`${address.ip}/${address.prefixLength}`],
    ...(address.gateway === null ? {} : { routes: [{ to: "default", via: address.gateway }] }),
    ...(vm.dns.length === 0 ? {} : { nameservers: { addresses: vm.dns } }),
  };
  return { version: 2, ethernets: { nic0: nic } };
}
