import { isDeepStrictEqual } from "node:util";
import { address } from "./agent";
import { Backoff, orCancelled } from "./clock";
import { Machine, machineOf, movedNic, withMachine } from "./domainXml";
import { Deps, GuestFailure } from "./gate";
import { filterName } from "./egress";
import { GuestInputs } from "./inputs";

/** Memory comes and goes page by page, and under emulation slowly; a guest without a balloon driver never gets there. */
const followMs = 60_000;
/** To notice that the cable is out, and to get an address where it is put in again. */
const addressMs = 20_000;

type Bootable = Machine & { bootPath: string };

/** The machine that a Guest asks for. */
export function machineFor(want: GuestInputs): Bootable {
  return {
    bootPath: want.overlayPath,
    memoryMiB: want.memoryMiB,
    memoryMaximumMiB: want.memoryMaximumMiB ?? want.memoryMiB,
    vcpus: want.vcpus,
    vcpusMaximum: want.vcpusMaximum ?? want.vcpus,
    balloon: want.memoryMaximumMiB !== undefined,
    nic: cardOf(want),
  };
}

function cardOf({ nic, egress, domain }: GuestInputs): Machine["nic"] {
  return nic && { ...nic, link: "up", ...(egress === undefined ? {} : { filter: filterName(domain) }) };
}

function read(xml: string, uuid: string): Machine {
  const machine = machineOf(xml);
  if (machine === undefined)
    throw new Error(`the domain ${uuid} has more than one disk with the serial boot, or one that is no file`);
  return machine;
}

/** What a running guest runs as. */
export async function runningMachine(uuid: string, { libvirt, signal }: Deps): Promise<Machine> {
  return read(await orCancelled(libvirt.xml(uuid), signal), uuid);
}

/** What the next start of a domain goes by. */
export async function definedMachine(uuid: string, { libvirt, signal }: Deps): Promise<Machine> {
  return read(await orCancelled(libvirt.definition(uuid), signal), uuid);
}

/** Has the next start go by another machine. All else of the domain stays as it is. */
export async function defineMachine(uuid: string, machine: Bootable, { libvirt, signal }: Deps): Promise<void> {
  const xml = await orCancelled(libvirt.definition(uuid), signal);
  if (!same(read(xml, uuid), machine)) await orCancelled(libvirt.define(withMachine(xml, machine)), signal);
}

function same(a: Machine, b: Machine): boolean {
  return (Object.keys(b) as (keyof Machine)[]).every((key) => isDeepStrictEqual(a[key], b[key]));
}

/** Whether a running guest can only become that machine by a restart. libvirt's test driver changes no devices. */
export function needsRestart(now: Machine, then: Machine, testDriver: boolean): boolean {
  const fixed = ["bootPath", "memoryMaximumMiB", "vcpusMaximum", "balloon"] as const;
  // The card as the guest knows it.
  if (now.nic?.mac !== then.nic?.mac || (testDriver && !isDeepStrictEqual(now.nic, then.nic))) return true;
  // A guest may take its time to hand a processor back, or never do so.
  return then.vcpus < now.vcpus || fixed.some((key) => now[key] !== then[key]);
}

/** Gives a running guest more or less memory and more processors, within its maximum, and waits until it has followed. */
export async function changeLive(now: Machine, want: GuestInputs, deps: Deps): Promise<void> {
  const { libvirt, signal } = deps;
  const { uuid, memoryMiB, vcpus } = want;
  if (now.memoryMiB !== memoryMiB) {
    deps.progress(`memory changes from ${now.memoryMiB} to ${memoryMiB} MiB`);
    await orCancelled(libvirt.setMemory(uuid, memoryMiB), signal);
    await follows(
      async () => (await orCancelled(libvirt.memory(uuid), signal)) === memoryMiB,
      deps,
      () =>
        `does not follow to ${memoryMiB} MiB of memory; is the driver virtio_balloon in its image, and is so much free in it?`,
    );
  }
  if (now.vcpus !== vcpus) {
    deps.progress(`vCPUs change from ${now.vcpus} to ${vcpus}`);
    await orCancelled(libvirt.setVcpus(uuid, vcpus), signal);
  }
  await moveNic(now, want, deps);
  // Asked each time: a run that was broken off may have left processors that the guest does not use yet.
  if (want.vcpusMaximum !== undefined) {
    await follows(
      () => processorsOnline(want, deps),
      deps,
      () => `does not follow to ${vcpus} vCPUs`,
    );
  }
}

/**
 * Plugs a running guest's card in elsewhere. Its link is down for a moment, so that a guest with DHCP asks for an address anew; a run
 * that is broken off in that moment leaves a card that is down, which the next one finds.
 */
async function moveNic(now: Machine, want: GuestInputs, deps: Deps): Promise<void> {
  const { libvirt, signal } = deps;
  const { uuid } = want;
  const nic = cardOf(want);
  if (nic === undefined || isDeepStrictEqual(now.nic, nic)) return;
  if (now.nic?.link === "up" && now.nic.source === nic.source && now.nic.type === nic.type) {
    const xml = await orCancelled(libvirt.xml(uuid), signal);
    return orCancelled(libvirt.updateDevice(uuid, movedNic(xml, nic)), signal);
  }
  deps.progress(`its network card moves to ${nic.type} ${nic.source}`);
  const hasAddress = async () => (await address(libvirt, uuid, signal)) !== undefined;
  const had = await hasAddress();
  for (const link of ["down", "up"] as const) {
    const xml = await orCancelled(libvirt.xml(uuid), signal);
    await orCancelled(libvirt.updateDevice(uuid, movedNic(xml, { ...nic, link })), signal);
    // Else the next look would find the former address. Whether one is needed is for health checks to say.
    if (had) await reached(async () => (await hasAddress()) === (link === "up"), addressMs, deps);
  }
}

async function follows(done: () => Promise<boolean>, deps: Deps, wrong: () => string): Promise<void> {
  if (!(await reached(done, followMs, deps))) throw new GuestFailure(wrong());
}

/** False when the time is over before. */
async function reached(done: () => Promise<boolean>, limitMs: number, deps: Deps): Promise<boolean> {
  const backoff = new Backoff(deps.clock, deps.signal);
  const begun = deps.clock.now();
  while (!(await done())) {
    if (deps.clock.now() - begun > limitMs) return false;
    await backoff.pause();
  }
  return true;
}

interface Processor {
  "logical-id": number;
  online?: boolean;
}

/** Whether the guest uses all of its processors; those that are new to it are switched on through its agent. */
async function processorsOnline({ uuid, vcpus }: GuestInputs, { libvirt, signal }: Deps): Promise<boolean> {
  const found = (await orCancelled(libvirt.agent(uuid, { execute: "guest-get-vcpus" }), signal)) as Processor[];
  const idle = found.filter(({ online }) => !online);
  if (idle.length > 0) {
    const all = idle.map((one) => ({ "logical-id": one["logical-id"], online: true }));
    await orCancelled(libvirt.agent(uuid, { execute: "guest-set-vcpus", arguments: { vcpus: all } }), signal);
  }
  return found.length - idle.length === vcpus;
}
