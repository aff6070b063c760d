import { open } from "node:fs/promises";
import type { Command } from "commander";
import { systemClock } from "../../provider/clock";
import { remoteHost } from "../address";
import type { Context } from "../context";
import { wrongInput, wrongState } from "../errors";
import type { FleetVm } from "../fleet";
import { runInGuest, Stop } from "../guestCommand";
import { isLines, journalArguments, type LogOptions, serialLines } from "../journal";
import { mustRun } from "../power";
import { does, verb } from "../verb";

/** The guest's output is in its memory until it is read, so it may not grow without an end when nobody reads: some 16 MiB. */
const bounded = 'ulimit -f 32768; exec "$@"';
/** While it is followed, each question whether it has ended would be another line in it. */
const followPatienceMs = 60_000;
/** How much of a serial log is read for each line that is wanted. */
const lineBytes = 512;
const serialPauseMs = 500;

interface Options extends LogOptions {
  serial: boolean;
}

/** `nixvm logs`: the journal of a VM through its agent, or what its serial console has printed. */
export function addLogs(program: Command): void {
  does<Options, [string]>(
    verb(program, "logs <vm>", "the journal of a VM, or its serial console")
      .option("-f, --follow", "go on with what comes, until Ctrl-C")
      .option("-n, --lines <number>", "how many of the last lines, or all; default: 100, all with --since")
      .option("-u, --unit <unit>", "of one systemd unit only")
      .option("--since <time>", 'as journalctl reads it: "10 min ago", 2026-01-31')
      .option("--boot", "since the last start only")
      .option("--serial", "what the serial console has printed; also of a VM that is off", false),
    async (context, options, name) => {
      if (options.lines !== undefined && !isLines(options.lines)) {
        throw wrongInput("--lines", options.lines, "is no number of lines", 'a number from 1 to 9999999, or "all"');
      }
      const vm = await context.vm(name);
      const stop = new Stop(context.signal);
      return stop.code((options.serial ? serial : journal)(context, vm, options, stop));
    },
  );
}

async function journal(context: Context, vm: FleetVm, options: Options, stop: Stop): Promise<number> {
  const libvirt = await mustRun(context, vm);
  const words = journalArguments(options);
  const argv = options.follow ? ["sh", "-c", bounded, "sh", ...words] : words;
  const patience = options.follow ? { patienceMs: followPatienceMs } : {};
  const sinks = { onOut: stop.to(process.stdout), onErr: stop.to(process.stderr) };
  return runInGuest(libvirt, vm.uuid, { argv, ...sinks, ...patience }, systemClock, stop.signal);
}

async function serial(_context: Context, vm: FleetVm, options: Options, stop: Stop): Promise<number> {
  const { lines, follow, json, ...others } = options;
  const show = stop.to(process.stdout);
  for (const name of ["unit", "since", "boot"] as const) {
    if (others[name] === undefined) continue;
    throw wrongInput(`--${name}`, others[name], "does not go with --serial, which has no journal", "");
  }
  const { consoleLog } = vm;
  const remote = remoteHost(vm.uri);
  if (consoleLog === undefined) throw wrongState(`${vm.name}: it has no log of its serial console`);
  if (remote) throw wrongState(`${vm.name}: the log of its serial console is on ${remote.host}: ${consoleLog}`);
  const wanted = lines === "all" ? Infinity : Number(lines ?? (follow ? 10 : 100));
  let { data, end } = await readFrom(vm, consoleLog, (size) => Math.max(0, size - wanted * lineBytes));
  show(Buffer.from(serialLines(data.toString("utf8"), wanted, json)));
  let rest = Buffer.alloc(0);
  while (follow) {
    await systemClock.sleep(serialPauseMs, stop.signal);
    const before = end;
    ({ data, end } = await readFrom(vm, consoleLog, (size) => (size < before ? 0 : before)));
    // Shorter than it was: QEMU began it anew with a start.
    if (end < before) rest = Buffer.alloc(0);
    const all = Buffer.concat([rest, data]);
    const whole = all.lastIndexOf("\n") + 1;
    rest = all.subarray(whole);
    show(Buffer.from(serialLines(all.subarray(0, whole).toString("utf8"), Infinity, json)));
  }
  return 0;
}

/** What is in a log from a place on that depends on its size. */
async function readFrom(
  vm: FleetVm,
  log: string,
  from: (size: number) => number,
): Promise<{ data: Buffer; end: number }> {
  try {
    const file = await open(log, "r");
    try {
      const { size } = await file.stat();
      const start = from(size);
      const buffer = Buffer.alloc(size - start);
      const { bytesRead } = await file.read(buffer, 0, buffer.length, start);
      return { data: buffer.subarray(0, bytesRead), end: start + bytesRead };
    } finally {
      await file.close();
    }
  } catch (error) {
    if (!["ENOENT", "EACCES"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
    throw wrongState(`${vm.name}: the log of its serial console cannot be read: ${(error as Error).message}`);
  }
}
