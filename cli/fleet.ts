import { z } from "zod";

/** A VM as the stack's state has it: what the last run made, and what the guest said then. */
export interface FleetVm {
  name: string;
  /** Name of its host in the stack file. */
  host: string;
  /** libvirt connection of its host. */
  uri: string;
  /** libvirt name of its domain. */
  domain: string;
  uuid: string;
  accelerator: string;
  /** Declared state: whether it is to be on. */
  running: boolean;
  memoryMiB: number;
  vcpus: number;
  /** One line: `user, ssh on 127.0.0.1:2222`, `bridge br0`, `network lan, 192.168.77.10`. */
  network: string;
  /** Port of this machine that leads to its SSH server; only with user networking. */
  sshPort?: number;
  /** Address as the guest said it in the last run, or the fixed one. */
  ip?: string;
  /** First 12 digits of the digest of its image. */
  imageDigest: string;
  imageId?: string;
  imageVersion?: string;
  /** `none`: a stock image, which has no status record. */
  contract: string;
  healthy?: boolean;
  bootedAt?: string;
  /** `ssh-ed25519 AAAA…` as the guest said it; empty when it has none. */
  sshHostKey?: string;
  machineId?: string;
  /** Paths on the host. */
  overlayPath: string;
  persistPath?: string;
  persistBytes?: number;
  scratchPath?: string;
  seedPath: string;
  consoleLog?: string;
  /** Digests of images that failed on it. */
  quarantined: string[];
}

const text = z.string().optional().catch(undefined);

/** The part of a Guest's state that is read here. */
const guest = z.looseObject({
  vm: z.string(),
  uri: z.string(),
  domain: z.string(),
  uuid: z.string(),
  accelerator: z.string().catch("kvm"),
  running: z.boolean().catch(true),
  memoryMiB: z.number().catch(0),
  vcpus: z.number().catch(0),
  network: z.string().catch(""),
  ip: text,
  imageDigest: z.string(),
  imageId: text,
  imageVersion: text,
  contract: z.string().catch("nixvm"),
  healthy: z.boolean().optional().catch(undefined),
  bootedAt: text,
  sshHostKey: text,
  machineId: text,
  overlayPath: z.string().catch(""),
  persistPath: text,
  persistBytes: z.number().optional().catch(undefined),
  seedPath: z.string().catch(""),
  consoleLog: text,
  quarantined: z
    .array(z.looseObject({ digest: z.string() }))
    .catch([])
    .optional(),
});

const FACTS = new Set(Object.keys(guest.shape));

const resource = z.looseObject({
  urn: z.string(),
  type: z.string(),
  id: text,
  provider: text,
  parent: text,
  delete: z.boolean().optional(),
  inputs: z.record(z.string(), z.unknown()).optional(),
  outputs: z.record(z.string(), z.unknown()).optional(),
});

/** A resource of the state. */
export type StateResource = z.infer<typeof resource>;

const exported = z.looseObject({
  deployment: z
    .looseObject({ resources: z.array(resource).optional() })
    .optional()
    .nullable(),
});

/** Reads what `pulumi stack export` prints. */
export function resourcesOf(exportText: string): StateResource[] {
  return exported.parse(JSON.parse(exportText)).deployment?.resources ?? [];
}

/** Last part of a URN: the name that the program gave. */
export const nameOf = (urn: string): string => urn.slice(urn.lastIndexOf("::") + 2);

/** The VMs of a state, sorted by name. */
export function fleetOf(resources: readonly StateResource[]): FleetVm[] {
  const live = resources.filter((one) => one.delete !== true);
  const named = new Map(live.map((one) => [nameOf(one.urn), one]));
  const vms = live
    .filter(({ type }) => type === "nixvm:index:Guest")
    .flatMap(({ inputs, outputs }) => {
      const read = guest.safeParse({ ...inputs, ...outputs });
      if (!read.success) return [];
      const { vm, quarantined, ...facts } = read.data;
      const known = pick(facts);
      // `urn:…::host-local::<id>` is the provider that its domain was made by.
      const host = /::host-(.+)::[^:]+$/.exec(named.get(`${vm}-domain`)?.provider ?? "")?.[1] ?? "local";
      const sshPort = /^user, ssh on [^:]*:(\d+)/.exec(facts.network)?.[1];
      const fixed = /^network [^,]+, (\S+)$/.exec(facts.network)?.[1];
      const scratch = named.get(`${vm}-scratch-volume`)?.id;
      return [
        {
          ...known,
          name: vm,
          host,
          ...(sshPort === undefined ? {} : { sshPort: Number(sshPort) }),
          ...(fixed === undefined ? {} : { ip: fixed }),
          ...(scratch === undefined ? {} : { scratchPath: scratch }),
          quarantined: (quarantined ?? []).map(({ digest }) => digest),
        },
      ];
    });
  // Plain comparison, not localeCompare: the order must be the same on every machine.
  return vms.sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** Facts without those that are not known, so that `in` and spreading work on them. */
function pick(
  facts: Omit<z.infer<typeof guest>, "vm" | "quarantined">,
): Omit<FleetVm, "name" | "host" | "quarantined"> {
  const known = Object.entries(facts).filter(([key, value]) => FACTS.has(key) && value !== undefined);
  return Object.fromEntries(known) as Omit<FleetVm, "name" | "host" | "quarantined">;
}

/** What `--target` takes to touch one VM and nothing else. */
export function targetsOf(vm: string): string[] {
  const of = "**nixvm:index:VirtualMachine";
  const parts = ["persist", "persist-volume", "scratch", "scratch-creation", "scratch-volume"];
  const own = [...parts, "seed", "seed-iso", "domain", "guest"].map((part) => `${of}$**::${vm}-${part}`);
  // The digest in an overlay's name is the one thing that is not known here.
  return [`${of}::${vm}`, `${of}$nixvm:index:OverlayDisk**::${vm}-overlay-*`, ...own];
}
