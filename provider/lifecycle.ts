import { address, Look, look } from "./agent";
import { Backoff, Cancelled, orCancelled } from "./clock";
import { consoleTail } from "./console";
import { Deps, Gate, GuestFailure } from "./gate";
import { goBack, goForward } from "./goBack";
import { growDisk, growFileSystem } from "./grow";
import { GuestInputs, Props } from "./inputs";
import { Quarantined } from "./quarantine";
import { stopGuest } from "./stop";
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

/** How a guest came to be what it is asked to be now. */
export interface History {
  /** The guest starts for the first time on its overlay: a failure is one of the image. */
  fresh: boolean;
  /** Images that failed on this VM. */
  quarantined: Quarantined[];
}

/** Brings the guest to what `want` says, from wherever it is; serves create and update alike. Gives the outputs. */
export async function applyGuest(
  want: GuestInputs,
  timeoutSeconds: number,
  deps: Deps,
  { fresh, quarantined }: History = { fresh: false, quarantined: [] },
): Promise<Props> {
  // libvirt's test driver runs no guests: there is nothing to wait for, and every virsh would see a world of its own.
  if (want.uri.startsWith("test:")) return { ...want };
  await ours(want, deps);
  const others = quarantined.filter(({ digest }) => digest !== want.imageDigest);
  const observed: Props = { ...want, healthy: false, ...known(quarantined) };
  const limitMs = (timeoutSeconds > 0 ? timeoutSeconds : defaultGateSeconds) * 1000;
  try {
    // Also after a way back that was broken off.
    const maybeBack = want.goBack === true || want.retry === true || quarantined.length > 0;
    if (want.running && !fresh && maybeBack) fresh = await goForward(want, deps);
    const reached = want.running ? await bringUp(want, limitMs, deps, observed) : await bringDown(want, deps);
    return { ...reached, ...known(others) };
  } catch (error) {
    if (error instanceof Cancelled) {
      throw new InitFailed(`${want.vm}: cancelled while it was waited for; run "pulumi up" again`, want.uuid, observed);
    }
    if (error instanceof GuestFailure) {
      if (error.look) Object.assign(observed, outputs(want, error.look, undefined), { healthy: false });
      const message = await explain(want, error);
      if (!fresh || want.goBack !== true) throw new InitFailed(message, want.uuid, observed);
      const back = await goBack(want, limitMs, deps);
      if (back.look) Object.assign(observed, outputs(want, back.look, undefined));
      const entry = { digest: want.imageDigest, reason: error.message, at: new Date().toISOString() };
      throw new InitFailed(`${message}\n${want.vm}: ${back.said}`, want.uuid, {
        ...observed,
        ...known(back.look ? [...others, entry] : quarantined),
      });
    }
    if (error instanceof LibvirtError) throw new InitFailed(`${want.vm}: ${error.message}`, want.uuid, observed);
    throw error;
  }
}

const known = (quarantined: Quarantined[]): Props => (quarantined.length > 0 ? { quarantined } : {});

async function bringUp(want: GuestInputs, limitMs: number, deps: Deps, observed: Props): Promise<Props> {
  const { state } = await orCancelled(deps.libvirt.state(want.uuid), deps.signal);
  // Before the gate: a disk that is large enough when the guest starts needs no second step.
  const grew = await growDisk(want, state !== "shut off", deps);
  observed["state"] = state;
  let seen = await new Gate(want, deps, limitMs).wait();
  seen = await growFileSystem(want, seen, grew && state !== "shut off", deps);
  const ip = await firstAddress(want, deps);
  if (seen.status?.rebootPending) {
    const staged = seen.status.update?.staged;
    deps.warn(`${staged ? `the update ${staged}` : "part of its seed"} takes effect only when it restarts`);
  }
  const version = seen.status?.imageVersion;
  deps.progress(version ? `healthy, image ${version}` : "healthy");
  return outputs(want, seen, ip);
}

async function bringDown(want: GuestInputs, deps: Deps): Promise<Props> {
  await stopGuest(want.uuid, want.stopTimeoutSeconds * 1000, deps);
  await growDisk(want, false, deps);
  deps.progress("shut off");
  return { ...want, state: "shut off" };
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
  if (want.uri.startsWith("test:")) return;
  const domains = await orCancelled(deps.libvirt.domains(), deps.signal);
  if (!domains.some((domain) => domain.uuid === want.uuid)) {
    const other = domains.find((domain) => domain.name === want.domain);
    if (other) {
      deps.warn(
        `domain "${want.domain}" has UUID ${other.uuid}, not ${want.uuid}: it is not ours and is left as it is`,
      );
    }
    return;
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
}

/** What the guest really runs; undefined when its domain is gone. `olds` are the outputs of the last look. */
export async function readGuest(want: GuestInputs, olds: Props, deps: Deps): Promise<Props | undefined> {
  if (want.uri.startsWith("test:")) return olds;
  const domains = await orCancelled(deps.libvirt.domains(), deps.signal);
  if (!domains.some((domain) => domain.uuid === want.uuid)) return undefined;
  const { state } = await orCancelled(deps.libvirt.state(want.uuid), deps.signal);
  if (state !== "running") return { ...olds, state };
  let seen: Look;
  try {
    seen = await look(deps.libvirt, want.uuid, deps.clock, deps.signal);
  } catch (error) {
    if (!(error instanceof LibvirtError) || error.kind !== "agent") throw error;
    deps.warn(`the guest agent is silent, so what is known is from the last run: ${error.message}`);
    return { ...olds, state };
  }
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
async function explain(want: GuestInputs, failure: GuestFailure): Promise<string> {
  const lines = [`${want.vm}: ${failure.message}`];
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
