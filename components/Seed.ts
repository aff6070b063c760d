import * as libvirt from "@pulumi/libvirt";
import * as pulumi from "@pulumi/pulumi";

/** Arguments of {@link Seed}. */
export interface SeedArgs {
  /** Storage pool that gets the ISO image. */
  pool: pulumi.Input<string>;
  /** Volume name, the same for the VM's life: another seed is then no change of the domain. */
  volumeName: string;
  /** The three NoCloud files. Always treated as secret: they may hold password hashes and a host key (G-5). */
  files: pulumi.Input<{ userData: string; metaData: string; networkConfig: string }>;
}

/**
 * The NoCloud seed of one VM on a CD-ROM with the label `cidata`: the whole desired state of identity and access.
 * When it changes, the Guest swaps the medium of the running VM and has it applied without a restart (T-108).
 */
export class Seed extends pulumi.ComponentResource {
  /** The medium: a domain comes after it, and has no other tie to it. */
  public readonly disk: libvirt.CloudinitDisk;

  constructor(name: string, args: SeedArgs, opts?: pulumi.ComponentResourceOptions) {
    super("nixvm:index:Seed", name, {}, opts);
    const files = pulumi.secret(args.files);
    this.disk = new libvirt.CloudinitDisk(
      `${name}-iso`,
      {
        name: args.volumeName,
        pool: args.pool,
        userData: files.userData,
        metaData: files.metaData,
        networkConfig: files.networkConfig,
      },
      {
        parent: this,
        // One name, so the former medium goes first. The running guest has it open until the Guest swaps it, and a new
        // name would bring the danger that OverlayDisk tells of.
        deleteBeforeReplace: true,
      },
    );
    this.registerOutputs({});
  }
}
