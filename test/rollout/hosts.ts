import { machineOf } from "../../provider/domainXml";
import type { DomainRef, DomainState } from "../../provider/parse";
import { type AgentCommand, type Libvirt, LibvirtError } from "../../provider/virsh";
import { domainXml } from "../unit/provider-fake";
import type { Time } from "./time";

/** How a guest behaves on an image. All times in seconds. */
export interface Behaviour {
  /** Until its agent answers. Default 8. */
  boot?: number;
  /** Its health, by the time since then. Default: always well. `flaps`: well and not by turns, of that length, until then. */
  health?: "well" | "sick" | { sickFrom: number } | { wellFrom: number } | { flaps: number; until: number };
  /** It goes off by itself that long after its start. */
  crash?: number;
  /** Its QEMU is killed that long after its first start on the image. */
  killed?: number;
  /** Its agent never answers. */
  mute?: boolean;
  /** How long a clean stop takes; `never`: it has to be powered off. Default 2. */
  stop?: number | "never";
}

/** A VM as it really is. */
export class SimVm {
  readonly uuid: string;
  readonly domain: string;
  state: "running" | "shut off" = "shut off";
  reason: "shutdown" | "crashed" = "shutdown";
  /** Images of its definition, and of what runs. */
  defined: string;
  live = "";
  bootedAt = 0;
  boots = 0;
  private readonly bootsOn = new Map<string, number>();
  stopsAt: number | undefined;
  gone = false;

  constructor(
    readonly name: string,
    readonly host: string,
    index: number,
    image: string,
    readonly behaviourOn: (image: string) => Behaviour,
    private readonly time: Time,
  ) {
    this.uuid = `00000000-0000-4000-8000-${String(index).padStart(12, "0")}`;
    this.domain = `nixvm-sim-${name}`;
    this.defined = image;
  }

  overlay(image: string): string {
    return `/pool/${this.domain}-${digestOf(image)}-01.qcow2`;
  }

  /** The image that it runs on, or would after a start. */
  get image(): string {
    return this.state === "running" ? this.live : this.defined;
  }

  get behaviour(): Behaviour {
    return this.behaviourOn(this.image);
  }

  boot(): void {
    this.live = this.defined;
    this.state = "running";
    this.bootedAt = this.time.now;
    this.boots++;
    this.bootsOn.set(this.live, (this.bootsOn.get(this.live) ?? 0) + 1);
    this.stopsAt = undefined;
  }

  off(reason: "shutdown" | "crashed" = "shutdown"): void {
    this.state = "shut off";
    this.reason = reason;
    this.stopsAt = undefined;
  }

  /** What has happened to it meanwhile. */
  settle(): void {
    const { crash, killed } = this.behaviour;
    if (this.state !== "running") return;
    if (this.stopsAt !== undefined && this.time.now >= this.stopsAt) this.off();
    else if (crash !== undefined && this.time.now >= this.bootedAt + crash * 1000) this.off();
    else if (
      killed !== undefined &&
      this.bootsOn.get(this.live) === 1 &&
      this.time.now >= this.bootedAt + killed * 1000
    )
      this.off("crashed");
  }

  /** Seconds since its agent answers; undefined while it does not. */
  get up(): number | undefined {
    const seconds = (this.time.now - this.bootedAt) / 1000 - (this.behaviour.boot ?? 8);
    return this.state === "running" && !this.behaviour.mute && seconds >= 0 ? seconds : undefined;
  }

  get healthy(): boolean {
    const { health = "well" } = this.behaviour;
    const up = this.up;
    if (up === undefined) return false;
    if (typeof health === "string") return health === "well";
    if ("sickFrom" in health) return up < health.sickFrom;
    if ("wellFrom" in health) return up >= health.wellFrom;
    return up >= health.until || Math.floor(up / health.flaps) % 2 === 1;
  }
}

/** Twelve hex digits for an image such as `v2`, and back. */
export const digestOf = (image: string): string => image.slice(1).repeat(12).slice(0, 12);
export const imageOf = (text: string): string => `v${/-(\d)\1{11}-/.exec(text)?.[1] ?? "?"}`;

/** The libvirt of a host, with the real interface. `log` gets what is done to a VM. */
export class SimHost implements Libvirt {
  lost = false;
  missingVolumes = new Set<string>();
  private replies = new Map<number, string>();
  private pid = 0;

  constructor(
    readonly uri: string,
    private readonly vms: readonly SimVm[],
    private readonly time: Time,
    private readonly log: (vm: SimVm, what: string) => void,
  ) {}

  private find(uuid: string): SimVm {
    this.reach();
    const vm = this.vms.find((one) => one.uuid === uuid && !one.gone);
    if (vm === undefined) throw new LibvirtError("failed", "virsh: Domain not found");
    vm.settle();
    return vm;
  }

  private reach(): void {
    if (this.lost) throw new LibvirtError("unreachable", `libvirt at ${this.uri} does not answer`);
  }

  async domains(): Promise<DomainRef[]> {
    this.reach();
    return this.vms.filter(({ gone }) => !gone).map(({ uuid, domain }) => ({ uuid, name: domain }));
  }

  async state(uuid: string): Promise<DomainState> {
    const { state, reason } = this.find(uuid);
    return { state, reason: state === "running" ? "booted" : reason };
  }

  async start(uuid: string): Promise<void> {
    const vm = this.find(uuid);
    vm.boot();
    this.log(vm, `boots ${vm.image}`);
  }

  async resume(): Promise<void> {}

  async shutdown(uuid: string): Promise<void> {
    const vm = this.find(uuid);
    const { stop = 2 } = vm.behaviour;
    if (vm.stopsAt === undefined && stop !== "never") vm.stopsAt = this.time.now + stop * 1000;
    this.log(vm, "stop");
  }

  async destroy(uuid: string): Promise<void> {
    const vm = this.find(uuid);
    vm.off();
    this.log(vm, "power-off");
  }

  async xml(uuid: string): Promise<string> {
    const vm = this.find(uuid);
    const xml = domainXml(vm.overlay(vm.image));
    return vm.state === "running" ? xml.replace("<domain", '<domain id="1"') : xml;
  }

  async definition(uuid: string): Promise<string> {
    const vm = this.find(uuid);
    return domainXml(vm.overlay(vm.defined));
  }

  async define(xml: string): Promise<void> {
    this.reach();
    const path = machineOf(xml)?.bootPath ?? "";
    const vm = this.vms.find(({ domain }) => path.startsWith(`/pool/${domain}-${digestOf(imageOf(path))}`));
    if (vm === undefined) throw new LibvirtError("failed", `virsh define: nobody boots from ${path}`);
    vm.defined = imageOf(path);
  }

  async hasVolume(path: string): Promise<boolean> {
    this.reach();
    return !this.missingVolumes.has(path);
  }

  async agent(uuid: string, command: AgentCommand): Promise<unknown> {
    const vm = this.find(uuid);
    if (vm.up === undefined) throw new LibvirtError("agent", "QEMU guest agent is not connected");
    if (command.execute === "guest-exec-status") {
      const out = this.replies.get(command.arguments?.["pid"] as number) ?? "";
      return { exited: true, exitcode: 0, "out-data": Buffer.from(out).toString("base64") };
    }
    if (command.execute !== "guest-exec") {
      return [{ name: "eth0", "ip-addresses": [{ "ip-address-type": "ipv4", "ip-address": "10.0.2.15" }] }];
    }
    const record = {
      ...{ schema: 1, imageId: `image-${vm.image}`, imageVersion: vm.image, bootId: `boot-${vm.boots}` },
      bootedAt: new Date(this.time.start + vm.bootedAt).toISOString(),
      ...{ healthy: vm.healthy, reasons: vm.healthy ? [] : ["unit app failed"] },
    };
    this.replies.set(++this.pid, `running\n--nixvm--\n${JSON.stringify(record)}`);
    return { pid: this.pid };
  }

  async autostart(): Promise<void> {}
  async changeMedium(): Promise<void> {}
  async ejectMedium(): Promise<void> {}
  async diskBytes(): Promise<number> {
    return 0;
  }
  async blockResize(): Promise<void> {}
  async volumeResize(): Promise<void> {}
  async setMemory(): Promise<void> {}
  async memory(): Promise<number | undefined> {
    return 512;
  }
  async setVcpus(): Promise<void> {}
  async updateDevice(): Promise<void> {}
}
