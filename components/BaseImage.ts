import * as libvirt from "@pulumi/libvirt";
import * as pulumi from "@pulumi/pulumi";

/** Arguments of {@link BaseImage}. */
export interface BaseImageArgs {
  /** Storage pool that gets the image. Changing it uploads the image again. */
  pool: pulumi.Input<string>;
  /** Volume name; holds the digest, so that another image can never hide behind a known name (T-5, V-66). */
  volumeName: string;
  /** Disk image on the machine that runs Pulumi. Read only when the volume is made. If unset, the volume stays empty. */
  source?: string;
  /** Disk format of `source`. */
  format: "qcow2" | "raw";
}

/**
 * The shared read-only disk with the operating system: one upload for a host and image, whatever the number of VMs (T-5).
 *
 * One component stands for one digest. A new image is a new component, so the former base stays until no overlay in the
 * program uses it, and is deleted last (T-48).
 */
export class BaseImage extends pulumi.ComponentResource {
  /** Path of the volume on the host: the backing file of overlays. */
  public readonly volumeId: pulumi.Output<string>;

  constructor(name: string, args: BaseImageArgs, opts?: pulumi.ComponentResourceOptions) {
    super("nixvm:index:BaseImage", name, args, opts);
    const volume = new libvirt.Volume(
      `${name}-volume`,
      {
        name: args.volumeName,
        pool: args.pool,
        format: args.format,
        ...(args.source === undefined ? {} : { source: args.source }),
      },
      {
        parent: this,
        // The source is where this machine happens to keep the file; the content is fixed by the digest in the name.
        // Without this, running from another checkout would upload again and replace every VM.
        ignoreChanges: ["source", "size", "format"],
        customTimeouts: { create: "60m" },
      },
    );
    this.volumeId = volume.id;
    this.registerOutputs({ volumeId: this.volumeId });
  }
}
