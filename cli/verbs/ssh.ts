import * as fs from "node:fs";
import * as path from "node:path";
import type { Command } from "commander";
import type { Context } from "../context";
import { wrongInput, wrongState } from "../errors";
import type { FleetVm } from "../fleet";
import { mustRun } from "../power";
import { endpointOf, hostKey } from "../reach";
import { hostAlias, knownHostLine, sshArguments, type SshTarget, writePrivate } from "../ssh";
import { onTerminal } from "../terminal";
import { type Answer, does, verb } from "../verb";

interface Options {
  user?: string;
  identity?: string;
  json: boolean;
}

/** `nixvm ssh`: a shell or a command in a VM, on a connection that is verified from the first time on. */
export function addSsh(program: Command): void {
  does<Options, [string, string[]]>(
    verb(program, "ssh <vm> [command...]", "open a shell in a VM, or run a command after --")
      .option("--user <name>", "account; default: the first one with an SSH key")
      .option("-i, --identity <file>", "private key file"),
    async (context, options, name, command) => {
      if (options.user !== undefined && !/^[A-Za-z0-9_][A-Za-z0-9_.-]*$/.test(options.user)) {
        throw wrongInput("--user", options.user, "is not the name of an account", "letters, digits, _ . and -");
      }
      const { identity } = options;
      if (identity !== undefined && !fs.existsSync(context.path(identity))) {
        throw wrongInput("--identity", context.path(identity), "does not exist", "a private key file");
      }
      const vm = await context.vm(name);
      const target = await targetOf(context, vm, options);
      const args = sshArguments(target, command);
      if (options.json) return described(target, args);
      return onTerminal("ssh", args);
    },
  );
}

/** Nothing is run for a program that asks how it would be done. */
function described(target: SshTarget, args: readonly string[]): Answer {
  return { json: { ...target, command: ["ssh", ...args] }, text: "" };
}

async function targetOf(context: Context, vm: FleetVm, { user, identity }: Options): Promise<SshTarget> {
  await mustRun(context, vm);
  const endpoint = await endpointOf(context, vm);
  if ("why" in endpoint) throw wrongState(`${vm.name}: ${endpoint.why}`, { field: vm.name });
  const key = await hostKey(context, vm);
  if (key === undefined) {
    throw wrongState(
      `${vm.name}: its SSH host key is not known, so nobody could tell whether it is this VM that answers; ` +
        `"pulumi up --refresh" learns it through its agent once the guest has one`,
      { field: vm.name },
    );
  }
  const stack = await context.stack();
  const alias = hostAlias(stack, vm.name);
  const knownHosts = path.join(context.root, ".nixvm", "ssh", `${stack}.${vm.name}.known_hosts`);
  writePrivate(knownHosts, knownHostLine(alias, key));
  return {
    ...endpoint,
    alias,
    user: user ?? (await accountOf(context, vm)),
    ...(identity === undefined ? {} : { identity: context.path(identity) }),
    knownHosts,
  };
}

async function accountOf(context: Context, vm: FleetVm): Promise<string> {
  const account = keyAccounts(await context.plan()).get(vm.name);
  if (account !== undefined) return account;
  throw wrongState(
    `${vm.name}: no account of it has an SSH key in the stack file; give adminKeys there, or --user here`,
    {
      field: "--user",
    },
  );
}

/** Of each VM that has one: the first account with an SSH key. */
export function keyAccounts(plan: Awaited<ReturnType<Context["plan"]>>): Map<string, string> {
  return new Map(
    plan.vms.flatMap(({ name, accounts }) => {
      const account = accounts.find(({ authorizedKeys }) => authorizedKeys.length > 0);
      return account ? [[name, account.name] as const] : [];
    }),
  );
}
