import * as libvirt from "@pulumi/libvirt";
import * as pulumi from "@pulumi/pulumi";
import * as random from "@pulumi/random";
import { PRIVATE_VOLUME } from "./volumeXslt";

/** Arguments of {@link ScratchDisk}. */
export interface ScratchDiskArgs {
  /** Storage pool that holds the volume; must be on disk, not in memory (E-37). */
  pool: pulumi.Input<string>;
  /** The planner's name of the volume; something unique to this creation and the file extension follow. */
  volumePrefix: string;
  /** Size in bytes. A change replaces the volume and restarts the VM; no data is lost, as its content dies at every boot (E-36). */
  sizeBytes: number;
}

/** The sparse volume that the guest encrypts under a key only it knows, anew at every boot (E-4, E-5, E-13). */
export class ScratchDisk extends pulumi.ComponentResource {
  /** Path of the volume on the host. */
  public readonly volumeId: pulumi.Output<string>;

  constructor(name: string, args: ScratchDiskArgs, opts?: pulumi.ComponentResourceOptions) {
    super("nixvm:index:ScratchDisk", name, args, opts);
    // Unique to each creation, for the reason that OverlayDisk gives.
    const creation = new random.RandomId(
      `${name}-creation`,
      { byteLength: 4, keepers: { pool: args.pool, sizeBytes: `${args.sizeBytes}` } },
      { parent: this },
    );
    const volume = new libvirt.Volume(
      `${name}-volume`,
      {
        name: pulumi.interpolate`${args.volumePrefix}-${creation.hex}.qcow2`,
        pool: args.pool,
        size: args.sizeBytes,
        format: "qcow2",
        xml: PRIVATE_VOLUME,
      },
      { parent: this, ignoreChanges: ["xml"] },
    );
    this.volumeId = volume.id;
    this.registerOutputs({ volumeId: this.volumeId });
  }
}
