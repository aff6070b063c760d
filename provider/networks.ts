import { Run, run as realRun } from "./run";
import { callVirsh, LibvirtError, withXml } from "./virsh";

/** Which of a network's two definitions: the one that holds now, or the one that its next start goes by. */
export type Definition = "live" | "config";

/** All that a Guest wants of libvirt's networks and network filters. */
export interface Networks {
  /** XML of a network; undefined where it has no such definition, as `live` of one that is not active, or is not there at all. */
  xml(network: string, which: Definition): Promise<string | undefined>;
  /** Changes one entry of a definition. */
  update(network: string, which: Definition, change: NetworkChange): Promise<void>;
  /** XML of a network filter; undefined when there is none of that name. */
  filter(name: string): Promise<string | undefined>;
  /** Makes a filter, or gives it other rules: those hold at once for all running domains that refer to it. */
  defineFilter(xml: string): Promise<void>;
  /** Removes a filter; one that is not there is a success. */
  removeFilter(name: string): Promise<void>;
}

/** One entry of a network, as `virsh net-update` takes it. */
export interface NetworkChange {
  command: "add-last" | "modify" | "delete";
  section: "ip-dhcp-host" | "dns-host";
  /** The entry. */
  xml: string;
}

/** {@link Networks} through `virsh`. */
export class VirshNetworks implements Networks {
  constructor(
    private readonly uri: string,
    private readonly run: Run = realRun,
  ) {}

  async xml(network: string, which: Definition): Promise<string | undefined> {
    // Asked for what a network does not have, net-dumpxml gives what it has.
    const names = await this.call("net-list", "--name", ...(which === "config" ? ["--all", "--persistent"] : []));
    if (!names.split("\n").some((name) => name.trim() === network)) return undefined;
    return this.call("net-dumpxml", network, ...(which === "config" ? ["--inactive"] : []));
  }

  async update(network: string, which: Definition, { command, section, xml }: NetworkChange): Promise<void> {
    await this.call("net-update", network, command, section, "--xml", xml, `--${which}`);
  }

  async filter(name: string): Promise<string | undefined> {
    return this.unlessMissing(this.call("nwfilter-dumpxml", name));
  }

  async defineFilter(xml: string): Promise<void> {
    await withXml(xml, (file) => this.call("nwfilter-define", file));
  }

  async removeFilter(name: string): Promise<void> {
    await this.unlessMissing(this.call("nwfilter-undefine", name));
  }

  private async unlessMissing(answer: Promise<string>): Promise<string | undefined> {
    try {
      return await answer;
    } catch (error) {
      if (error instanceof LibvirtError && /Network filter not found/.test(error.message)) return undefined;
      throw error;
    }
  }

  private call(...args: string[]): Promise<string> {
    return callVirsh(this.run, this.uri, args);
  }
}
