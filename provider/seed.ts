import * as pulumi from "@pulumi/pulumi";

/** What a SeedVolume holds and where it is. */
export interface SeedVolumeArgs {
  /** libvirt URI of the host, such as `qemu:///system`. Nothing is made with a `test` URI: that driver keeps no data. A change replaces. */
  uri: pulumi.Input<string>;
  /** Storage pool that gets the ISO image; one of files, since domains refer to it by path. A change replaces. */
  pool: pulumi.Input<string>;
  /** Volume name. A change replaces. */
  name: pulumi.Input<string>;
  /** NoCloud's `user-data`; a secret. A change writes the medium anew, under the same name. */
  userData: pulumi.Input<string>;
  /** NoCloud's `meta-data`; a change writes the medium anew. */
  metaData: pulumi.Input<string>;
  /** NoCloud's `network-config`; a change writes the medium anew. */
  networkConfig: pulumi.Input<string>;
}

/**
 * The ISO image of a seed, label `cidata`, as a volume. A refresh asks for its size and downloads nothing, which is why
 * this is no `libvirt.CloudinitDisk` (docs/decisions/0008).
 */
export class SeedVolume extends pulumi.CustomResource {
  /** Path of the volume on the host. */
  declare public readonly volumeId: pulumi.Output<string>;
  /** sha256 of the three files (user-data, NUL, meta-data, NUL, network-config), as the guest reports it. */
  declare public readonly digest: pulumi.Output<string>;

  constructor(name: string, args: SeedVolumeArgs, opts?: pulumi.CustomResourceOptions) {
    // Outputs must be named here for the SDK to make properties of them.
    super("nixvm:index:SeedVolume", name, { volumeId: undefined, digest: undefined, ...args }, opts);
  }
}
