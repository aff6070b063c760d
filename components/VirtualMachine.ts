import * as libvirt from "@pulumi/libvirt";
import * as pulumi from "@pulumi/pulumi";
import { Guest } from "../provider/guest";
import { cardOf, leaseOf } from "./attachment";
import { domainXslt } from "./domainXslt";
import { domainSpecOf, domainType, guestShape, seedPathOf, vmIdentity, vmSeed } from "./guestShape";
import type { ResolvedImage } from "./images";
import { OverlayDisk } from "./OverlayDisk";
import { PersistentVolume } from "./PersistentVolume";
import { ScratchDisk } from "./ScratchDisk";
import { Seed } from "./Seed";
import * as plan from "./plan";

/** Arguments of {@link VirtualMachine}. */
export interface VirtualMachineArgs {
  /** The VM with every default filled in. */
  vm: plan.VmPlan;
  /** The host it runs on. */
  host: plan.HostPlan;
  /** What is known of its image. */
  image: ResolvedImage;
  /** Start of every name in libvirt. */
  prefix: string;
  /** Volume of its base image. */
  baseVolumeId: pulumi.Input<string>;
  /** Name of the pool, known when the pool is there. */
  pool: pulumi.Input<string>;
  /** Run before a domain of its host is made. */
  beforeDomain: pulumi.ResourceHook;
  /** libvirt's name of its network, known when the network is there; unused with a bridge or user networking. */
  networkName?: pulumi.Input<string>;
  /** What libvirt calls that network by for its life, when it is one of ours: its leases are ours to keep. */
  networkId?: pulumi.Input<string>;
  /** The fleet's secret key, of which every identity is derived. */
  fleetKey: pulumi.Input<string>;
  /** VMs that have to be done before this one is touched (D4). */
  after: VirtualMachine[];
}

/** One VM: overlay, persistent volume, scratch disk, seed, domain, and the guest that has to say that it is healthy. */
export class VirtualMachine extends pulumi.ComponentResource {
  /** The gate: what comes after this VM waits for it. */
  public readonly guest: Guest;
  /** Stable facts and the guest's last word, for stack outputs and the CLI. */
  public readonly summary: pulumi.Output<VmSummary>;

  constructor(name: string, args: VirtualMachineArgs, opts?: pulumi.ComponentResourceOptions) {
    super("nixvm:index:VirtualMachine", name, {}, opts);
    const { vm, host, image, pool } = args;
    const digest = plan.digest12(image.digest);

    const identity = pulumi.output(args.fleetKey).apply((key) => vmIdentity(vm, key));
    // The key is secret; what is derived one-way is visible on every wire and in libvirt anyway.
    const uuid = pulumi.unsecret(identity.uuid);
    const mac = pulumi.unsecret(identity.mac);

    const overlay = new OverlayDisk(
      // The digest is part of the name: an overlay is of one image for life. Going back to a former image after a failed
      // upgrade then finds the overlays that are still there, and a VM that was never touched is not restarted.
      `${name}-overlay-${digest}`,
      {
        pool,
        volumePrefix: `${args.prefix}-${vm.name}`,
        digest,
        baseVolumeId: args.baseVolumeId,
        generation: vm.generation,
      },
      { parent: this },
    );
    const persist = vm.persist
      ? new PersistentVolume(
          `${name}-persist`,
          {
            pool,
            volumeName: vm.persist.volumeName,
            sizeBytes: vm.persist.sizeBytes,
            protect: vm.persist.protect,
            retain: vm.persist.retain,
          },
          { parent: this },
        )
      : undefined;
    const scratch = vm.scratch
      ? new ScratchDisk(
          `${name}-scratch`,
          { pool, volumePrefix: vm.scratch.volumeName, sizeBytes: vm.scratch.sizeBytes },
          { parent: this },
        )
      : undefined;

    const files = pulumi.all([identity, args.fleetKey]).apply(([id, key]) => vmSeed(vm, id, key));
    const seedDigest = pulumi.unsecret(files.apply(plan.seedDigest));
    const volumeName = plan.seedVolumeName(args.prefix, vm.name);
    const seedPath = seedPathOf(vm, host, args.prefix);
    const seed = new Seed(`${name}-seed`, { uri: host.uri, pool, volumeName, files }, { parent: this });

    const disks = [
      ...(persist ? [{ path: persist.volumeId, serial: "persist" }] : []),
      ...(scratch ? [{ path: scratch.volumeId, serial: "scratch" }] : []),
    ];
    const xslt = pulumi.all([uuid, mac, pulumi.all(disks.map((d) => d.path))]).apply(([knownUuid, knownMac, paths]) => {
      const there = disks.map((d, i) => ({ path: paths[i] ?? "", serial: d.serial }));
      return domainXslt(domainSpecOf(vm, host, { uuid: knownUuid, mac: knownMac, disks: there, seedPath }));
    });
    const domain = new libvirt.Domain(
      `${name}-domain`,
      {
        name: vm.domainName,
        description: `nixvm ${args.prefix}`,
        type: domainType(host),
        // For a start: from then on the Guest decides these.
        memory: vm.memoryMiB,
        vcpu: vm.vcpus,
        running: false,
        xml: { xslt },
      },
      {
        parent: this,
        hooks: { beforeCreate: [args.beforeDomain] },
        dependsOn: [seed.disk, ...args.after.map((other) => other.guest)],
        // The provider plans a change of it in place, and then changes nothing in libvirt. Disks are in the stylesheet.
        replaceOnChanges: ["xml"],
        deleteBeforeReplace: true,
        // What a refresh reads back: chosen by libvirt, said in the stylesheet, or decided by the Guest.
        ignoreChanges: [
          ...["firmware", "nvram", "cpu", "machine", "arch", "emulator", "type", "disks"],
          ...["memory", "vcpu", "running", "autostart", "networkInterfaces"],
        ],
      },
    );

    this.guest = new Guest(
      `${name}-guest`,
      {
        ...guestShape(vm, host, image, args.prefix),
        uuid,
        domainId: domain.id,
        overlayPath: overlay.volumeId,
        ...cardOf<pulumi.Input<string>>(vm.network, mac, args.networkName),
        ...leaseOf<pulumi.Input<string>>(vm, args.networkId),
        seedDigest,
        ...(persist ? { persistPath: persist.volumeId } : {}),
      },
      {
        parent: this,
        customTimeouts: {
          create: `${vm.gateTimeoutSeconds}s`,
          update: `${vm.gateTimeoutSeconds}s`,
          // Past its own limit the stop still has to pull the plug.
          delete: `${vm.stopTimeoutSeconds + 60}s`,
        },
      },
    );

    this.summary = pulumi
      .all([uuid, mac, this.guest.imageVersion, this.guest.imageId, this.guest.bootedAt, this.guest.ip])
      .apply(([knownUuid, knownMac, version, id, bootedAt, ip]) => ({
        uri: host.uri,
        domain: vm.domainName,
        uuid: knownUuid,
        mac: knownMac,
        poolPath: host.pool.path,
        image: version ?? id ?? digest,
        bootedAt: bootedAt ?? "",
        access: accessOf(vm, ip),
      }));
    this.registerOutputs({ summary: this.summary });
  }
}

/** What a stack's output says of a VM. */
export interface VmSummary {
  /** Libvirt URI of its host. */
  uri: string;
  /** Libvirt name. */
  domain: string;
  uuid: string;
  mac: string;
  /** Folder of the pool its disks are in. */
  poolPath: string;
  /** Version of the image it was last brought to. */
  image: string;
  bootedAt: string;
  /** Command that opens a shell, or the address. */
  access: string;
}

function accessOf(vm: plan.VmPlan, ip: string | undefined): string {
  const account = vm.accounts.find((a) => a.authorizedKeys.length > 0)?.name;
  const at = account === undefined ? "" : `${account}@`;
  if (vm.network.mode === "user") {
    return account === undefined ? `127.0.0.1:${vm.network.sshPort}` : `ssh -p ${vm.network.sshPort} ${at}127.0.0.1`;
  }
  const address = vm.network.mode === "nat" ? (vm.network.address?.ip ?? ip) : ip;
  return address === undefined || address === ""
    ? "no address yet"
    : account === undefined
      ? address
      : `ssh ${at}${address}`;
}
