import { admit } from "./admit";
import { address, Look, look } from "./agent";
import { probeChecks, runChecks, wasHealthy } from "./checks";
import { Backoff, Cancelled, orCancelled } from "./clock";
import { consoleTail } from "./console";
import { dataAtRisk, keepData, knownSnapshots } from "./data";
import { DataError } from "./dataSnapshot";
import { Deps, Gate, GuestFailure, HostFailure } from "./gate";
import { goBack } from "./goBack";
import { growDisk, growFileSystem } from "./grow";
import { dropFilter, egressHolds, keepFilter } from "./egress";
import { GuestInputs, Props } from "./inputs";
import { keepLease, LeaseError, leaseHolds } from "./lease";
import { changeLive, defineMachine, definedMachine, machineFor, needsRestart, runningMachine } from "./machine";
import { afterFailure, afterSuccess, LastGood, Memory, memoryOf, remembered } from "./memory";
import { stopGuest } from "./stop";
import { isOwnWorld, isTestDriver } from "./testDriver";
import { LibvirtError } from "./virsh";

/** Seconds a gate waits unless `customTimeouts` says otherwise: some forty times what a lean guest takes under TCG. */
export const defaultGateSeconds = 600;

/**
 * The guest exists but is not as wanted. It goes to the engine as a *partial* failure, so that the Guest stays in the
 * state with the inputs that were tried. A plain failure would do harm: on the way good -> bad -> good the state would
 * hold no Guest for the bad domain (or one that is already deleted), so nothing would stop it cleanly before the next
 * `up` replaces its domain; and a reverted seed would look unchanged and never be applied again. With a partial failure
 * the next `up` with the same inputs runs the gate again, one with the former image deletes this Guest (clean stop) and
 * makes a new one, and dependents (the next VM of the rollout) are not touched meanwhile.
 */
export class InitFailed extends Error {
  constructor(
    message: string,
    readonly id: string,
    readonly properties: Props,
  ) {
    super(message);
    this.name = "InitFailed";
  }
}

/** Brings the guest to what `want` says, from wherever it is; serves create and update alike. Gives the outputs. */
export async function applyGuest(
  want: GuestInputs,
  timeoutSeconds: number,
  deps: Deps,
  memory: Memory = { quarantined: [] },
  had: OnHost = {},
): Promise<Props> {
  if (isOwnWorld(want.uri)) return { ...want };
  await ours(want, deps);
  await prepareNetwork(want, had, deps);
  const observed: Props = { ...want, healthy: false };
  const { lastGood } = memory;
  const before: Before = { lastGood, had };
  const limitMs = (timeoutSeconds > 0 ? timeoutSeconds : defaultGateSeconds) * 1000;
  const failed = (message: string, then: Memory = memory) =>
    new InitFailed(message, want.uuid, { ...observed, ...remembered(then) });
  try {
    await orCancelled(deps.libvirt.autostart(want.uuid, want.running), deps.signal);
    if (!want.running) return { ...(await bringDown(want, before, deps)), ...remembered(memory) };
    return { ...(await bringUp(want, limitMs, deps, observed, before)), ...remembered(afterSuccess(memory, want)) };
  } catch (error) {
    if (error instanceof Cancelled)
      throw failed(`${want.vm}: cancelled while it was waited for; run "pulumi up" again`);
    if (error instanceof LibvirtError) throw failed(`${want.vm}: ${error.message}`);
    // The VM is what it was, and so has the state to be.
    if (error instanceof DataError) throw new Error(`${want.vm}: ${error.message}`, { cause: error });
    if (!(error instanceof GuestFailure)) throw error;
    deps.failed.vm ??= want.vm;
    if (error.look) Object.assign(observed, outputs(want, error.look, undefined), { healthy: false });
    const message = await explain(want, error, before);
    // One that was well on this very overlay has another trouble than its image.
    if (want.goBack !== true || lastGood === undefined || lastGood.overlayPath === want.overlayPath)
      throw failed(message);
    const back = await goBack(want, lastGood, limitMs, deps);
    if (back.look) Object.assign(observed, outputs({ ...want, ...lastGood }, back.look, undefined));
    const blamed = back.look !== undefined && before.unwell === undefined && !(error instanceof HostFailure);
    const then = blamed ? afterFailure(memory, want.imageDigest, error.message, new Date(deps.clock.wall())) : memory;
    const again = error instanceof HostFailure ? '; the image is not to blame: run "pulumi up" again' : "";
    throw failed(`${message}\n${want.vm}: ${back.said}${again}`, then);
  }
}

/** How a guest was before it was touched. */
interface Before {
  readonly had: OnHost;
  readonly lastGood: LastGood | undefined;
  /** Why it was not healthy then: an image that does not heal it is not to blame for that. */
  unwell?: string;
}

/** What a VM has on its host besides its domain. */
type OnHost = Pick<GuestInputs, "nic" | "lease" | "egress">;

/**
 * What its network and its card refer to is there before the VM is touched. What goes wrong here is no partial failure: the state still
 * has to name what the VM had before.
 */
async function prepareNetwork(want: GuestInputs, had: OnHost, deps: Deps): Promise<void> {
  if (isTestDriver(want.uri)) return;
  try {
    if (want.lease || had.lease) await keepLease(want, had, deps);
    await keepFilter(want, deps);
  } catch (error) {
    if (error instanceof LeaseError || error instanceof LibvirtError)
      throw new Error(`${want.vm}: ${error.message}`, { cause: error });
    throw error;
  }
}

async function bringUp(
  want: GuestInputs,
  limitMs: number,
  deps: Deps,
  observed: Props,
  before: Before,
): Promise<Props> {
  const running = await becomeMachine(want, deps, before);
  if (isTestDriver(want.uri)) {
    // All that it has of a guest is that it runs.
    await new Gate(want, deps, limitMs).wait();
    return { ...want, state: "running", healthy: true };
  }
  // Before the gate: a disk that is large enough when the guest starts needs no second step.
  const grew = await growDisk(want, running, deps);
  observed["state"] = running ? "running" : "shut off";
  let seen = await new Gate(want, deps, limitMs).wait();
  seen = await growFileSystem(want, seen, grew && running, deps);
  await runChecks(want.checks ?? [], want.uuid, deps, limitMs, seen);
  const ip = await firstAddress(want, deps);
  if (seen.status?.rebootPending) {
    const staged = seen.status.update?.staged;
    deps.warn(`${staged ? `the update ${staged}` : "part of its seed"} takes effect only when it restarts`);
  }
  const version = seen.status?.imageVersion;
  deps.progress(version ? `healthy, image ${version}` : "healthy");
  return { ...outputs(want, seen, ip), ...(await knownSnapshots(want, deps)) };
}

/** Gives a guest the machine that is wanted: live where it can be, else with a clean stop. True when it still runs then. */
async function becomeMachine(want: GuestInputs, deps: Deps, before: Before): Promise<boolean> {
  const then = machineFor(want);
  const data = await dataAtRisk(want, before.lastGood, deps);
  const { state } = await orCancelled(deps.libvirt.state(want.uuid), deps.signal);
  let running = state !== "shut off";
  if (running) {
    const now = await runningMachine(want.uuid, deps);
    if (needsRestart(now, then, isTestDriver(want.uri))) {
      // A chassis without a boot disk has never been a guest.
      if (now.bootPath !== undefined) {
        await admit(want.vm, want.rollout, deps);
        if (!isTestDriver(want.uri)) await lookBefore(want, deps, before);
      }
      await stopGuest(want.uuid, want.stopTimeoutSeconds * 1000, deps);
      running = false;
    } else if (state === "running") {
      await changeLive(now, want, deps);
    }
  }
  if (data && !running) await keepData(data, state !== "shut off", deps);
  await defineMachine(want.uuid, then, deps);
  await leaveNetwork(want, before, deps);
  return running;
}

/** Nothing refers any more to what the VM is not to have. */
async function leaveNetwork(want: GuestInputs, { had }: Pick<Before, "had">, deps: Deps): Promise<void> {
  if (had.egress && !want.egress && !isTestDriver(want.uri)) await dropFilter(want.domain, deps);
}

/** While the guest still runs as it was: what will be missed, and what is wrong already. */
async function lookBefore(want: GuestInputs, deps: Deps, before: Before): Promise<void> {
  await probeChecks(want.checks ?? [], want.uuid, deps);
  const { contract, checks } = before.lastGood ?? { contract: want.contract, checks: [] };
  const { why } = await wasHealthy(want.uuid, deps, contract, checks);
  if (why === undefined) return;
  before.unwell = why;
  deps.warn(`was not healthy before this change: ${why}`);
}

async function bringDown(want: GuestInputs, before: Before, deps: Deps): Promise<Props> {
  const data = await dataAtRisk(want, before.lastGood, deps);
  await stopGuest(want.uuid, want.stopTimeoutSeconds * 1000, deps);
  if (data) await keepData(data, false, deps);
  await defineMachine(want.uuid, machineFor(want), deps);
  await leaveNetwork(want, before, deps);
  if (!isTestDriver(want.uri)) await growDisk(want, false, deps);
  deps.progress("shut off");
  return { ...want, state: "shut off", ...(await knownSnapshots(want, deps)) };
}

/** DHCP may be some moments behind the rest; a guest without a NIC never gets one, so the wait is short. */
async function firstAddress(want: GuestInputs, deps: Deps): Promise<string | undefined> {
  const backoff = new Backoff(deps.clock, deps.signal);
  const begun = deps.clock.now();
  for (;;) {
    const ip = await address(deps.libvirt, want.uuid, deps.signal);
    if (ip !== undefined || deps.clock.now() - begun > 3000) return ip;
    await backoff.pause();
  }
}

function outputs(want: GuestInputs, seen: Look, ip: string | undefined): Props {
  const status = seen.status;
  if (status === undefined) return { ...want, state: "running", healthy: true, ip };
  return {
    ...want,
    state: "running",
    healthy: status.healthy,
    ip,
    imageId: status.imageId,
    imageVersion: status.imageVersion,
    bootId: status.bootId,
    bootedAt: status.bootedAt,
    machineId: status.machineId,
    sshHostKey: status.sshHostKey,
    persistBytes: status.persist?.sizeBytes || want.persistBytes,
  };
}

/**
 * Clean stop before the domain goes. A domain that is not there is a success; one that has our name but another UUID is
 * somebody else's and is left alone.
 */
export async function deleteGuest(want: GuestInputs, timeoutSeconds: number, deps: Deps): Promise<void> {
  if (isOwnWorld(want.uri)) return;
  const domains = await orCancelled(deps.libvirt.domains(), deps.signal);
  if (!domains.some((domain) => domain.uuid === want.uuid)) {
    const other = domains.find((domain) => domain.name === want.domain);
    if (other) {
      deps.warn(
        `domain "${want.domain}" has UUID ${other.uuid}, not ${want.uuid}: it is not ours and is left as it is`,
      );
    }
    return forget(want, deps);
  }
  const limit = timeoutSeconds > 0 ? Math.min(timeoutSeconds, want.stopTimeoutSeconds) : want.stopTimeoutSeconds;
  try {
    await stopGuest(want.uuid, limit * 1000, deps);
  } catch (error) {
    if (error instanceof Cancelled) {
      throw new Error(
        `${want.vm}: cancelled while it was stopping; it may still stop by itself; run "pulumi up" again`,
        { cause: error },
      );
    }
    throw error instanceof LibvirtError ? new Error(`${want.vm}: ${error.message}`, { cause: error }) : error;
  }
  await forget(want, deps);
}

/** What a VM that goes leaves on its host, besides its domain: the engine knows of neither, and of both that they are ours. */
async function forget(want: GuestInputs, deps: Deps): Promise<void> {
  if (isTestDriver(want.uri)) return;
  if (want.lease) await keepLease(undefined, want, deps);
  // Its domain is removed next: off, it needs no filter.
  if (want.egress) await dropFilter(want.domain, deps);
}

/** Inputs and outputs of a guest as it really is. */
export interface Found {
  inputs: Props;
  outputs: Props;
}

/** What the guest really runs; undefined when its domain is gone. `olds` are the outputs of the last look. */
export async function readGuest(want: GuestInputs, olds: Props, deps: Deps): Promise<Found | undefined> {
  if (isOwnWorld(want.uri)) return { inputs: { ...want }, outputs: olds };
  const domains = await orCancelled(deps.libvirt.domains(), deps.signal);
  if (!domains.some((domain) => domain.uuid === want.uuid)) return undefined;
  const real = await realInputs(want, olds, deps);
  const outputs = await readOutputs(real, olds, deps);
  return { inputs: { ...real }, outputs };
}

/**
 * The inputs that would make the guest what it is: a VM that was brought back is on its former image, whatever was tried. With them in
 * the state, the former image in the stack file is no change.
 */
export async function realInputs(want: GuestInputs, olds: Props, deps: Deps): Promise<GuestInputs> {
  const { bootPath, memoryMiB, vcpus, nic } = await definedMachine(want.uuid, deps);
  const { lastGood } = memoryOf(olds);
  // Its first start is still to come, which its state shows.
  if (bootPath === undefined) return want;
  const card = want.nic && nic ? { nic: { type: nic.type, source: nic.source, mac: nic.mac } } : {};
  const { lease, egress, ...all } = want;
  const kept = {
    ...all,
    ...(lease && (isTestDriver(want.uri) || (await leaseHolds(want, deps))) ? { lease } : {}),
    ...(egress && (isTestDriver(want.uri) || (await egressHolds(want, nic?.filter, deps))) ? { egress } : {}),
  };
  const { imageId: _, checks: __, ...rest } = { ...kept, overlayPath: bootPath, memoryMiB, vcpus, ...card };
  return bootPath === lastGood?.overlayPath ? { ...rest, ...lastGood } : { ...kept, ...rest };
}

/** A guest that stops, or whose agent has stopped already, gets this long to be off. */
const stoppingMs = 30_000;

/**
 * One look at a guest that is not on its way off: a run that was killed may have asked it to stop a moment ago, and it would still count as
 * running. `silent` says that its agent does not answer.
 */
async function settledLook(
  want: GuestInputs,
  deps: Deps,
): Promise<{ state: string; seen?: Look; silent?: LibvirtError }> {
  const backoff = new Backoff(deps.clock, deps.signal);
  const begun = deps.clock.now();
  for (;;) {
    const { state } = await orCancelled(deps.libvirt.state(want.uuid), deps.signal);
    if (state !== "running" || isTestDriver(want.uri)) return { state };
    const late = deps.clock.now() - begun >= stoppingMs;
    try {
      const seen = await look(deps.libvirt, want.uuid, deps.clock, deps.signal);
      if (seen.system !== "stopping" || late) return { state, seen };
      deps.progress("is stopping");
    } catch (error) {
      if (!(error instanceof LibvirtError) || error.kind !== "agent") throw error;
      if (late) return { state, silent: error };
      deps.progress("its agent is silent");
    }
    await backoff.pause();
  }
}

async function readOutputs(want: GuestInputs, olds: Props, deps: Deps): Promise<Props> {
  const { state, seen, silent } = await settledLook(want, deps);
  if (silent !== undefined)
    deps.warn(`the guest agent is silent, so what is known is from the last run: ${silent.message}`);
  if (seen === undefined) return { ...olds, state };
  const ip = (await address(deps.libvirt, want.uuid, deps.signal)) ?? olds["ip"];
  const now = { ...outputs(want, seen, undefined), ip };
  if (want.contract === "nixvm" && seen.status === undefined) {
    deps.warn(`no status record: ${seen.statusProblem ?? `the system is ${seen.system}`}`);
    return { ...olds, state };
  }
  // A guest computes it from its uptime, which may round differently: within one boot it cannot change.
  const sameBoot = "bootId" in now && now["bootId"] === olds["bootId"];
  return sameBoot ? { ...olds, ...now, bootedAt: olds["bootedAt"] } : { ...olds, ...now };
}

async function ours(want: GuestInputs, deps: Deps): Promise<void> {
  const domains = await orCancelled(deps.libvirt.domains(), deps.signal);
  if (domains.some((domain) => domain.uuid === want.uuid)) return;
  const other = domains.find((domain) => domain.name === want.domain);
  const who = other ? `; the domain "${want.domain}" there has UUID ${other.uuid} and is not ours` : "";
  // No partial failure: there is no domain that anybody would have to stop.
  throw new Error(
    `${want.vm}: libvirt at ${want.uri} has no domain with UUID ${want.uuid}${who}; "pulumi refresh" shows what is left`,
  );
}

/** Everything that helps to find out why, since the guest may be out of reach by ssh. */
async function explain(want: GuestInputs, failure: GuestFailure, before: Before): Promise<string> {
  const lines = [`${want.vm}: ${failure.message}`];
  if (before.unwell !== undefined) lines.push(`it was not healthy before either: ${before.unwell}`);
  if (failure.advice) lines.push(`what to do: ${failure.advice}`);
  const seen = failure.look;
  if (want.contract === "nixvm") {
    if (seen?.status) lines.push(`last status record: ${JSON.stringify(seen.status)}`);
    else lines.push(`last status record: none${seen ? ` (${seen.statusProblem ?? `system ${seen.system}`})` : ""}`);
  }
  const tail = await consoleTail(want.consoleLog);
  if ("none" in tail) return [...lines, `serial console: ${tail.none}`].join("\n");
  lines.push(`last ${tail.lines.length} lines of the serial console (${want.consoleLog}):`);
  lines.push(...tail.lines.map((line) => `  ${line}`));
  return lines.join("\n");
}
