// Where a run is hit: what is killed, and at which moment.
import { killAll, killRole } from "./processes.mjs";

/** What can be hit, and how often it is; the engine most, since only it leaves a lock and operations under way. */
const TARGETS = {
  engine: 9,
  "guest provider": 4,
  "libvirt provider": 3,
  bridge: 3,
  libvirt: 3,
  program: 2,
  "a guest": 2,
  host: 3,
  "language host": 1,
  "random provider": 1,
  "(second run)": 1,
};
/** A random kill. `calls` and `ms`: how many changes of libvirt, and how much time, such a run takes. `full`: the world has a pool that can be full. */
export function planKill(random, { calls, ms }, full) {
  const targets = Object.entries(full ? { ...TARGETS, "(full pool)": 3 } : TARGETS);
  const target = random.pick(targets.flatMap(([name, weight]) => Array.from({ length: weight }, () => name)));
  if (random.chance(0.65)) return { target, call: 1 + random.below(calls), moment: random.pick(["asked", "done"]) };
  return { target, ms: random.below(ms) };
}

/** A kill that is under way; `at` says what it hit, once it has. */
export class Kill {
  at;
  #timer;
  #under = Promise.resolve();
  #ended = false;

  constructor(plan, { world, project, random }) {
    Object.assign(this, { plan, world, project, random });
  }

  /** To be called when the engine has started. */
  arm(pid) {
    const { plan, world } = this;
    if (plan.ms === undefined) {
      world.wire.watch((number, name, moment) => {
        if (this.at !== undefined || number < plan.call || moment !== plan.moment) return false;
        return this.#hit(pid, `${name}, ${moment}`);
      });
      return;
    }
    world.wire.watch();
    // A process that is not there yet is waited for.
    const attempt = () => {
      this.#hit(pid, "any time");
      if (this.at === undefined) this.#timer = setTimeout(attempt, 5);
    };
    this.#timer = setTimeout(attempt, plan.ms);
  }

  /** To be called when the engine has ended. Gives what went wrong by itself. */
  async disarm() {
    clearTimeout(this.#timer);
    this.#ended = true;
    const wrong = await this.#under;
    this.world.wire.watch();
    this.world.drain?.();
    return wrong ?? [];
  }

  /** True when the packet that is on its way gets lost. */
  #hit(pid, at) {
    const { world, project, random } = this;
    switch (this.plan.target) {
      case "libvirt":
        this.at = at;
        // Not at once: the wire is in the midst of a packet.
        this.#under = new Promise((resolve) => setTimeout(() => resolve(world.breakOff().then(() => []))));
        return true;
      case "a guest":
        this.#under = world.killGuest(random);
        this.at = at;
        return false;
      case "host":
        // The engine and all below it, then libvirt and the guests.
        if (!killAll(pid)) return false;
        this.at = at;
        this.#under = new Promise((resolve) => setTimeout(() => resolve(world.reboot().then(() => []))));
        return true;
      case "(full pool)":
        world.fill();
        this.at = at;
        return false;
      case "(second run)":
        this.#under = project.up().then((second) => this.#refused(second));
        this.at = at;
        return false;
      default:
        if (killRole(pid, this.plan.target)) this.at = at;
        return false;
    }
  }

  /** What is wrong when a second run was not refused. One that came when the first had ended was none. */
  #refused({ code, text }) {
    if (code !== 0 && /currently locked by 1 lock/.test(text)) return [];
    if (!this.#ended) return [`a second run was not refused:\n${text}`];
    this.at = undefined;
    return [];
  }
}
