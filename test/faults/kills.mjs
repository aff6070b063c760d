// Where a run is hit: what is killed, and at which moment.
import { killRole } from "./processes.mjs";

/** What can be hit, and how often it is; the engine most, since only it leaves a lock and pending operations. */
const TARGETS = {
  engine: 9,
  "guest provider": 4,
  "libvirt provider": 3,
  bridge: 3,
  libvirt: 3,
  program: 2,
  "language host": 1,
  "random provider": 1,
};
const WEIGHTED = Object.entries(TARGETS).flatMap(([name, weight]) => Array.from({ length: weight }, () => name));
/** How long a libvirt that was hit is away. */
const AWAY_MS = 300;

/** A random kill. `calls` and `ms`: how many changes of libvirt, and how much time, such a run takes. */
export function planKill(random, { calls, ms }) {
  const target = random.pick(WEIGHTED);
  if (random.chance(0.65)) {
    return { target, call: 1 + random.below(calls), moment: random.pick(["asked", "done"]) };
  }
  return { target, ms: random.below(ms) };
}

/** A kill that is under way; `at` says what it hit, once it has. */
export class Kill {
  at;
  #timer;
  #cut = Promise.resolve();

  constructor(plan, world) {
    Object.assign(this, { plan, world });
  }

  /** To be called when the engine has started. */
  arm(pid) {
    const { plan, world } = this;
    if (plan.ms === undefined) {
      world.wire.watch((number, name, moment) => {
        if (this.at !== undefined || number < plan.call || moment !== plan.moment) return false;
        return this.#hit(pid, `${name}, ${moment}`);
      });
    } else {
      world.wire.watch();
      // A process that is not there yet is waited for.
      const attempt = () => {
        if (this.#hit(pid, "any time") || this.at !== undefined) return;
        this.#timer = setTimeout(attempt, 5);
      };
      this.#timer = setTimeout(attempt, plan.ms);
    }
  }

  /** To be called when the engine has ended. */
  async disarm() {
    clearTimeout(this.#timer);
    await this.#cut;
    this.world.wire.watch();
  }

  /** True when the packet that is on its way gets lost. */
  #hit(pid, at) {
    if (this.plan.target === "libvirt") {
      this.at = at;
      // Not at once: the wire is in the midst of a packet.
      this.#cut = new Promise((resolve) => setTimeout(() => this.world.wire.cut(AWAY_MS).then(resolve)));
      return true;
    }
    if (killRole(pid, this.plan.target)) this.at = at;
    return false;
  }
}
