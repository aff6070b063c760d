/** Thrown by every wait when the engine cancels the deployment (Ctrl-C). */
export class Cancelled extends Error {
  constructor() {
    super("cancelled");
    this.name = "Cancelled";
  }
}

/** Time as the provider sees it, so that tests run minutes of waiting in milliseconds. */
export interface Clock {
  /** Milliseconds since some fixed point. */
  now(): number;
  /** Epoch milliseconds, for what guests and people call a time. Not for limits: it may jump. */
  wall(): number;
  /** Resolves after `ms` milliseconds, or rejects with {@link Cancelled} as soon as `signal` aborts. */
  sleep(ms: number, signal: AbortSignal): Promise<void>;
}

/** The machine's own clock; monotonic, since a corrected wall clock must not end or stretch a time limit. */
export const systemClock: Clock = {
  now: () => performance.now(),
  wall: () => Date.now(),
  sleep: (ms, signal) => orCancelled(new Promise((resolve) => setTimeout(resolve, ms)), signal),
};

/**
 * The promise, or {@link Cancelled} at once when the signal aborts. What the promise stands for runs on: a virsh call
 * that is cut off could leave a request pending at the guest agent, and each call has a limit of its own.
 */
export function orCancelled<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  if (signal.aborted) {
    promise.catch(() => undefined);
    return Promise.reject(new Cancelled());
  }
  return new Promise<T>((resolve, reject) => {
    const abort = () => reject(new Cancelled());
    signal.addEventListener("abort", abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}

/** A pause that starts short (a guest that is up already costs nothing) and grows to a limit (virsh is a process each). */
export class Backoff {
  private next: number;

  constructor(
    private readonly clock: Clock,
    private readonly signal: AbortSignal,
    private readonly firstMs = 150,
    private readonly maxMs = 600,
  ) {
    this.next = firstMs;
  }

  async pause(): Promise<void> {
    const ms = this.next;
    this.next = Math.min(this.maxMs, ms * 1.3);
    await this.clock.sleep(ms, this.signal);
  }

  /** Something has moved, so the next change may be near. */
  reset(): void {
    this.next = this.firstMs;
  }
}
