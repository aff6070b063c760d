import * as libvirt from "@pulumi/libvirt";
import * as pulumi from "@pulumi/pulumi";
import { DATA_VOLUME } from "./volumeXslt";

/** Arguments of {@link PersistentVolume}. */
export interface PersistentVolumeArgs {
  /** Storage pool that holds the volume. */
  pool: pulumi.Input<string>;
  /** Volume name, for the VM's life. A volume of this name that is still there from before is taken over with its data. */
  volumeName: pulumi.Input<string>;
  /** Size in bytes when the volume is made. Growing happens through the Guest, in place; this value never replaces it (T-62). */
  sizeBytes: number;
  /** Refuses every plan that would delete or replace the volume. Default true (T-53). */
  protect: boolean;
  /** Leaves the volume on the host when it leaves the program. Default true (T-53). */
  retain: boolean;
}

/**
 * The disk that outlives upgrades (T-4). It has no input from image, shape or seed, so no upgrade can touch it (Z-42).
 */
export class PersistentVolume extends pulumi.ComponentResource {
  /** Path of the volume on the host. */
  public readonly volumeId: pulumi.Output<string>;

  constructor(name: string, args: PersistentVolumeArgs, opts?: pulumi.ComponentResourceOptions) {
    // Sizes and safety switches are no inputs of the component: a component whose inputs change shows as an update,
    // and for a grown volume the line to read is the Guest's.
    super("nixvm:index:PersistentVolume", name, {}, opts);
    const volume = new libvirt.Volume(
      `${name}-volume`,
      { name: args.volumeName, pool: args.pool, size: args.sizeBytes, format: "qcow2", xml: DATA_VOLUME },
      {
        parent: this,
        protect: args.protect,
        retainOnDelete: args.retain,
        // Every field of a volume replaces it in this provider, and a replaced volume is lost data.
        ignoreChanges: ["size", "format", "xml"],
      },
    );
    this.volumeId = volume.id;
    this.registerOutputs({ volumeId: this.volumeId });
  }
}
