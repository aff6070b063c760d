import * as libvirt from "@pulumi/libvirt";
import * as pulumi from "@pulumi/pulumi";
import * as random from "@pulumi/random";
import { PRIVATE_VOLUME } from "./volumeXslt";

/** Arguments of {@link OverlayDisk}. */
export interface OverlayDiskArgs {
  /** Storage pool that gets the overlay. */
  pool: pulumi.Input<string>;
  /** Start of the volume name; the digest and something unique to this creation follow. */
  volumePrefix: string;
  /** First 12 hex digits of the image digest (plain, it is in the volume's name). */
  digest: string;
  /** Volume of the base image, the backing file. */
  baseVolumeId: pulumi.Input<string>;
  /** Raising it makes a new overlay with nothing of the former one in it (T-50). */
  generation: number;
}

/**
 * The thin qcow2 disk of one VM on a base image (T-2): a fresh one is a few hundred KiB (T-3), and an upgrade is a new one.
 *
 * Volume names are unique to each creation. With names made of VM and digest alone, going back to a former image made an
 * overlay under a name that was still waiting to be deleted, and the delete then took the new file away under a running VM.
 */
export class OverlayDisk extends pulumi.ComponentResource {
  /** Path of the overlay on the host. */
  public readonly volumeId: pulumi.Output<string>;

  constructor(name: string, args: OverlayDiskArgs, opts?: pulumi.ComponentResourceOptions) {
    super("nixvm:index:OverlayDisk", name, args, opts);
    const creation = new random.RandomId(
      `${name}-creation`,
      { byteLength: 4, keepers: { base: args.baseVolumeId, pool: args.pool, generation: `${args.generation}` } },
      { parent: this },
    );
    const volume = new libvirt.Volume(
      `${name}-volume`,
      {
        name: pulumi.interpolate`${args.volumePrefix}-${args.digest}-${creation.hex}.qcow2`,
        pool: args.pool,
        baseVolumeId: args.baseVolumeId,
        format: "qcow2",
        xml: PRIVATE_VOLUME,
      },
      // A refresh fills in the size, which the base image decides.
      { parent: this, ignoreChanges: ["size", "xml"] },
    );
    this.volumeId = volume.id;
    this.registerOutputs({ volumeId: this.volumeId });
  }
}
