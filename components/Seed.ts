import * as libvirt from "@pulumi/libvirt";
import * as pulumi from "@pulumi/pulumi";

/** Arguments of {@link Seed}. */
export interface SeedArgs {
  /** Storage pool that gets the ISO image. */
  pool: pulumi.Input<string>;
  /** Start of the volume name; the digest of the content follows. */
  volumePrefix: string;
  /** The three NoCloud files. Always treated as secret: they may hold password hashes and a host key (G-5). */
  files: pulumi.Input<{ userData: string; metaData: string; networkConfig: string }>;
  /** Digest over the three files, as the guest computes it. */
  digest: pulumi.Input<string>;
}

/**
 * The NoCloud seed of one VM on a CD-ROM with the label `cidata`: the whole desired state of identity and access.
 * A change swaps the medium of the running VM; the Guest then has it applied without a restart (T-108).
 */
export class Seed extends pulumi.ComponentResource {
  /** Id by which a domain takes the seed as its CD-ROM. */
  public readonly diskId: pulumi.Output<string>;

  constructor(name: string, args: SeedArgs, opts?: pulumi.ComponentResourceOptions) {
    super("nixvm:index:Seed", name, {}, opts);
    const files = pulumi.secret(args.files);
    const disk = new libvirt.CloudinitDisk(
      `${name}-iso`,
      {
        name: pulumi.interpolate`${args.volumePrefix}-${pulumi.unsecret(pulumi.output(args.digest)).apply((d) => d.slice(0, 12))}.iso`,
        pool: args.pool,
        userData: files.userData,
        metaData: files.metaData,
        networkConfig: files.networkConfig,
      },
      {
        parent: this,
        // The former medium goes first: with the other order a seed that is taken back would be made under a name that
        // still waits to be deleted. The running guest has the old medium open, and has read it long ago.
        deleteBeforeReplace: true,
      },
    );
    this.diskId = disk.id;
    this.registerOutputs({ diskId: this.diskId });
  }
}
