import type { Command } from "commander";
import { formatBytes } from "../../provider/parse";
import { Cancelled } from "../../provider/clock";
import type { Context } from "../context";
import { wrongInput } from "../errors";
import { depsFor, wantedOf } from "../lifecycle";
import { table } from "../output";
import { checkName, type Listed, nameFromTime } from "../snapshotNames";
import { restore } from "../snapshotRestore";
import { Subject, type Taken } from "../snapshotSubject";
import { does, verb } from "../verb";

/** Snapshots of the data of a VM, with its UEFI variables (T-63 to T-69). */
export function addSnapshot(program: Command): void {
  does<object, [string, string?]>(
    verb(program, "snapshot <vm> [name]", "keep the data and UEFI variables of a VM as they are now"),
    async (context, _options, vm, wanted) => {
      if (wanted !== undefined) checkName(wanted);
      const subject = await Subject.of(context, vm);
      const all = await subject.list();
      const names = all.map((one) => one.name);
      const name = wanted ?? nameFromTime("at", Date.now(), names);
      if (names.includes(name)) throw wrongInput("name", name, `is a snapshot of ${vm} already`, "another name");
      await subject.checkRoom();
      await sayVersion(context, subject);
      const taken = await subject.take(name, true, () => stopIf(context));
      const made = (await subject.list()).find((one) => one.name === name);
      return {
        json: { vm, ...made, ...taken },
        text: `snapshot ${name} of ${vm} is taken: ${wordsOf(taken, made?.uefi === true)}`,
      };
    },
  );

  does<object, [string]>(
    verb(program, "snapshots <vm>", "list the snapshots of a VM"),
    async (context, _options, vm) => {
      const all = await (await Subject.of(context, vm)).list();
      const rows = all.map(({ name, takenAt, by, image, uefi, diskBytes }) => [
        name,
        takenAt,
        by,
        image ?? "not known",
        uefi ? "yes" : "no",
        diskBytes === null ? "not known" : formatBytes(diskBytes),
      ]);
      return {
        json: all,
        text:
          rows.length === 0 ? `${vm} has no snapshots` : table(["name", "taken", "by", "image", "UEFI", "disk"], rows),
      };
    },
  );

  does<{ yes: boolean }, [string, string]>(
    verb(
      program,
      "restore-snapshot <vm> <name>",
      "bring the data and UEFI variables of a VM back to a snapshot",
    ).option("--yes", "do not ask", false),
    async (context, { yes }, vm, name) => {
      const subject = await Subject.of(context, vm);
      const all = await subject.list();
      const found = known(all, vm, name);
      const plan = { ...(await wantedOf(context, vm)), name, safety: safetyName(all) };
      const running = (await subject.power()) !== "off";
      await subject.checkRoom();
      await context.confirmLoss(
        vm,
        [
          `what was written to ${subject.path} since ${found.takenAt}`,
          ...(running ? [`${vm} is stopped for it`] : []),
          ...(found.uefi ? [] : ["the UEFI variables stay as they are: that snapshot has none"]),
          ...(found.image && found.image !== subject.vm.imageDigest
            ? [`that data was written under image ${found.image}; ${vm} is on ${subject.vm.imageDigest}`]
            : []),
        ],
        yes,
        `${vm} goes back to ${name}. Its present state is kept in the snapshot ${plan.safety} first, and then gone from its disk:`,
      );
      stopIf(context);
      await restore(subject, plan, depsFor(context, plan.want.uri, vm));
      const state = plan.want.running ? "running and healthy" : "off, as declared";
      return {
        json: { vm, restored: name, kept: plan.safety, running: plan.want.running },
        text: `${vm} has the data of ${name} and is ${state}; what was there before is in the snapshot ${plan.safety}`,
      };
    },
  );

  does<{ yes: boolean }, [string, string]>(
    verb(program, "delete-snapshot <vm> <name>", "delete a snapshot of a VM").option("--yes", "do not ask", false),
    async (context, { yes }, vm, name) => {
      const subject = await Subject.of(context, vm);
      const found = known(await subject.list(), vm, name);
      await subject.power();
      const uefi = found.uefi ? " and its UEFI variables" : "";
      await context.confirmLoss(vm, [`the data${uefi} of ${vm} as of ${found.takenAt}`], yes);
      stopIf(context);
      await subject.remove(name);
      return { json: { vm, deleted: name }, text: `snapshot ${name} of ${vm} is deleted` };
    },
  );
}

/** A snapshot that the verbs may touch. */
function known(all: readonly Listed[], vm: string, name: string): Listed {
  const ours = all.filter(({ by }) => by !== "other");
  const found = ours.find((one) => one.name === name);
  if (found) return found;
  const other = all.some((one) => one.name === name);
  const names = ours.map((one) => one.name).join(", ") || `none, as ${vm} has no snapshots`;
  throw wrongInput("name", name, other ? "was not taken by nixvm" : `is no snapshot of ${vm}`, names);
}

const safetyName = (all: readonly Listed[]): string =>
  nameFromTime(
    "before-restore",
    Date.now(),
    all.map(({ name }) => name),
  );

function stopIf(context: Context): void {
  if (context.signal.aborted) throw new Cancelled();
}

/** Volumes made before nixvm knew snapshots. */
async function sayVersion(context: Context, subject: Subject): Promise<void> {
  if ((await subject.look()).version > 2) return;
  context.note(
    `${subject.path} is of qcow2 version 2, which cannot grow while snapshots are in it; with the VM off, on its host: ` +
      `qemu-img amend -f qcow2 -o compat=1.1 '${subject.path}'`,
  );
}

function wordsOf({ how, ms }: Taken, uefi: boolean): string {
  const what = uefi ? "data and UEFI variables" : "its data; it has no UEFI variables yet";
  switch (how) {
    case "frozen":
      return `${what}, with its file systems frozen for ${ms} ms`;
    case "paused":
      return `${what}, with the VM paused for ${ms} ms: as after a power cut, as no agent wrote out what was in memory`;
    case "still":
      return `${what} of a VM that is paused: as after a power cut`;
    case "off":
      return `${what} of a VM that is off`;
  }
}
