import { z } from "zod";
import { formatDuration } from "../components/plan/duration";
import { DAYS, formatMoment, openingAt } from "../components/plan/windows";
import { look } from "./agent";
import { Backoff, Cancelled, orCancelled } from "./clock";
import { Deps } from "./gate";
import { forEach } from "./parallel";
import { LibvirtError } from "./virsh";

const text = z.string().min(1, "must not be empty");

/** What a VM has to see to before it restarts for a change; documented for users in guest.ts. */
export const rolloutInput = z.strictObject({
  wave: z.int().positive(),
  waves: z.int().positive(),
  kind: z.enum(["new", "canary", "batch", "unhealthy"]),
  before: z.array(z.strictObject({ vm: text, domain: text, uri: text })).readonly(),
  soakSeconds: z.number().nonnegative(),
  windows: z
    .array(z.strictObject({ days: z.array(z.enum(DAYS)).min(1).readonly(), from: text, to: text, zone: text }))
    .readonly(),
  pause: z.boolean(),
  timeLimitSeconds: z.number().positive().optional(),
});

export type RolloutInput = z.infer<typeof rolloutInput>;

/** The VM may not be touched now. Nothing has been changed, so its state is what it was. */
export class NotAdmitted extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "NotAdmitted";
  }
}

/** A guest gets this long to correct what it says, as at the gate. */
const settleMs = 3000;
/** One that restarts by itself, or is too busy to answer. */
const silentMs = 60_000;
/** As at the gate: libvirtd may be restarted under us. */
const unreachableMs = 20_000;

/**
 * Returns when a VM that runs may be stopped for a change: no other has failed, the rollout is not paused, a window is open, and the
 * wave before has been healthy for long enough since its boot. Watches that wave meanwhile. Throws {@link NotAdmitted} otherwise. What has passed of the
 * time is known by the guests, so that another run waits for the rest only.
 */
export async function admit(vm: string, rollout: RolloutInput | undefined, deps: Deps): Promise<void> {
  const failed = deps.failed.vm;
  if (failed !== undefined && failed !== vm) {
    throw new NotAdmitted(`${vm}: the rollout stops before it: ${failed} has failed; what is left stays as it is`);
  }
  if (rollout === undefined) return;
  if (rollout.pause) {
    throw new NotAdmitted(
      `${vm}: the rollout is paused (nixvm:rollout.pause), so it is not restarted; allowed: false, then run "pulumi up" again`,
    );
  }
  try {
    await soaked(vm, rollout, deps);
  } catch (error) {
    if (error instanceof Cancelled) {
      throw new NotAdmitted(`${vm}: cancelled before it was touched; run "pulumi up" again`, { cause: error });
    }
    if (error instanceof LibvirtError) throw new NotAdmitted(`${vm}: ${error.message}`, { cause: error });
    throw error;
  }
}

async function soaked(vm: string, rollout: RolloutInput, deps: Deps): Promise<void> {
  const { windows, before, soakSeconds, timeLimitSeconds = Number.POSITIVE_INFINITY } = rollout;
  const witnesses = before.map((one) => new Witness(one, soakSeconds * 1000, deps));
  const backoff = new Backoff(deps.clock, deps.signal, 1000, 10_000);
  for (;;) {
    // Each time: a window may close while the wave before is waited for.
    const opening = openingAt(windows, deps.clock.wall());
    if (!opening.open) {
      const { next } = opening;
      const then = next === null ? "none opens within two weeks" : `the next one opens ${formatMoment(next)}`;
      throw new NotAdmitted(
        `${vm}: outside of the rollout's windows (nixvm:rollout.windows), so it is not restarted; ${then}; run "pulumi up" again then`,
      );
    }
    if (deps.clock.now() - deps.begun >= timeLimitSeconds * 1000) {
      throw new NotAdmitted(
        `${vm}: the run has gone on for longer than nixvm:rollout.timeLimit (${formatDuration(timeLimitSeconds)}), so it is not restarted; run "pulumi up" again`,
      );
    }
    const left = await forEach(witnesses, (witness) => witness.left());
    const failed = witnesses.find(({ verdict }) => verdict !== undefined);
    if (failed) {
      throw new NotAdmitted(
        `${vm}: the rollout stops before it: ${failed.name}, which comes first, ${failed.verdict}; what is left stays as it is`,
      );
    }
    if (left.every((ms) => ms <= 0)) return;
    const troubled = witnesses.filter(({ trouble }) => trouble !== undefined);
    const waiting = troubled.length > 0 ? troubled : witnesses.filter((_, index) => (left[index] ?? 0) > 0);
    const names = waiting.map(({ name, trouble }) => `${name}${trouble ? `, which ${trouble.what}` : ""}`).join(", ");
    deps.progress(`waits ${formatDuration(Math.ceil(Math.max(...left) / 1000))} for the soak of ${names}`);
    if (troubled.length > 0) backoff.reset();
    await backoff.pause();
  }
}

/** Something that must not last for longer than `patienceMs`. */
interface Trouble {
  what: string;
  patienceMs: number;
}

/** A VM of the wave before, looked at again and again. */
class Witness {
  /** What is wrong with it now, and since when. */
  trouble: (Trouble & { since: number }) | undefined;
  /** Why it stops the rollout. */
  verdict: string | undefined;
  /** First look that found it healthy, and the end of its last trouble; epoch milliseconds. */
  private firstSeen: number | undefined;
  private troubledUntil = 0;
  private bootId: string | undefined;

  constructor(
    private readonly of: RolloutInput["before"][number],
    private readonly soakMs: number,
    private readonly deps: Deps,
  ) {}

  get name(): string {
    return this.of.vm;
  }

  /** Milliseconds that it still has to stay healthy. */
  async left(): Promise<number> {
    const found = await this.look();
    const now = this.deps.clock.wall();
    if ("what" in found) {
      const at = this.deps.clock.now();
      if (this.trouble?.what !== found.what) this.trouble = { ...found, since: at };
      if (at - this.trouble.since >= found.patienceMs) this.verdict = found.what;
      this.troubledUntil = now;
      return this.soakMs;
    }
    this.trouble = undefined;
    this.firstSeen ??= now;
    // A restart of its own, which fell between two looks.
    if (this.bootId !== undefined && this.bootId !== found.bootId) this.troubledUntil = now;
    this.bootId = found.bootId;
    // A guest whose clock is ahead of ours is not waited for until then.
    const since = Math.max(this.troubledUntil, Math.min(this.firstSeen, found.bootedAt ?? this.firstSeen));
    return this.soakMs - (now - since);
  }

  private async look(): Promise<Trouble | { bootedAt?: number; bootId?: string }> {
    const { clock, signal, libvirtAt } = this.deps;
    const libvirt = libvirtAt(this.of.uri);
    try {
      const domains = await orCancelled(libvirt.domains(), signal);
      const domain = domains.find(({ name }) => name === this.of.domain);
      if (domain === undefined) return { what: `is gone from libvirt at ${this.of.uri}`, patienceMs: 0 };
      const { state, reason } = await orCancelled(libvirt.state(domain.uuid), signal);
      if (!["running", "idle", "blocked"].includes(state)) {
        return { what: `is ${state}${reason ? ` (${reason})` : ""}`, patienceMs: 0 };
      }
      const { system, status } = await look(libvirt, domain.uuid, clock, signal);
      if (status === undefined) {
        // An image without our contract, or one that starts.
        const up = system === "running" || system === "degraded";
        return up ? {} : { what: `is not up: system ${system}`, patienceMs: silentMs };
      }
      if (!status.healthy) {
        const why = status.reasons.join("; ") || "the guest gives no reason";
        return { what: `is not healthy: ${why}`, patienceMs: settleMs };
      }
      const bootedAt = Date.parse(status.bootedAt);
      return { bootId: status.bootId, ...(Number.isNaN(bootedAt) ? {} : { bootedAt }) };
    } catch (error) {
      if (!(error instanceof LibvirtError)) throw error;
      if (error.kind === "agent") return { what: "has a guest agent that is silent", patienceMs: silentMs };
      if (error.kind === "unreachable") return { what: `cannot be asked: ${error.message}`, patienceMs: unreachableMs };
      throw error;
    }
  }
}
