import { Cancelled, type Clock } from "../../provider/clock";

/** A time that all VMs of a scenario share: it passes when everybody sleeps, and goes on to whoever wakes first. */
export class Time {
  /** Milliseconds since the scenario began. */
  now = 0;
  private order = 0;
  private sleepers: { at: number; order: number; wake: () => void }[] = [];

  /** `start`: epoch milliseconds at which the scenario begins. */
  constructor(readonly start: number) {}

  /** Does something at a time, in the order in which it was asked for. */
  at(ms: number, wake: () => void): () => void {
    const sleeper = { at: Math.max(ms, this.now), order: this.order++, wake };
    this.sleepers.push(sleeper);
    return () => (this.sleepers = this.sleepers.filter((other) => other !== sleeper));
  }

  /** The clock of a program, which does nothing any more once it is dead. */
  clockOf(program: { dead: boolean }): Clock {
    return {
      now: () => this.now,
      wall: () => this.start + this.now,
      sleep: (ms, signal) =>
        new Promise((resolve, reject) => {
          if (signal.aborted) return reject(new Cancelled());
          const abort = (): void => {
            forget();
            reject(new Cancelled());
          };
          const forget = this.at(this.now + ms, () => {
            signal.removeEventListener("abort", abort);
            if (!program.dead) resolve();
          });
          signal.addEventListener("abort", abort, { once: true });
        }),
    };
  }

  /** Lets time pass until a promise is settled, which must not wait for anything outside. */
  async until<T>(promise: Promise<T>): Promise<T> {
    const limit = this.now + 86_400_000;
    let settled = false;
    const mark = (): void => {
      settled = true;
    };
    promise.then(mark, mark);
    for (;;) {
      // Everything that can be done without time passing.
      await new Promise(setImmediate);
      if (settled) return promise;
      if (this.now > limit) throw new Error("a day has passed, and it is not done");
      this.step();
    }
  }

  private step(): void {
    if (this.sleepers.length === 0) throw new Error("everybody waits for something that never happens");
    const next = this.sleepers.reduce((a, b) => (b.at < a.at || (b.at === a.at && b.order < a.order) ? b : a));
    this.sleepers = this.sleepers.filter((other) => other !== next);
    this.now = Math.max(this.now, next.at);
    next.wake();
  }
}

/** `00:05:10`. */
export function formatTime(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  return [seconds / 3600, (seconds / 60) % 60, seconds % 60]
    .map((part) => String(Math.floor(part)).padStart(2, "0"))
    .join(":");
}
