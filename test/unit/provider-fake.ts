import { GuestResult } from "../../provider/agent";
import { Cancelled, Clock } from "../../provider/clock";
import { Disks } from "../../provider/disks";
import { machineOf } from "../../provider/domainXml";
import { Deps } from "../../provider/gate";
import { GuestInputs } from "../../provider/inputs";
import { Definition, NetworkChange, Networks } from "../../provider/networks";
import type { World } from "../../provider/resources";
import { DomainRef, DomainState } from "../../provider/parse";
import { AgentCommand, Libvirt, LibvirtError } from "../../provider/virsh";

/** The time on the wall when a clock starts. */
export const START = Date.parse("2026-01-01T00:00:00Z");

/** A clock on which minutes pass at once: sleeping moves it, and what was planned for that time happens. */
export class FakeClock implements Clock {
  time = 0;
  private plans: Array<{ at: number; act: () => void }> = [];

  now(): number {
    return this.time;
  }

  wall(): number {
    return START + this.time;
  }

  async sleep(ms: number, signal: AbortSignal): Promise<void> {
    const end = this.time + ms;
    for (const plan of this.plans.sort((a, b) => a.at - b.at).filter(({ at }) => at <= end)) {
      this.time = Math.max(this.time, plan.at);
      this.plans = this.plans.filter((other) => other !== plan);
      plan.act();
    }
    this.time = end;
    if (signal.aborted) throw new Cancelled();
  }

  at(seconds: number, act: () => void): void {
    this.plans.push({ at: seconds * 1000, act });
  }
}

export const UUID = "11111111-2222-4333-8444-555555555555";

export const want: GuestInputs = {
  uri: "qemu:///system",
  vm: "web",
  domain: "fleet-web",
  uuid: UUID,
  domainId: UUID,
  imageId: "image-2",
  imageDigest: "digest-2",
  overlayPath: "/pool/fleet-web-2.qcow2",
  memoryMiB: 512,
  vcpus: 1,
  network: "user",
  accelerator: "tcg",
  seedDigest: "seed-1",
  persistPath: "/pool/web.qcow2",
  persistBytes: 2 ** 30,
  running: true,
  contract: "nixvm",
  stopTimeoutSeconds: 60,
};

/** What libvirt prints of a domain with that boot disk and shape. */
export function domainXml(
  bootPath: string,
  shape: { memory?: number; vcpus?: number; maximum?: [number, number] } = {},
): string {
  const { memory = 512, vcpus = 1, maximum = [memory, vcpus] } = shape;
  return `<domain type="qemu">
  <name>fleet-web</name>
  <memory unit="KiB">${maximum[0] * 1024}</memory>
  <currentMemory unit="KiB">${memory * 1024}</currentMemory>
  <vcpu placement="static" current="${vcpus}">${maximum[1]}</vcpu>
  <devices>
    <disk type="file" device="disk"><source file="${bootPath}"/><target dev="vda"/><serial>boot</serial></disk>
    <disk type="file" device="disk"><source file="/pool/fleet-web-persist"/><target dev="vdb"/><serial>persist</serial></disk>
    <memballoon model="${shape.maximum ? "virtio" : "none"}"/>
  </devices>
</domain>`;
}

/** A libvirt with one domain, whose fields the test sets; every call is noted in `calls`. */
export class FakeLibvirt implements Libvirt {
  calls: string[] = [];
  list: DomainRef[] = [{ uuid: UUID, name: "fleet-web" }];
  domain: DomainState = { state: "running", reason: "booted" };
  /** undefined: the agent is silent. */
  system: string | undefined = "running";
  status: Record<string, unknown> | undefined = {
    schema: 1,
    imageId: "image-2",
    imageVersion: "v2",
    bootId: "boot-1",
    bootedAt: "2026-01-01T00:00:00Z",
    machineId: "0123",
    healthy: true,
    reasons: [],
    persist: { state: "mounted", sizeBytes: 2 ** 30 - 2 ** 20 },
    seed: { state: "applied", digest: "seed-1" },
    sshHostKey: "ssh-ed25519 AAAA",
  };
  bytes = 2 ** 30;
  addresses: unknown = [{ name: "eth0", "ip-addresses": [{ "ip-address-type": "ipv4", "ip-address": "10.0.2.15" }] }];
  /** What `systemctl restart` of these units does, and its exit code. */
  onRestart: (units: string) => number = () => 0;
  /** What a command in the guest leaves behind, by what is in its script; the first that fits. Those asked for are in `asked`. */
  commands: [part: string, result: () => Partial<GuestResult>][] = [];
  asked: string[] = [];
  onShutdown: (mode: "agent" | "acpi") => void = () => (this.domain = { state: "shut off", reason: "shutdown" });
  /** Thrown by the next calls of that name. */
  failing = new Map<string, LibvirtError>();
  private reply = { exited: true, exitcode: 0, "out-data": "", "err-data": "" };

  private note(name: string, text = name): void {
    this.calls.push(text);
    const error = this.failing.get(name);
    if (error) throw error;
  }

  async domains(): Promise<DomainRef[]> {
    this.note("list");
    return this.list;
  }

  async state(): Promise<DomainState> {
    this.note("state");
    return this.domain;
  }

  async start(): Promise<void> {
    this.note("start");
    this.domain = { state: "running", reason: "booted" };
    this.live = this.inactive;
    this.onStart(this.inactive);
  }

  async resume(): Promise<void> {
    this.note("resume");
    this.domain = { state: "running", reason: "unpaused" };
  }

  async shutdown(_uuid: string, mode: "agent" | "acpi"): Promise<void> {
    this.note(`shutdown ${mode}`);
    this.onShutdown(mode);
  }

  async destroy(): Promise<void> {
    this.note("destroy");
    this.domain = { state: "shut off", reason: "destroyed" };
  }

  async ejectMedium(): Promise<void> {
    this.note("ejectMedium");
  }

  async changeMedium(_uuid: string, path: string): Promise<void> {
    this.note("changeMedium", `changeMedium ${path}`);
  }

  async diskBytes(): Promise<number> {
    this.note("diskBytes");
    return this.bytes;
  }

  async blockResize(_uuid: string, _path: string, bytes: number): Promise<void> {
    this.note("blockResize", `blockResize ${bytes}`);
    this.bytes = bytes;
  }

  async volumeResize(_path: string, bytes: number): Promise<void> {
    this.note("volumeResize", `volumeResize ${bytes}`);
    this.bytes = bytes;
  }

  /** The definition; a start makes it what runs. */
  inactive = domainXml(want.overlayPath);
  live = this.inactive;
  /** What a start of the machine in its definition does. */
  onStart: (xml: string) => void = () => undefined;
  missingVolumes = new Set<string>();
  /** What the balloon says; follows what is asked for unless it is unset. */
  balloon: number | undefined = 512;
  processors: Array<{ "logical-id": number; online: boolean }> = [{ "logical-id": 0, online: true }];

  async xml(): Promise<string> {
    this.note("xml");
    return this.live;
  }

  async definition(): Promise<string> {
    this.note("definition");
    return this.inactive;
  }

  async define(xml: string): Promise<void> {
    this.note("define");
    // As libvirt does, which prints other units than it was given.
    this.inactive = xml.replace(/unit="MiB">(\d+)/g, (_, size) => `unit="KiB">${Number(size) * 1024}`);
  }

  async hasVolume(path: string): Promise<boolean> {
    this.note("hasVolume");
    return !this.missingVolumes.has(path);
  }

  async autostart(_uuid: string, on: boolean): Promise<void> {
    this.note("autostart", `autostart ${on}`);
  }

  async setMemory(_uuid: string, mebibytes: number): Promise<void> {
    this.note("setMemory", `setMemory ${mebibytes}`);
    if (this.balloon !== undefined) this.balloon = mebibytes;
  }

  async memory(): Promise<number | undefined> {
    this.note("memory");
    return this.balloon;
  }

  async setVcpus(_uuid: string, count: number): Promise<void> {
    this.note("setVcpus", `setVcpus ${count}`);
    this.processors = Array.from({ length: count }, (_, id) => ({ "logical-id": id, online: id === 0 }));
  }

  async updateDevice(_uuid: string, xml: string): Promise<void> {
    // As libvirt: the card is found by its MAC address.
    this.live = this.live.replace(/<interface.*?<\/interface>/s, () => xml);
    const nic = machineOf(this.live)?.nic;
    this.note("updateDevice", `updateDevice ${nic?.type} ${nic?.source} ${nic?.link}`);
  }

  async agent(_uuid: string, command: AgentCommand): Promise<unknown> {
    if (this.system === undefined) throw new LibvirtError("agent", "QEMU guest agent is not connected");
    switch (command.execute) {
      case "guest-exec":
        this.exec((command.arguments?.["arg"] as string[])[1]!);
        return { pid: 7 };
      case "guest-exec-status":
        return this.reply;
      case "guest-get-vcpus":
        return this.processors;
      case "guest-set-vcpus":
        this.processors = this.processors.map((one) => ({ ...one, online: true }));
        return this.processors.length;
      default:
        return this.addresses;
    }
  }

  private exec(script: string): void {
    const units = [...script.matchAll(/systemctl restart (\S+)/g)].map((match) => match[1]!);
    const command = this.commands.find(([part]) => script.includes(part));
    let left: Partial<GuestResult> = { out: `${this.system}\n--nixvm--\n${JSON.stringify(this.status) ?? ""}` };
    if (command !== undefined) {
      this.asked.push(command[0]);
      left = command[1]();
    } else if (units.length > 0) {
      this.note(`restart ${units.join(" ")}`);
      left = { code: this.onRestart(units.join(" ")) };
    }
    const { code: exitcode = 0, out = "", err = "" } = left;
    const data = (text: string): string => Buffer.from(text).toString("base64");
    this.reply = { exited: true, exitcode, "out-data": data(out), "err-data": data(err) };
  }
}

/** Networks and filters of a host as text, changed as libvirt does it. */
export class FakeNetworks implements Networks {
  /** By `<name> <definition>`. */
  definitions = new Map<string, string>();
  filters = new Map<string, string>();
  changes: string[] = [];
  /** Thrown by the next change. */
  failing: LibvirtError | undefined;

  async xml(network: string, which: Definition): Promise<string | undefined> {
    return this.definitions.get(`${network} ${which}`);
  }

  async update(network: string, which: Definition, { command, section, xml }: NetworkChange): Promise<void> {
    const error = this.failing;
    this.failing = undefined;
    if (error) throw error;
    this.changes.push(`${network} ${which} ${command} ${section} ${xml}`);
    const key = `${network} ${which}`;
    const text = this.definitions.get(key) ?? "";
    const field = section === "dns-host" ? "ip" : "mac";
    const id = new RegExp(`${field}='([^']*)'`).exec(xml)?.[1] ?? "";
    const entry =
      section === "dns-host"
        ? new RegExp(`<host ip='${id}'>.*?</host>`, "s")
        : new RegExp(`<host mac='${id}'[^>]*/>`, "s");
    if ((command === "add-last") === entry.test(text)) throw new Error(`fake: ${command} of ${xml} is not possible`);
    const end = section === "dns-host" ? "</dns>" : "</dhcp>";
    this.definitions.set(
      key,
      command === "add-last" ? text.replace(end, xml + end) : text.replace(entry, command === "modify" ? xml : ""),
    );
  }

  async filter(name: string): Promise<string | undefined> {
    return this.filters.get(name);
  }

  async defineFilter(xml: string): Promise<void> {
    const name = /<filter name='([^']*)'/.exec(xml)?.[1] ?? "";
    this.changes.push(`define filter ${name}`);
    this.filters.set(name, xml);
  }

  async removeFilter(name: string): Promise<void> {
    this.changes.push(`remove filter ${name}`);
    this.filters.delete(name);
  }
}

const unexpected = async (): Promise<never> => {
  throw new Error("this test has no files of disks");
};
/** Tests of snapshots have real files: see provider-disks.ts. */
const noDisks: Disks = { read: unexpected, space: unexpected, hold: unexpected };

/** A whole world for one test. */
export class Scene {
  clock = new FakeClock();
  libvirt = new FakeLibvirt();
  networks = new FakeNetworks();
  abort = new AbortController();
  progress: string[] = [];
  infos: string[] = [];
  warnings: string[] = [];
  deps: Deps = {
    libvirt: this.libvirt,
    disks: noDisks,
    networks: this.networks,
    libvirtAt: () => this.libvirt,
    failed: {},
    begun: 0,
    clock: this.clock,
    signal: this.abort.signal,
    progress: (line) => this.progress.push(line),
    info: (line) => this.infos.push(line),
    warn: (line) => this.warnings.push(line),
  };

  /** The same as a provider sees it. */
  world(): World {
    const { disks, clock, networks } = this.deps;
    const display = { log: () => undefined, flush: () => Promise.resolve() };
    return {
      libvirt: () => this.libvirt,
      disks: () => disks,
      networks: () => networks,
      clock,
      signal: this.abort.signal,
      display: () => display,
    };
  }
}
