import { runChecks } from "../provider/checks";
import { Cancelled } from "../provider/clock";
import { Gate } from "../provider/gate";
import { growFileSystem } from "../provider/grow";
import { stopGuest } from "../provider/stop";
import { CliError, EXIT, Interrupted } from "./errors";
import type { CliDeps, Wanted } from "./lifecycle";
import type { Subject } from "./snapshotSubject";

/** What a restore goes by, besides the VM's data. */
export interface RestorePlan extends Wanted {
  /** The snapshot to go back to, and the one in which the present state is kept first. */
  readonly name: string;
  readonly safety: string;
}

/**
 * Brings data and UEFI variables back to a snapshot, and the VM to what is declared. `deps` end with Ctrl-C; from the moment in which
 * the data changes until it is whole again, nothing does.
 *
 * @throws CliError when the VM is not healthy with that data: it then has the present data again.
 */
export async function restore(subject: Subject, plan: RestorePlan, deps: CliDeps): Promise<void> {
  const { name, safety, want } = plan;
  const { uuid, name: vm } = subject.vm;
  const wasOn = (await subject.power()) !== "off";
  const endure: CliDeps = { ...deps, signal: subject.deps.signal };
  const startAgain = async (): Promise<string> =>
    wasOn
      ? endure.libvirt.start(uuid).then(
          () => "it is started again",
          () => "it is off, and does not start",
        )
      : "it is off";
  try {
    await stopGuest(uuid, want.stopTimeoutSeconds * 1000, endure);
    if (deps.signal.aborted) throw new Cancelled();
    deps.progress(`its present state is kept in the snapshot ${safety}`);
    await subject.take(safety, true, () => {
      if (deps.signal.aborted) throw new Cancelled();
    });
  } catch (error) {
    if ((await subject.power()) !== "off") throw error;
    const then = await startAgain();
    if (deps.signal.aborted) throw new Interrupted(`broken off: nothing of ${vm} has changed, and ${then}`);
    throw new CliError(`${(error as Error).message}; nothing of ${vm} has changed, and ${then}`);
  }
  try {
    deps.progress(`its data goes back to ${name}`);
    await subject.revert(name);
    if (!want.running) return;
    const seen = await new Gate(want, deps, plan.limitMs).wait();
    // A file system of before the disk grew.
    const followed = await growFileSystem(want, seen, false, deps);
    await runChecks(want.checks ?? [], uuid, deps, plan.limitMs, followed);
  } catch (error) {
    if (error instanceof Cancelled) {
      throw new Interrupted(
        `broken off: ${vm} has the data of ${name} and is starting; nobody has waited until it is healthy. What was there before is in ${safety}`,
      );
    }
    throw await wentBack(error as Error);
  }

  async function wentBack(error: Error): Promise<CliError> {
    const why = `${vm} with the data of ${name}: ${error.message}`;
    try {
      deps.warn(`${error.message}; its data goes back to ${safety}`);
      await stopGuest(uuid, want.stopTimeoutSeconds * 1000, endure);
      await subject.revert(safety);
      return new CliError(`${why}; its data is again what it was before, and ${await startAgain()}`, EXIT.failed);
    } catch (second) {
      return new CliError(
        `${why}; going back failed too: ${(second as Error).message}. Its data of before is in ${safety}: ` +
          `nixvm restore-snapshot ${vm} ${safety}`,
      );
    }
  }
}
