import { z } from "zod";
import type { GuestResult } from "./agent";
import { plainTail } from "./console";

const shared = {
  name: z.string().min(1),
  timeoutSeconds: z.number().positive(),
  withinSeconds: z.number().positive(),
};
const port = z.int().min(1).max(65_535);
const address = z.union([z.ipv4(), z.ipv6()]);

/** One health check as an input of a Guest; what the fields mean is said where they are planned. */
export const checkInput = z.discriminatedUnion("kind", [
  z.strictObject({ ...shared, kind: z.literal("command"), command: z.string().min(1) }),
  z.strictObject({ ...shared, kind: z.literal("tcp"), address, port }),
  z.strictObject({
    ...shared,
    kind: z.literal("http"),
    address,
    port,
    path: z.string().startsWith("/", "must begin with /"),
    status: z.int().optional(),
    contains: z.string().min(1).optional(),
  }),
]);

export type Check = z.infer<typeof checkInput>;

/** What an answer may be long at most: libvirt passes on no more than 4 MiB, and a health page is short. */
const answerBytes = 65_536;

/** A word in single quotes, which a POSIX shell reads as it is, whatever is in it. */
export function quote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** One try, for /bin/sh in the guest. What is wanted of an answer stays here: it is judged by {@link faultOf}. */
export function scriptOf(check: Check): string {
  // A shell of its own, so that the limit holds for all that the text starts.
  return `timeout -k 2 ${check.timeoutSeconds} /bin/sh -c ${quote(bodyOf(check))}`;
}

function bodyOf(check: Check): string {
  if (check.kind === "command") return check.command;
  const port = String(check.port);
  // bash is on every NixOS and Debian; dash, which is /bin/sh there, has no /dev/tcp.
  if (check.kind === "tcp") return bash('exec 3<>"/dev/tcp/$1/$2"', check.address, port);
  const host = `${check.address.includes(":") ? `[${check.address}]` : check.address}:${port}`;
  // Nothing that a user's .curlrc, a proxy or curl's own reading of a path could change.
  const curl = `curl -qgsSi --path-as-is --noproxy '*' ${quote(`http://${host}${check.path}`)}`;
  const request = 'printf "GET %s HTTP/1.0\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n" "$3" "$4" >&3';
  const plain = `exec 3<>"/dev/tcp/$1/$2" && ${request} && head -c ${answerBytes} <&3`;
  return [
    "if command -v curl >/dev/null",
    `then ${curl} | head -c ${answerBytes}`,
    `else ${bash(plain, check.address, port, check.path, host)}`,
    "fi",
  ].join("; ");
}

/** User's text goes in as arguments: it is never part of a program. */
function bash(program: string, ...words: string[]): string {
  return `exec bash -c ${[program, "check", ...words].map(quote).join(" ")}`;
}

/** Why a try failed. */
export interface Fault {
  why: string;
  /** Another try would end the same way. */
  final: boolean;
}

/** Reads what a try left behind; undefined when it passed. */
export function faultOf(check: Check, result: GuestResult): Fault | undefined {
  const said = lastLine(result.err) || lastLine(result.out);
  if (result.code === 127) {
    const what = check.kind === "command" ? "a command is not in the guest" : "the guest has neither bash nor curl";
    return { why: withDetail(`${what} (exit code 127)`, said), final: true };
  }
  const why = result.code === 124 ? `took longer than ${check.timeoutSeconds} s` : reasonOf(check, result, said);
  return why === undefined ? undefined : { why, final: false };
}

function reasonOf(check: Check, { code, out }: GuestResult, said: string): string | undefined {
  switch (check.kind) {
    case "command":
      return code === 0 ? undefined : withDetail(`exit code ${code}`, said);
    case "tcp":
      // bash: "check: line 1: /dev/tcp/127.0.0.1/80: Connection refused".
      return code === 0 ? undefined : `port ${check.port}: ${said.split(": ").at(-1) || "no connection"}`;
    case "http":
      return answerFault(check, out, said);
  }
}

function answerFault({ status, contains }: Check & { kind: "http" }, answer: string, said: string): string | undefined {
  // The heads of interim answers (1xx) come before the one that counts.
  const head = answer.startsWith("HTTP/") ? /^HTTP\/\S+ ([2-5]\d\d)\b/m.exec(answer) : null;
  if (head === null) return withDetail("no HTTP answer", said);
  const got = Number(head[1]);
  if (status === undefined ? got >= 400 : got !== status) {
    return `HTTP ${got}${status === undefined ? "" : `, wanted ${status}`}`;
  }
  const end = /\r?\n\r?\n/g;
  end.lastIndex = head.index;
  const body = end.exec(answer) ? answer.slice(end.lastIndex) : "";
  if (contains === undefined || body.includes(contains)) return undefined;
  return withDetail(`HTTP ${got}, but without ${JSON.stringify(contains)}`, lastLine(body));
}

const withDetail = (what: string, detail: string): string => (detail === "" ? what : `${what}: ${detail}`);

/** Short and plain: it goes into a line of the display. */
function lastLine(text: string): string {
  const line = plainTail(text.slice(-2000), 1)[0]?.trim() ?? "";
  return line.length > 200 ? `${line.slice(0, 199)}…` : line;
}
