import * as fs from "node:fs";
import * as path from "node:path";
import type { Endpoint } from "./address";
import { replaceFile } from "./wholeFile";

/** Whom to speak to, and how he is known. */
export interface SshTarget extends Endpoint {
  /** Name under which the key of the host is kept; the same wherever the VM is reached. */
  alias: string;
  user?: string;
  /** Private key file. */
  identity?: string;
  /** File with the key of the host. */
  knownHosts: string;
}

/** Name of a VM's host key, unique among stacks. */
export const hostAlias = (stack: string, vm: string): string => `nixvm-${stack}-${vm}`;

/** A public key as OpenSSH writes it, and nothing else that would mean something in a file of known hosts. */
const PUBLIC_KEY = /^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)) ([A-Za-z0-9+/]+={0,2})(?: |$)/;

/** `<type> <key>` of a public key, without its comment; undefined when it is none. */
export function publicKey(text: string | undefined): string | undefined {
  const found = PUBLIC_KEY.exec((text ?? "").trim());
  return found ? `${found[1]} ${found[2]}` : undefined;
}

/** A line of known hosts. */
export const knownHostLine = (alias: string, key: string): string => `${alias} ${key}\n`;

/** A value for one word in ssh_config: quotes, backslashes and percent signs mean something there. */
export function configWord(text: string): string {
  return `"${text.replace(/[\\"]/g, "\\$&").replace(/%/g, "%%")}"`;
}

/** Why a path cannot be named in ssh_config; undefined when it can. ssh knows no way to write what begins a variable there. */
export function badPath(file: string): string | undefined {
  return /\$\{|[\r\n]/.test(file) ? "ssh cannot be told of a path with ${ or a line break" : undefined;
}

/** What makes ssh accept the known key and no other, whatever its own configuration says. */
function verified({ alias, knownHosts }: SshTarget): [string, string][] {
  return [
    ["HostKeyAlias", alias],
    ["UserKnownHostsFile", configWord(knownHosts)],
    ["GlobalKnownHostsFile", "/dev/null"],
    ["StrictHostKeyChecking", "yes"],
    // ssh would write what the guest says into a file that is ours.
    ["UpdateHostKeys", "no"],
  ];
}

/** Arguments of ssh. The words of a command are joined by the guest's side as ssh always does it. */
export function sshArguments(target: SshTarget, command: readonly string[]): string[] {
  const { host, port, jump, user, identity } = target;
  return [
    ...verified(target).flatMap(([name, value]) => ["-o", `${name}=${value}`]),
    ...["-p", String(port)],
    ...(user === undefined ? [] : ["-l", user]),
    // Not -i, which looks for the file before it has read percent signs as it always does.
    ...(identity === undefined ? [] : ["-o", `IdentityFile=${configWord(identity)}`]),
    ...(jump === undefined ? [] : ["-J", jump]),
    host,
    ...(command.length === 0 ? [] : ["--", ...command]),
  ];
}

/** A VM in ssh_config, or why it is not there. */
export type ConfigEntry = { name: string } & (SshTarget | { why: string });

const HEAD = "# Written by nixvm export ssh-config";

/** Text of an ssh_config. The same fleet gives the same text. */
export function sshConfig(stack: string, entries: readonly ConfigEntry[]): string {
  const blocks = entries.map((entry) => {
    if ("why" in entry) return `# ${entry.name}: ${entry.why.replace(/\s+/g, " ")}\n`;
    const lines: [string, string][] = [
      ["HostName", entry.host],
      ["Port", String(entry.port)],
      ...(entry.user === undefined ? [] : ([["User", entry.user]] as [string, string][])),
      ...verified(entry),
      ...(entry.jump === undefined ? [] : ([["ProxyJump", entry.jump]] as [string, string][])),
    ];
    return `Host ${entry.name} ${entry.alias}\n${lines.map(([name, value]) => `  ${name} ${value}\n`).join("")}`;
  });
  return `${HEAD}, stack ${stack}. Written anew each time: do not edit.\n\n${blocks.join("\n")}`;
}

/** Whether a file is one that was written here, so that it may be written again. */
export const isOurs = (text: string): boolean => text === "" || text.startsWith(HEAD);

/** Writes a file that nobody else may read, all or nothing. */
export function writePrivate(file: string, text: string): void {
  fs.mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 });
  replaceFile(file, text, 0o600);
}
