import * as fs from "node:fs";
import * as path from "node:path";
import type { Command } from "commander";
import type { Context } from "../context";
import { wrongInput } from "../errors";
import { endpointOf, hostKey } from "../reach";
import { badPath, type ConfigEntry, hostAlias, isOurs, knownHostLine, sshConfig, writePrivate } from "../ssh";
import { does, verb } from "../verb";
import { keyAccounts } from "./ssh";

/** `nixvm export ssh-config`: plain `ssh web` for the whole fleet, verified. */
export function addExportSsh(program: Command): void {
  const parent =
    program.commands.find((command) => command.name() === "export") ??
    program.command("export").description("write files for other programs");
  does<{ output?: string }, []>(
    verb(parent, "ssh-config", "ssh_config and known hosts for all VMs of the stack").option(
      "-o, --output <file>",
      "file to write; the known hosts are beside it. Default: .nixvm/ssh/<stack>.config",
    ),
    async (context, { output }) => {
      const stack = await context.stack();
      const file =
        output === undefined ? path.join(context.root, ".nixvm", "ssh", `${stack}.config`) : context.path(output);
      const wrong = badPath(file) ?? foreign(file);
      if (wrong !== undefined) throw wrongInput("--output", file, wrong, "a new file, or one written by this verb");
      const knownHosts = `${file}.known_hosts`;
      const { entries, keys } = await entriesOf(context, stack, knownHosts);
      // First: a configuration without its keys would only be refused, one with old ones too.
      writePrivate(knownHosts, keys.join(""));
      writePrivate(file, sshConfig(stack, entries));
      const missing = entries.flatMap((entry) => ("why" in entry ? [{ name: entry.name, why: entry.why }] : []));
      const hosts = entries.flatMap((entry) => ("why" in entry ? [] : [entry.name]));
      return {
        json: { file, knownHosts, hosts, missing },
        text: [
          `${file}: ${hosts.length === 0 ? "no VM can be reached" : hosts.join(", ")}`,
          ...missing.map(({ name, why }) => `${name}: not in it: ${why}`),
          `For plain "ssh <vm>" write this at the top of ~/.ssh/config: Include "${file}"`,
        ].join("\n"),
      };
    },
  );
}

/** Somebody's own configuration is never written over. */
function foreign(file: string): string | undefined {
  for (const one of [file, `${file}.known_hosts`]) {
    if (!fs.existsSync(one)) continue;
    if (!fs.statSync(one).isFile()) return "is no file";
    if (one === file && !isOurs(fs.readFileSync(one, "utf8"))) return "exists, and was not written by this verb";
  }
  return undefined;
}

async function entriesOf(
  context: Context,
  stack: string,
  knownHosts: string,
): Promise<{ entries: ConfigEntry[]; keys: string[] }> {
  const vms = await context.vms();
  const accounts = keyAccounts(await context.plan());
  const found = await Promise.all(
    vms.map(async (vm) => {
      const [endpoint, key] = [await endpointOf(context, vm), await hostKey(context, vm)];
      const user = accounts.get(vm.name);
      const alias = hostAlias(stack, vm.name);
      if ("why" in endpoint) return { entry: { name: vm.name, why: endpoint.why } };
      if (key === undefined) return { entry: { name: vm.name, why: "its SSH host key is not known" } };
      const entry = { name: vm.name, ...endpoint, alias, ...(user === undefined ? {} : { user }), knownHosts };
      return { entry, line: knownHostLine(alias, key) };
    }),
  );
  return {
    entries: found.map(({ entry }) => entry),
    keys: found.flatMap(({ line }) => (line === undefined ? [] : [line])),
  };
}
