import { Option, type Command } from "commander";
import { backup, type BackupOptions } from "../backup";
import { listBackups } from "../backups";
import { roughSize, table } from "../output";
import { restore, type RestoreOptions } from "../restore";
import { does, verb } from "../verb";

/** `nixvm backup`: the data of one VM as one file (T-70 to T-74, T-78, T-79). */
export function addBackup(program: Command): void {
  const command = verb(program, "backup <vm>", "write the data of a VM to an archive under output/backups/")
    .addOption(new Option("-o, --output <path>", "file or folder to write to").conflicts("resume"))
    .option("--resume", "go on with a backup of this VM that was broken off");
  does<BackupOptions, [string]>(command, async (context, options, name) => {
    const made = await backup(context, name, options);
    const text = `${made.archive} (${roughSize(made.bytes)}, data of ${made.created})`;
    return { json: made, text };
  });
}

/** `nixvm backups`: the archives there are. */
export function addBackups(program: Command): void {
  const command = verb(program, "backups [vm]", "archives under output/backups/, newest first").option(
    "--check",
    "read every byte of each, and say which are damaged",
  );
  does<{ json: boolean; check?: boolean }, [string | undefined]>(command, async (context, options, name) => {
    const found = await listBackups(context, name, options);
    const check = (good: boolean | undefined): string[] => (options.check ? [good === true ? "good" : "damaged"] : []);
    const rows = found.map((one) => [
      one.name,
      one.stack ?? "?",
      one.created,
      one.imageVersion ?? "?",
      roughSize(one.bytes),
      ...check(one.good),
    ]);
    const head = ["archive", "stack", "data of", "image", "size", ...(options.check ? ["check"] : [])];
    if (found.some(({ good }) => good === false)) process.exitCode = 1;
    return { json: found, text: table(head, rows) };
  });
}

/** `nixvm restore-backup`: the data of an archive instead of what a VM has now (T-75 to T-77). */
export function addRestoreBackup(program: Command): void {
  const command = verb(program, "restore-backup <vm> [archive]", "put the data of an archive back into a VM").option(
    "--yes",
    "data that is newer than the archive may be lost",
    false,
  );
  does<RestoreOptions, [string, string | undefined]>(command, async (context, options, name, archive) => {
    const done = await restore(context, name, archive, options);
    const state = done.running ? "is running and healthy" : "is off";
    return { json: done, text: `${name} has the data of ${done.created} (${done.archive}) and ${state}` };
  });
}
