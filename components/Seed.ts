import * as pulumi from "@pulumi/pulumi";
import { SeedVolume } from "../provider/seed";

/** Arguments of {@link Seed}. */
export interface SeedArgs {
  /** libvirt URI of the host. */
  uri: string;
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
  public readonly disk: SeedVolume;

  constructor(name: string, args: SeedArgs, opts?: pulumi.ComponentResourceOptions) {
    super("nixvm:index:Seed", name, {}, opts);
    const files = pulumi.secret(args.files);
    this.disk = new SeedVolume(
      `${name}-iso`,
      {
        uri: args.uri,
        pool: args.pool,
        name: args.volumeName,
        userData: files.userData,
        metaData: files.metaData,
        networkConfig: files.networkConfig,
      },
      {
        parent: this,
        // One name, so the former medium goes first. The running guest has it open until the Guest swaps it, and a new
        // name would bring the danger that OverlayDisk tells of.
        deleteBeforeReplace: true,
        // Taken over from stacks that have it as the libvirt provider's: to the engine two resources of one file would
        // be one to make and then one to delete. Another file name would restart every VM.
        aliases: [{ type: "libvirt:index/cloudinitDisk:CloudinitDisk" }],
      },
    );
    this.registerOutputs({});
  }
}
