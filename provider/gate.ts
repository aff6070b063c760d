import { guestExec, Look, look } from "./agent";
import { Backoff, Clock, orCancelled } from "./clock";
import { kernelPanic } from "./console";
import { Disks } from "./disks";
import { GuestInputs } from "./inputs";
import { Networks } from "./networks";
import { parseError } from "./parse";
import { StatusRecord } from "./status";
import { isTestDriver } from "./testDriver";
import { Libvirt, LibvirtError } from "./virsh";

/** What the lifecycle steps need from the outside. */
export interface Deps {
  libvirt: Libvirt;
  disks: Disks;
  networks: Networks;
  /** That of another host of the fleet. */
  libvirtAt: (uri: string) => Libvirt;
  clock: Clock;
  /** When this run began, on the clock's `now`. */
  begun: number;
  /** Of this run: the VM that was not healthy after its change. The engine hears of it only when the VM is back on its former image. */
  failed: { vm?: string };
  /** Aborts every wait when the engine cancels. */
  signal: AbortSignal;
  /** Live line in the display of `pulumi up`, gone when the step is over. */
  progress(message: string): void;
  /** Line that stays. */
  info(message: string): void;
  warn(message: string): void;
}

/** The guest is not what was asked for. `look` is the last thing it said, if it said anything. */
export class GuestFailure extends Error {
  constructor(
    message: string,
    readonly look?: Look,
    /** What to do about it, where the message does not say so already. */
    readonly advice?: string,
  ) {
    super(message);
    this.name = "GuestFailure";
  }
}

/** It is not, and its image is not to blame: QEMU died, somebody pulled the plug, the pool is full, or libvirt does not start it. */
export class HostFailure extends GuestFailure {}

/** A settled guest gets this long to correct what it says: units may still restart the status writer. */
const settleMs = 3000;
/** libvirtd may be restarted under us; longer than that is a failure. */
const unreachableMs = 20_000;
/** Re-applying a seed or growing a file system runs few commands, but under TCG each takes its time. */
const unitMs = 180_000;

/** States in which systemd has nothing more to start. */
const settled = new Set(["running", "degraded"]);

/** Waits until the guest itself says that it is what `want` asks for; rejects with {@link GuestFailure} otherwise. */
export class Gate {
  private last: Look | undefined;
  private phase = "starting";
  private phaseShown = "";
  private seenRunning = false;
  private resumed = false;
  private seedAsked = false;
  /** Since when the settled guest has been wrong, and in what way. */
  private wrong: { what: string; since: number } | undefined;
  private unreachableSince: number | undefined;
  private readonly begun: number;

  constructor(
    private readonly want: GuestInputs,
    private readonly deps: Deps,
    private readonly limitMs: number,
  ) {
    this.begun = deps.clock.now();
  }

  /** The record the guest passed with; its `status` is absent for images without our contract. */
  async wait(): Promise<Look> {
    const backoff = new Backoff(this.deps.clock, this.deps.signal);
    for (;;) {
      const before = this.phase;
      try {
        const passed = await this.step();
        this.unreachableSince = undefined;
        if (passed) {
          await this.leaveDrive();
          return passed;
        }
      } catch (error) {
        this.tolerate(error);
      }
      this.show();
      if (this.phase !== before) backoff.reset();
      if (this.elapsed() > this.limitMs) {
        throw new GuestFailure(
          `not healthy within ${Math.round(this.limitMs / 1000)} s; at the end: ${this.phase}`,
          this.last,
        );
      }
      await backoff.pause();
    }
  }

  /** It has read its medium, and has a copy of its own. */
  private async leaveDrive(): Promise<void> {
    const { uri, uuid, ejectSeed } = this.want;
    if (ejectSeed === true && !isTestDriver(uri))
      await orCancelled(this.deps.libvirt.ejectMedium(uuid), this.deps.signal);
  }

  private async step(): Promise<Look | undefined> {
    const { libvirt, clock, signal } = this.deps;
    const { state, reason } = await orCancelled(libvirt.state(this.want.uuid), signal);
    if (!(await this.domainRuns(state, reason))) return undefined;
    if (isTestDriver(this.want.uri)) return { system: "running" };
    let seen: Look;
    try {
      seen = await look(libvirt, this.want.uuid, clock, signal);
    } catch (error) {
      if (!(error instanceof LibvirtError) || error.kind !== "agent") throw error;
      // libvirt sees a guest that runs: nobody else would notice before the time is over.
      const panic = await kernelPanic(this.want.consoleLog);
      if (panic !== undefined) throw new GuestFailure(panic, this.last);
      this.phase = this.last ? "agent silent" : "booting";
      return undefined;
    }
    this.last = seen;
    return this.judge(seen);
  }

  /** False while the domain is on its way; rejects when it is not going to run. */
  private async domainRuns(state: string, reason: string): Promise<boolean> {
    const { libvirt, signal } = this.deps;
    if (state === "running" || state === "idle" || state === "blocked") {
      this.seenRunning = true;
      return true;
    }
    if (state === "shut off" && !this.seenRunning) {
      this.seenRunning = true;
      this.phase = "starting";
      await orCancelled(libvirt.start(this.want.uuid), signal).catch((error: unknown) => {
        if (error instanceof LibvirtError && error.kind === "failed") {
          throw new HostFailure(`does not start: ${parseError(error.message)}`);
        }
        throw error;
      });
      return false;
    }
    if (state === "paused" && /start|migrat|snapshot|unknown/.test(reason)) return false;
    const full = state === "paused" && /I\/O/.test(reason);
    if ((full || /user/.test(reason)) && state === "paused" && !this.resumed) {
      // Its pool was full when it last tried to write, and there may be room by now; or somebody suspended it, and it is to run.
      this.resumed = true;
      this.phase = "resuming";
      await orCancelled(libvirt.resume(this.want.uuid), signal);
      return false;
    }
    if (state === "in shutdown") {
      this.phase = "shutting down";
      return false;
    }
    const advice = full ? "the storage pool is probably full: make room, then run up again" : undefined;
    // A guest that powers itself off does so for a reason of its own; none pauses itself.
    const Failure = state === "paused" || (state === "shut off" && reason !== "shutdown") ? HostFailure : GuestFailure;
    throw new Failure(`stopped while it was waited for: ${state}${reason ? ` (${reason})` : ""}`, this.last, advice);
  }

  private async judge(seen: Look): Promise<Look | undefined> {
    if (seen.system === "maintenance")
      throw new GuestFailure("is in emergency mode and waits for an administrator", seen);
    if (this.want.contract === "none") return this.judgePlain(seen);
    const status = seen.status;
    if (status !== undefined && this.want.imageId !== undefined && status.imageId !== this.want.imageId) {
      throw new GuestFailure(`runs image "${status.imageId}", wanted "${this.want.imageId}"`, seen);
    }
    if (!settled.has(seen.system)) {
      this.wrong = undefined;
      this.phase = seen.system === "unknown" ? "agent answers" : `system ${seen.system}`;
      return undefined;
    }
    if (status === undefined) {
      const what = seen.statusProblem ?? "the system is up, but there is no /run/nixvm/status.json";
      return this.stillWrong(what, seen, 'an image without the nixvm contract needs "contract: none"');
    }
    if (this.want.seedDigest !== undefined && status.seed?.digest !== this.want.seedDigest) {
      return this.seedDiffers(status, seen);
    }
    if (!status.healthy) {
      const why = status.reasons.length > 0 ? status.reasons.join("; ") : "the guest gives no reason";
      return this.stillWrong(`says that it is not healthy (system ${seen.system}): ${why}`, seen);
    }
    return seen;
  }

  /** An image that knows nothing of us is well when its agent answers and nothing is left to start. */
  private judgePlain(seen: Look): Look | undefined {
    if (seen.system === "initializing" || seen.system === "starting" || seen.system === "stopping") {
      this.phase = `system ${seen.system}`;
      return undefined;
    }
    // Failed units are common in stock cloud images and say nothing about what its owner wants of it.
    if (seen.system === "degraded") this.deps.warn("some units failed in the guest: systemctl --failed tells which");
    return seen;
  }

  /**
   * Puts the new medium into the drive and asks once for it to be applied. The libvirt provider cannot do the first: it
   * knows a CD-ROM only as the second drive of an IDE cable, where a guest without a first one does not find it.
   */
  private async seedDiffers(status: StatusRecord, seen: Look): Promise<undefined> {
    if (!this.seedAsked) {
      this.seedAsked = true;
      this.phase = "applying the seed";
      this.show();
      if (this.want.seedPath !== undefined) {
        await orCancelled(this.deps.libvirt.changeMedium(this.want.uuid, this.want.seedPath), this.deps.signal);
      }
      await restartUnits(
        "nixvm-seed nixvm-status",
        "the new seed could not be applied",
        this.want.uuid,
        this.deps,
        seen,
      );
      return undefined;
    }
    const seed = status.seed;
    const has = seed ? `${seed.digest || "none"} (${seed.state}${seed.reason ? `: ${seed.reason}` : ""})` : "none";
    return this.stillWrong(`runs with seed ${has}, wanted ${this.want.seedDigest}`, seen);
  }

  /** Rejects when the same thing has been wrong for a while in a guest that has nothing left to start. */
  private stillWrong(what: string, seen: Look, advice?: string): undefined {
    const now = this.deps.clock.now();
    if (this.wrong?.what !== what) this.wrong = { what, since: now };
    if (now - this.wrong.since >= settleMs) throw new GuestFailure(what, seen, advice);
    this.phase = "settling";
    return undefined;
  }

  /** libvirt not answering for a moment is no verdict about the guest. */
  private tolerate(error: unknown): void {
    if (!(error instanceof LibvirtError) || (error.kind !== "unreachable" && error.kind !== "agent")) throw error;
    if (error.kind === "agent") return;
    const now = this.deps.clock.now();
    this.unreachableSince ??= now;
    if (now - this.unreachableSince > unreachableMs) throw error;
    this.phase = "libvirt does not answer";
  }

  private show(): void {
    // Booting takes longest and shows nothing else, so its seconds tell that something still happens.
    const booting = this.phase === "booting" || this.phase === "starting";
    const line = booting ? `${this.phase} (${Math.round(this.elapsed() / 1000)} s)` : this.phase;
    if (line !== this.phaseShown) this.deps.progress(line);
    this.phaseShown = line;
  }

  private elapsed(): number {
    return this.deps.clock.now() - this.begun;
  }
}

/** Restarts units of ours in the guest; each is a oneshot, so the command ends when their work is done. */
export async function restartUnits(
  units: string,
  failed: string,
  uuid: string,
  deps: Deps,
  seen?: Look,
): Promise<void> {
  const script = units
    .split(" ")
    .map((unit) => `systemctl restart ${unit}`)
    .join(" && ");
  const result = await guestExec(deps.libvirt, uuid, script, deps.clock, deps.signal, unitMs);
  if (result.code === 0) return;
  const text = (result.err || result.out).trim();
  // The units write down why they failed.
  const after = await look(deps.libvirt, uuid, deps.clock, deps.signal).catch(() => seen);
  throw new GuestFailure(`${failed}: "${script}" ended with ${result.code}${text ? `: ${text}` : ""}`, after);
}
