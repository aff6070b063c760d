import { createHash } from "node:crypto";
import { mergedEntries, planAllowlist } from "./allowlist";
import { parseDuration } from "./duration";
import { planHealth } from "./health";
import type { LayeredVm } from "./layers";
import type { Preset } from "./model-vm";
import { domainName, persistVolumeName, scratchVolumeName } from "./names";
import { parseIpv4 } from "./network";
import { DEFAULT_PERSIST_BYTES, PRESET_DEFAULTS, type PresetDefaults } from "./presets";
import type { Scope } from "./scope";
import { MIB, parseMemory, parseSize } from "./size";
import type { AccountPlan, Attachment, HostPlan, NetworkPlan, PersistPlan, VmPlan } from "./types";

/** Waits under KVM, in seconds; emulation takes about three times as long (G-9). */
const GATE_SECONDS = 300;
const STOP_SECONDS = 120;
const TCG_FACTOR = 3;

const DEFAULT_DNS = ["1.1.1.1", "1.0.0.1"];
const HOUR = 3600;

/** What is planned before VMs, and VMs refer to. */
export interface Surroundings {
  readonly scope: Scope;
  readonly hosts: ReadonlyMap<string, HostPlan>;
  readonly networks: ReadonlyMap<string, NetworkPlan>;
}

/**
 * Fills in every default of one VM. Reports nothing: fields that are missing or wrong get a stand-in, and the checks say
 * what is wrong with them, so that checks of the other fields still work. `after` and `rollout` are left to the rollout order.
 */
export function planVm(vm: LayeredVm, host: string, around: Surroundings): VmPlan {
  const { fields, name } = vm;
  const prefix = around.scope.prefix;
  const preset: Preset = fields.preset ?? "template";
  const defaults = PRESET_DEFAULTS[preset];
  const hostPlan = around.hosts.get(host);
  const factor = hostPlan?.accelerator === "tcg" ? TCG_FACTOR : 1;
  const rollout = around.scope.config.rollout ?? {};
  const memoryBytes = parseMemory(fields.memory) ?? defaults.memoryBytes;
  const generation = fields.generation ?? 0;
  const identity = fields.identity ?? {};
  const home = planHome(vm, defaults);
  const persist = planPersist(vm, defaults, persistVolumeName(prefix, name, generation));
  const accounts = planAccounts(vm, defaults);
  const gateTimeoutSeconds = parseDuration(fields.gateTimeout ?? rollout.gateTimeout) ?? GATE_SECONDS * factor;
  return {
    name,
    group: vm.group,
    host,
    image: fields.image ?? "",
    imageKey: `${host}/${fields.image ?? ""}`,
    preset,
    rootMode: fields.rootMode ?? defaults.rootMode,
    rootSizeBytes: parseSize(fields.rootSize) ?? null,
    home,
    store: fields.store ?? defaults.store,
    persist,
    scratch:
      fields.scratch === undefined || fields.scratch === false
        ? null
        : {
            sizeBytes: parseSize(fields.scratch.size) ?? 0,
            nixOverlay: fields.scratch.nixOverlay ?? false,
            volumeName: scratchVolumeName(prefix, name),
          },
    allowlist: planAllowlist(mergedEntries(fields.allowlist ?? {}, defaults.allowlist, accounts), { persist, home }),
    hostname: fields.hostname ?? name,
    memoryBytes,
    memoryMiB: Math.floor(memoryBytes / MIB),
    memoryMaximumMiB: mebibytes(parseMemory(fields.memoryMaximum)),
    vcpus: fields.vcpus ?? defaults.vcpus,
    vcpusMaximum: fields.vcpusMaximum ?? null,
    running: fields.running ?? true,
    network: attach(vm, host, around),
    accounts,
    rootPasswordHash: fields.rootPasswordHash || null,
    tcpPorts: sorted(fields.tcpPorts ?? [22]),
    udpPorts: sorted(fields.udpPorts ?? []),
    dns: fields.dns ?? DEFAULT_DNS,
    hostsFile: Object.entries(fields.hostsFile?.lines ?? {})
      .map(([address, names]) => ({ address, names }))
      .sort((a, b) => (a.address < b.address ? -1 : 1)),
    egress: planEgress(vm, host, around),
    ejectSeed: fields.seed?.eject ?? false,
    identity: {
      uuid: identity.uuid?.toLowerCase() ?? null,
      machineId: identity.machineId ?? null,
      mac: (identity.mac ?? fields.network?.mac)?.toLowerCase() ?? null,
      sshHostKey: identity.sshHostKey ?? "guest",
    },
    generation,
    firmware: fields.firmware ?? hostPlan?.firmware ?? null,
    cpuModel: fields.cpuModel ?? null,
    update: planUpdate(vm, defaults),
    health: planHealth(fields.health ?? {}, gateTimeoutSeconds, factor),
    gateTimeoutSeconds,
    goBack: rollout.goBack ?? true,
    restoreData: persist !== null && (rollout.restoreDataOnRollback ?? false),
    retry: (rollout.retry ?? []).map((digest) => digest.slice(0, 12)),
    stopTimeoutSeconds: parseDuration(fields.stopTimeout ?? rollout.stopTimeout) ?? STOP_SECONDS * factor,
    domainName: domainName(prefix, name),
    after: [],
    rollout: null,
  };
}

function planEgress(vm: LayeredVm, host: string, around: Surroundings): VmPlan["egress"] {
  const { egress, dns } = vm.fields;
  if (egress?.blockPrivateNetworks !== true) return null;
  const attached = attach(vm, host, around);
  const entry = attached.mode === "nat" && attached.entry !== null ? around.networks.get(attached.entry) : undefined;
  const gateway = entry?.subnet?.gateway ?? null;
  return {
    allow: [...new Set(egress.allow ?? [])].sort(),
    dns: [...new Set([...(gateway === null ? [] : [gateway]), ...(dns ?? DEFAULT_DNS)])],
    dhcp: gateway,
  };
}

const mebibytes = (bytes: number | undefined): number | null => (bytes === undefined ? null : Math.floor(bytes / MIB));

// Sorted and without repetition: another order in the stack file is not another firewall, so it must not be another seed.
function sorted(ports: readonly number[]): number[] {
  return [...new Set(ports)].sort((a, b) => a - b);
}

function planHome(vm: LayeredVm, defaults: PresetDefaults): VmPlan["home"] {
  const { home } = vm.fields;
  const mode = home?.mode ?? defaults.home.mode;
  if (mode === "persistent") return { mode };
  const fallback = defaults.home.mode === "tmpfs" ? defaults.home.sizeBytes : null;
  return { mode, sizeBytes: parseSize(home?.size) ?? fallback };
}

function planPersist(vm: LayeredVm, defaults: PresetDefaults, volumeName: string): PersistPlan | null {
  const { persist } = vm.fields;
  if (persist === false || (persist === undefined && !defaults.persist)) return null;
  const mount = persist?.mount ?? defaults.mount;
  const fs = persist?.fs ?? defaults.fs;
  return {
    sizeBytes: parseSize(persist?.size) ?? DEFAULT_PERSIST_BYTES,
    mount,
    fs,
    label: persist?.label ?? (fs === "zfs" ? "rpool" : mount.slice(1)),
    protect: persist?.protect ?? true,
    retain: persist?.retain ?? true,
    snapshots: persist?.snapshots ?? 0,
    volumeName,
  };
}

function planUpdate(vm: LayeredVm, defaults: PresetDefaults): VmPlan["update"] {
  const { update } = vm.fields;
  if ((update?.mode ?? defaults.update) === "image") return { mode: "image" };
  return { mode: "pull", flake: update?.flake ?? null, everySeconds: parseDuration(update?.every) ?? HOUR };
}

function planAccounts(vm: LayeredVm, defaults: PresetDefaults): AccountPlan[] {
  const shared = { admin: vm.fields.adminKeys ?? [], user: vm.fields.userKeys ?? [] };
  const accounts: NonNullable<LayeredVm["fields"]["accounts"]> = vm.fields.accounts ?? [...defaults.accounts];
  return accounts.map(({ name, role, authorizedKeys, passwordHash }) => ({
    name,
    role,
    // A key given twice is one key; spaces around it come from `cat` and editors.
    authorizedKeys: [...new Set([...(authorizedKeys ?? []), ...shared[role]].map((key) => key.trim()))],
    passwordHash: passwordHash || null,
  }));
}

function attach(vm: LayeredVm, host: string, { scope, networks }: Surroundings): Attachment {
  const network = vm.fields.network ?? {};
  const mac = (network.mac ?? vm.fields.identity?.mac)?.toLowerCase() ?? null;
  const mode = network.mode ?? scope.context.defaults?.network ?? "nat";
  if (mode === "bridge") return { mode, bridge: network.bridge ?? "", mac };
  if (mode === "user") return { mode, sshPort: network.sshPort ?? sshPortOf(vm.name), mac };
  const wanted = network.network ?? "default";
  const entry = networks.get(wanted);
  // libvirt's own `default` needs no entry; one with that name on this host says more about it, such as its subnet.
  if (entry === undefined || (wanted === "default" && entry.host !== host)) {
    return { mode, network: wanted, entry: null, address: null, mac };
  }
  const fixed = parseIpv4(network.address) === undefined ? undefined : network.address;
  const address =
    fixed === undefined || entry.subnet === null
      ? null
      : {
          ip: fixed,
          prefixLength: entry.subnet.prefixLength,
          gateway: entry.mode === "nat" ? entry.subnet.gateway : null,
        };
  return { mode, network: entry.libvirtName, entry: entry.name, address, mac };
}

/**
 * The host's port for SSH to a VM on user-mode networking, unless one is written. From the name alone, so that adding a VM
 * moves no other; below 32768, where Linux begins to hand out ports by itself.
 */
export function sshPortOf(vmName: string): number {
  return 20_000 + (createHash("sha256").update(vmName).digest().readUInt32BE(0) % 12_000);
}
