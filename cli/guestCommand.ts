import { randomUUID } from "node:crypto";
import { constants } from "node:os";
import { Backoff, Cancelled, type Clock } from "../provider/clock";
import { LibvirtError, type Virsh } from "../provider/virsh";
import { CliError, Interrupted } from "./errors";

/** An answer of the agent travels as text in one message of libvirt, which may have 4 MiB. */
const chunkBytes = 2 ** 20;
/** An answer that comes too late is lost, and a part of the output with it: a guest that is busy gets its time. */
const agentSeconds = 60;
/** What the guest may take to get as far as making the files, also under emulation. */
const beginMs = 20_000;

/**
 * Run in the guest with a folder and the command. The output goes to files, since the agent's own way keeps at most 16 MiB, libvirt's
 * passes on less, and neither before the end. PATH: that of the agent's service is bare on NixOS. The command gets our process, so
 * that its id is the one that the agent knows.
 */
const script = [
  "PATH=/run/wrappers/bin:/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH",
  'HOME=${HOME:-/root}; export HOME; d=$1; shift; cd "$HOME" 2>/dev/null || cd /',
  '(umask 077; mkdir "$d" && : >"$d/out" && : >"$d/err") || exit 125',
  'exec "$@" </dev/null >>"$d/out" 2>>"$d/err"',
].join("\n");

/** Ends a process with all that it has started. They are not in a group of their own: it is that of the agent. */
const killScript = [
  "all() { for c in $(cat /proc/$1/task/*/children 2>/dev/null); do all $c; done; echo $1; }",
  'p=$(all "$1"); kill $p; sleep 2; kill -9 $p; rm -rf "$2"',
].join("\n");

/** What a command in the guest is, and where its output goes. */
export interface GuestCommand {
  argv: readonly string[];
  onOut: (data: Buffer) => void;
  onErr: (data: Buffer) => void;
  /** It is ended after that. Default: never. */
  limitMs?: number;
  /** How long it may be before its end is noticed. The guest's agent writes each such question to the journal. Default 5 s. */
  patienceMs?: number;
}

interface Status {
  exited: boolean;
  exitcode?: number;
  signal?: number;
}

interface Part {
  count: number;
  "buf-b64": string;
  eof: boolean;
}

/**
 * Runs a command in the guest through its agent, without a network, and hands on its output while it runs, byte by byte as it is.
 * Gives its exit code; 128 and the number of the signal that ended it. Ctrl-C and the time limit end it in the guest too.
 */
export async function runInGuest(
  libvirt: Virsh,
  uuid: string,
  command: GuestCommand,
  clock: Clock,
  signal: AbortSignal,
): Promise<number> {
  const folder = `/run/nixvm-exec-${randomUUID()}`;
  const ask = (execute: string, args: Record<string, unknown>): Promise<unknown> =>
    libvirt.agent(uuid, { execute, arguments: args }, agentSeconds);
  const sh = async (text: string, ...args: string[]): Promise<number> =>
    ((await ask("guest-exec", { path: "/bin/sh", arg: ["-c", text, "sh", ...args] })) as { pid: number }).pid;
  const begun = clock.now();
  const pid = await sh(script, folder, ...command.argv);
  const status = async (): Promise<Status> => (await ask("guest-exec-status", { pid })) as Status;
  let ended: Status | undefined;
  try {
    const files = await Promise.all([open("out"), open("err")]);
    const readAll = async (): Promise<boolean> => {
      const some = await read(files[0], command.onOut);
      return (await read(files[1], command.onErr)) || some;
    };
    const backoff = new Backoff(clock, signal, 50, 1000);
    let askedAt = begun;
    while (ended === undefined) {
      if (await readAll()) backoff.reset();
      const now = clock.now();
      if (command.limitMs !== undefined && now - begun > command.limitMs) {
        throw new CliError(`it did not end within ${command.limitMs / 1000} s, and was ended`);
      }
      if (now - askedAt >= Math.min((now - begun) / 5, command.patienceMs ?? 5000)) {
        askedAt = now;
        const { exited, ...rest } = await status();
        if (exited) ended = { exited, ...rest };
      }
      if (ended === undefined) await backoff.pause();
    }
    await readAll();
    for (const handle of files) await ask("guest-file-close", { handle });
    await sh('rm -rf "$1"', folder);
    return ended.exitcode ?? 128 + (ended.signal ?? 0);
  } catch (error) {
    // Nothing that nobody waits for is left running there; best effort, since the guest may just have gone.
    if (ended === undefined) await sh(killScript, String(pid), folder).catch(() => undefined);
    if (signal.aborted || error instanceof Cancelled)
      throw new Interrupted("broken off; the command in the guest was ended");
    throw error;
  }

  async function open(name: string): Promise<number> {
    const backoff = new Backoff(clock, signal, 50, 500);
    for (;;) {
      try {
        return (await ask("guest-file-open", { path: `${folder}/${name}`, mode: "r" })) as number;
      } catch (error) {
        // Its first lines have not got there yet.
        if (!(error instanceof LibvirtError) || !/No such file/i.test(error.message)) throw error;
        const { exited, exitcode } = await status();
        if (exited && exitcode === 125) throw new CliError(`the guest has no room for output in /run`);
        if (clock.now() - begun > beginMs) throw error;
        await backoff.pause();
      }
    }
  }

  /** Whether there was anything. */
  async function read(handle: number, sink: (data: Buffer) => void): Promise<boolean> {
    for (let some = false; ; some = true) {
      const part = (await ask("guest-file-read", { handle, count: chunkBytes })) as Part;
      if (part.count > 0) sink(Buffer.from(part["buf-b64"], "base64"));
      if (part.eof || part.count === 0) return some || part.count > 0;
    }
  }
}

/** Aborted by Ctrl-C, or when nobody reads our output any more, as with `| head`. */
export class Stop extends AbortController {
  /** Whether it was for want of a reader. */
  unread = false;

  constructor(interrupt: AbortSignal) {
    super();
    if (interrupt.aborted) this.abort();
    interrupt.addEventListener("abort", () => this.abort(), { once: true });
  }

  /** A sink on a stream of ours. */
  to(stream: NodeJS.WriteStream): (data: Buffer) => void {
    stream.on("error", () => {
      this.unread = true;
      this.abort();
    });
    return (data) => {
      if (!this.unread) stream.write(data);
    };
  }

  /** The work's exit code; that of any program without a reader when it ended for that. */
  async code(work: Promise<number>): Promise<number> {
    try {
      return await work;
    } catch (error) {
      if (this.unread) return BROKEN_PIPE;
      throw error;
    }
  }
}

/** Exit code of a program that wrote to a pipe without a reader. */
const BROKEN_PIPE = 128 + constants.signals.SIGPIPE;
