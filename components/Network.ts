import * as libvirt from "@pulumi/libvirt";
import * as pulumi from "@pulumi/pulumi";

/** Arguments of {@link Network}. */
export interface NetworkArgs {
  /** Name on the host. A network of this name that this stack did not make is an error, never taken over. */
  networkName: string;
  /** IPv4 subnet in CIDR form; its first address is the host's. */
  subnet: string;
  /** `nat` reaches out through the host (T-118); `isolated` does not. */
  mode: "nat" | "isolated";
  /** Hands out addresses by DHCP. */
  dhcp: boolean;
  /** DNS domain of the network; none by default. */
  domain?: string;
  /** Name of the host bridge; libvirt picks `virbrN` by default. */
  bridge?: string;
}

/** A libvirt network of this stack's own. */
export class Network extends pulumi.ComponentResource {
  /** Name by which VMs join; known only when the network is there, so VMs come after it. */
  public readonly networkName: pulumi.Output<string>;
  /** Another one when the network was made anew under its name, with none of the entries it had. */
  public readonly networkId: pulumi.Output<string>;

  constructor(name: string, args: NetworkArgs, opts?: pulumi.ComponentResourceOptions) {
    super("nixvm:index:Network", name, args, opts);
    const network = new libvirt.Network(
      `${name}-network`,
      {
        name: args.networkName,
        mode: args.mode === "nat" ? "nat" : "none",
        addresses: [args.subnet],
        dhcp: { enabled: args.dhcp },
        autostart: true,
        ...(args.domain === undefined ? {} : { domain: args.domain }),
        ...(args.bridge === undefined ? {} : { bridge: args.bridge }),
      },
      { parent: this, deleteBeforeReplace: true },
    );
    this.networkName = network.name;
    this.networkId = network.id;
    this.registerOutputs({ networkName: this.networkName });
  }
}
