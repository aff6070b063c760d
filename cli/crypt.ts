import { spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { wrongState } from "./errors";

/** Ways to hash a password: `$y$` (Z-77), and `$6$` (V-24). */
export type Method = "yescrypt" | "sha512";

const SALT = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/** What crypt(3) wants to know besides the password. Cost is what mkpasswd takes by default. */
export function saltOf(method: Method): string {
  // 24 characters of yescrypt are 18 bytes without a rest; SHA-512 takes 16 at most.
  const salt = (length: number) => Array.from({ length }, () => SALT[randomInt(SALT.length)]).join("");
  return method === "yescrypt" ? `$y$j9T$${salt(24)}$` : `$6$${salt(16)}$`;
}

// crypt(3) of the host, whichever methods its library has; Perl is on every Debian, and reads the password from a pipe.
const PERL = 'chomp(my $setting = <STDIN>); local $/; my $password = <STDIN>; print crypt($password, $setting) // "";';

/**
 * Hashes a password by the host's crypt(3). It goes through a pipe only: never through arguments, environment or files.
 *
 * @returns undefined when the host's library does not have the method.
 */
export async function hashWith(method: Method, password: string, perl = "perl"): Promise<string | undefined> {
  const setting = saltOf(method);
  const hash = await piped(perl, ["-e", PERL], `${setting}\n${password}`);
  // A library that does not know the method answers with something else, such as "*0" or a hash of 13 characters.
  return hash?.startsWith(setting) && hash.length > setting.length + 20 ? hash : undefined;
}

/** Hashes a password as wanted, or by SHA-512 where the host cannot do better. */
export async function hashOf(
  wanted: Method,
  password: string,
  note: (line: string) => void,
  perl?: string,
): Promise<string> {
  const hash = await hashWith(wanted, password, perl);
  if (hash !== undefined) return hash;
  const other = wanted === "sha512" ? undefined : await hashWith("sha512", password, perl);
  if (other === undefined) {
    throw wrongState("this machine cannot hash passwords: it needs perl; or give a hash with --hash-stdin");
  }
  note(`this machine's crypt has no ${wanted}: the hash is SHA-512`);
  return other;
}

function piped(command: string, args: string[], input: string): Promise<string | undefined> {
  return new Promise((resolve) => {
    const child = spawn(command, args, { stdio: ["pipe", "pipe", "ignore"] });
    let out = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => (out += text));
    child.on("error", () => resolve(undefined));
    child.on("close", (code) => resolve(code === 0 ? out : undefined));
    // One that is not there or dies early is told by its end.
    child.stdin.on("error", () => undefined);
    child.stdin.end(input);
  });
}
