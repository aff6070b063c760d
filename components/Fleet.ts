import * as libvirt from "@pulumi/libvirt";
import * as pulumi from "@pulumi/pulumi";
import * as random from "@pulumi/random";
import { isTestDriver } from "../provider/testDriver";
import { BaseImage } from "./BaseImage";
import { beforeDomain, beforePool } from "./hooks";
import type { ResolvedImage } from "./images";
import { Network } from "./Network";
import * as plan from "./plan";
import { VirtualMachine, type VmSummary } from "./VirtualMachine";

/** Arguments of {@link Fleet}. */
export interface FleetArgs {
  /** What {@link plan.planFleet} made of the stack file. */
  plan: plan.Plan;
  /** The stack file's images, resolved. */
  images: Record<string, ResolvedImage>;
  /** Images of former runs and of this one: those that no VM uses stay on the hosts that they are on. */
  history: readonly plan.KnownImage[];
}

interface HostResources {
  plan: plan.HostPlan;
  beforeDomain: pulumi.ResourceHook;
  provider: libvirt.Provider;
  pool: pulumi.Output<string>;
}

/** All VMs of a stack, with what they share. Turns a plan into resources and decides nothing. */
export class Fleet extends pulumi.ComponentResource {
  /** What the stack says of each VM. */
  public readonly vms: pulumi.Output<Record<string, VmSummary>>;

  constructor(name: string, args: FleetArgs, opts?: pulumi.ComponentResourceOptions) {
    super("nixvm:index:Fleet", name, {}, opts);
    const { vms, prefix } = args.plan;
    // Made once; every identity is derived of it and of the VM's name, and of nothing that an upgrade changes (T-43).
    // A password, as the id of any other random resource is its value, and ids are in the state in clear.
    const key = new random.RandomPassword(`${name}-key`, { length: 64, special: false }, { parent: this });
    const fleetKey = pulumi.secret(key.result).apply(plan.fleetKeyOf);

    const hosts = new Map(args.plan.hosts.map((h) => [h.name, this.host(name, h, vms)]));
    const hostOf = (host: string): HostResources => must(hosts.get(host), `host ${host}`);

    // One upload for a host and content, also when two names stand for the same file.
    const bases = new Map<string, BaseImage>();
    const base = (host: string, image: Pick<ResolvedImage, "digest" | "format">, source: string): BaseImage => {
      const label = `base-${host}-${plan.digest12(image.digest)}`;
      const { plan: at, provider, pool } = hostOf(host);
      const volumeName = plan.baseVolumeFile(prefix, image);
      // The test driver takes no uploads.
      const content = isTestDriver(at.uri) ? {} : { source };
      const made =
        bases.get(label) ??
        new BaseImage(label, { pool, volumeName, format: image.format, ...content }, { parent: this, provider });
      bases.set(label, made);
      return made;
    };
    const networks = new Map(
      args.plan.networks.flatMap((network) => {
        if (!network.create || !network.subnet) {
          return [];
        }
        const made = new Network(
          `network-${network.name}`,
          {
            networkName: network.libvirtName,
            subnet: network.subnet.cidr,
            mode: network.mode,
            dhcp: network.dhcp,
            ...(network.domain === null ? {} : { domain: network.domain }),
            ...(network.bridge === null ? {} : { bridge: network.bridge }),
          },
          { parent: this, provider: hostOf(network.host).provider },
        );
        return [[network.name, made] as const];
      }),
    );

    const made = new Map<string, VirtualMachine>();
    for (const vm of vms) {
      const { plan: host, provider, pool, beforeDomain } = hostOf(vm.host);
      const entry = vm.network.mode === "nat" ? vm.network.entry : null;
      const network = entry === null ? undefined : networks.get(entry);
      const image = must(args.images[vm.image], `image ${vm.image}`);
      made.set(
        vm.name,
        new VirtualMachine(
          vm.name,
          {
            vm,
            host,
            prefix,
            pool,
            beforeDomain,
            fleetKey,
            image,
            baseVolumeId: base(vm.host, image, image.file).volumeId,
            after: vm.after.map((other) => must(made.get(other), `VM ${other}`)),
            ...(network === undefined ? {} : { networkName: network.networkName, networkId: network.networkId }),
          },
          { parent: this, provider },
        ),
      );
    }

    // After those that VMs use: these are on their hosts and in the state already, so there is no source to take them from.
    for (const known of args.history) for (const host of known.hosts) if (hosts.has(host)) base(host, known, "");

    this.vms = pulumi.output(Object.fromEntries([...made].map(([vm, resource]) => [vm, resource.summary])));
    this.registerOutputs({ vms: this.vms });
  }

  private host(name: string, host: plan.HostPlan, vms: readonly plan.VmPlan[]): HostResources {
    const provider = new libvirt.Provider(
      `host-${host.name}`,
      { uri: host.uri },
      // The engine notes the SDK's version at first and wants the bridge's from the second run on: no change of anything.
      { parent: this, ignoreChanges: ["version"] },
    );
    const made = { plan: host, provider, beforeDomain: beforeDomain(`${name}-domains-${host.name}`, host) };
    if (!host.pool.create) {
      return { ...made, pool: pulumi.output(host.pool.name) };
    }
    const pool = new libvirt.Pool(
      `pool-${host.name}`,
      { name: host.pool.name, type: "dir", target: { path: host.pool.path } },
      {
        parent: this,
        provider,
        hooks: { beforeCreate: [beforePool(`${name}-pool-${host.name}`, host)] },
        // A pool with retained data in it cannot be removed, and must not be.
        retainOnDelete: vms.some((vm) => vm.host === host.name && vm.persist?.retain === true),
      },
    );
    return { ...made, pool: pool.name };
  }
}

/** The planner checked every reference; one that is missing here is a fault of this program. */
function must<T>(value: T | undefined, what: string): T {
  if (value === undefined) {
    throw new Error(`fleet: ${what} is in the plan but not among its resources`);
  }
  return value;
}
