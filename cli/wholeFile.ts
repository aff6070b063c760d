import * as fs from "node:fs";
import { access, constants, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { CliError, wrongInput } from "./errors";

/** Puts a text into the place of a file, all or nothing. */
export function replaceFile(file: string, text: string, mode: number): void {
  // Beside it, as a file moves at once within a file system only.
  const part = `${file}.part-${process.pid}`;
  try {
    fs.writeFileSync(part, text, { mode });
    fs.renameSync(part, file);
  } catch (error) {
    fs.rmSync(part, { force: true });
    throw error;
  }
}

/** Writes a file that readers see whole or not at all. */
export function writeWhole(file: string, text: string): void {
  // node_exporter reads names that end in .prom and no others, so it does not see what is not whole yet.
  try {
    replaceFile(file, text, 0o666);
  } catch (error) {
    throw new CliError(`${file} cannot be written: ${(error as Error).message}`);
  }
}

/** Asked before the work, which takes its time. @throws CliError */
export async function mustBeWritable(field: string, file: string): Promise<void> {
  const known = await stat(file).catch(() => undefined);
  if (known?.isDirectory()) throw wrongInput(field, file, "is a folder", "the name of a file");
  const folder = dirname(file);
  const usable = await access(folder, constants.W_OK | constants.X_OK).then(
    () => true,
    () => false,
  );
  if (!usable)
    throw wrongInput(field, file, `cannot be written to ${folder}`, "a file in a folder that is there and writable");
}
