import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import * as path from "node:path";
import type { Command } from "commander";
import { macsOf } from "../adopt";
import type { Context } from "../context";
import { planned } from "../declare";
import { wrongInput, wrongState } from "../errors";
import { machineFiles } from "../machineFiles";
import { type Answer, does, verb } from "../verb";

/** `nixvm export machine`: a VM as a machine config directory of nixos-vm-template (T-25, T-88). */
export function addExportMachine(program: Command): void {
  const parent =
    program.commands.find((command) => command.name() === "export") ??
    program.command("export").description("write files for other programs");
  does<object, [string, string]>(
    verb(
      parent,
      "machine <vm> <directory>",
      "a machine config directory of nixos-vm-template, with what makes this VM",
    ),
    exportMachine,
  );
}

async function exportMachine(context: Context, _options: object, name: string, directory: string): Promise<Answer> {
  const folder = context.path(directory);
  mustBeNew(folder);
  const there = await context.vm(name);
  const vm = planned(await context.plan(), name);
  const [mac] = await macsOf(context.libvirt(there.uri), there.uuid);
  const machineId = vm.identity.machineId ?? there.machineId;
  if (mac === undefined || machineId === undefined) {
    throw wrongState(
      `${name}: its ${mac === undefined ? "MAC address" : "machine-id"} is not known until it has run once`,
    );
  }
  const { files, left } = machineFiles(vm, { uuid: there.uuid, mac, machineId });
  writeFolder(folder, files);
  return {
    json: { vm: name, directory: folder, files: Object.keys(files).sort(), left },
    text: [`${name} is in ${folder}`, ...left.map(({ file, reason }) => `  ${file}: ${reason}`)].join("\n"),
  };
}

/** What somebody has there is never mixed with ours, nor written over. */
function mustBeNew(folder: string): void {
  if (!existsSync(folder)) return;
  if (!statSync(folder).isDirectory() || readdirSync(folder).length > 0) {
    throw wrongInput("directory", folder, "is there already", "a folder that does not exist yet, or an empty one");
  }
}

/** All files or none; secrets are among them, so they are for their owner only, whatever the umask is (T-25). */
export function writeFolder(folder: string, files: Readonly<Record<string, string>>): void {
  mkdirSync(path.dirname(folder), { recursive: true });
  const part = `${folder}.part-${process.pid}`;
  rmSync(part, { recursive: true, force: true });
  mkdirSync(part, { mode: 0o700 });
  try {
    for (const [name, content] of Object.entries(files)) writeFileSync(path.join(part, name), content, { mode: 0o600 });
    renameSync(part, folder);
  } catch (error) {
    rmSync(part, { recursive: true, force: true });
    throw error;
  }
}
