import { execFile } from "node:child_process";
import { randomUUID } from "node:crypto";
import * as fs from "node:fs";
import * as path from "node:path";
import { promisify } from "node:util";
import { Command } from "commander";
import { keepOriginal, liveVms, selectStack, setImage, STACK, WORK } from "./demoStack";
import { down } from "./demoDown";
import { downSpans, EventLog, secondsTogether, type Span } from "./eventLog";
import { fleetTable, type Identity, type LiveVm } from "./guests";
import { PulumiFailed, pulumiMust, pulumiOnScreen } from "./pulumi";

const run = promisify(execFile);
const MARKERS = ["/var/lib/nixvm-demo-marker", "/home/nixvm-demo-marker"];

interface Before {
  vm: LiveVm;
  image: string;
  identity: Identity;
  marker: string;
  bootSecondsRaw: number;
}

/** Seconds each part took, in the order of the story. */
const seconds: Record<string, number> = {};

async function timed<T>(name: string, work: () => Promise<T>): Promise<T> {
  const began = performance.now();
  try {
    return await work();
  } finally {
    seconds[name] = round((performance.now() - began) / 1000);
  }
}

const round = (n: number): number => Math.round(n * 100) / 100;
const say = (line: string): boolean => process.stderr.write(`\n== ${line}\n`);

/** The key that opens the demo's VMs; made here, so that none of the user's own keys goes anywhere. */
async function makeKey(): Promise<void> {
  const key = path.join(WORK, "id_ed25519");
  if (!fs.existsSync(`${key}.pub`)) {
    fs.rmSync(key, { force: true });
    await run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "nixvm-demo", "-f", key]);
  }
}

async function prepare(vm: LiveVm): Promise<Before> {
  const marker = randomUUID();
  await vm.exec(MARKERS.map((file) => `echo ${marker} > ${file}`).join(" && ") + " && sync");
  const { imageVersion } = await vm.status();
  const identity = await vm.identity();
  process.stderr.write(`   ${vm.name}: markers in /var and /home; a plain restart for comparison: `);
  const bootSecondsRaw = round(await vm.restartPlainly());
  await vm.settled();
  process.stderr.write(`${bootSecondsRaw} s\n`);
  return { vm, image: imageVersion, identity, marker, bootSecondsRaw };
}

async function compare(before: Before, span: Span | undefined): Promise<Record<string, unknown>> {
  const { vm } = before;
  const { imageVersion } = await vm.status();
  const now = await vm.identity();
  const found = await vm.exec(MARKERS.map((file) => `cat ${file}`).join("; "));
  const identityKept = (Object.keys(now) as (keyof Identity)[]).every(
    (key) => now[key] !== "" && now[key] === before.identity[key],
  );
  return {
    name: vm.name,
    imageBefore: before.image,
    imageAfter: imageVersion,
    identityKept,
    dataKept: found === `${before.marker}\n`.repeat(MARKERS.length),
    downtimeSeconds: span ? round((span.to - span.from) / 1000) : 0,
    bootSecondsRaw: before.bootSecondsRaw,
  };
}

/** Base images in the pool, from libvirt's folder itself. */
function baseImages(vm: LiveVm): string[] {
  return fs.readdirSync(vm.vm.poolPath).filter((file) => file.includes("-base-"));
}

async function demo(json: boolean): Promise<boolean> {
  keepOriginal();
  await makeKey();

  say("1/6  The stack file declares two VMs on image v1: `pulumi up` makes them");
  await selectStack(json);
  setImage("v1");
  await timed("upV1", () => pulumiMust(["up", "--yes", "--skip-preview", "--stack", STACK], json));

  say("2/6  Both are healthy. Each gets a marker in /var and one in /home");
  const before: Before[] = [];
  // One after the other: the plain restarts must not be what takes both down at once.
  for (const vm of await liveVms()) {
    before.push(await timed(`plainRestart_${vm.name}`, () => prepare(vm)));
  }
  const oldBases = before[0] ? baseImages(before[0].vm) : [];

  say("3/6  One line of the stack file changes: image v2. `pulumi preview` says what that will do");
  setImage("v2");
  await timed("preview", () => pulumiMust(["preview", "--stack", STACK], json));

  say("4/6  `pulumi up`: a clean stop, a new overlay, a start and a health gate, one VM after the other");
  const logFile = path.join(WORK, "upgrade-events.json");
  const log = new EventLog(logFile);
  try {
    await timed("upV2", () =>
      pulumiMust(["up", "--yes", "--skip-preview", "--stack", STACK, "--event-log", logFile], json),
    );
  } finally {
    log.close();
  }
  const spans = downSpans(log.steps);

  say("5/6  What stayed, and what went");
  const vms: Record<string, unknown>[] = [];
  for (const one of before) {
    const result = await compare(one, spans.get(`${one.vm.name}-guest`));
    vms.push(result);
    process.stderr.write(`   ${JSON.stringify(result)}\n`);
  }
  const bothDownSeconds = secondsTogether([...spans.values()]);
  const bases = before[0] ? baseImages(before[0].vm) : [];
  const oldBaseGone = oldBases.every((base) => !bases.includes(base));
  process.stderr.write(
    `   both down at once: ${bothDownSeconds} s; the old base image is ${oldBaseGone ? "gone" : "STILL THERE"}\n`,
  );

  say("6/6  A second look finds nothing to do");
  const noChanges =
    (await timed("previewAgain", () => pulumiOnScreen(["preview", "--expect-no-changes", "--stack", STACK], json))) ===
    0;

  const ok =
    vms.length > 0 &&
    vms.every((vm) => vm.identityKept === true && vm.dataKept === true && vm.imageAfter === "v2") &&
    bothDownSeconds === 0 &&
    oldBaseGone &&
    noChanges;
  const live = await liveVms();
  for (const { vm } of live) {
    // The demo has a key of its own, which no SSH agent knows.
    vm.access = vm.access.replace(/^ssh /, `ssh -i ${path.join(WORK, "id_ed25519")} `);
  }
  process.stderr.write(`\n${await fleetTable(live)}\n`);
  process.stderr.write(`
What to type next
  ${live[0]?.vm.access ?? ""}
  eval "$(npm run -s env)"            # pulumi, its state and libvirt, for this shell
  pulumi preview --stack ${STACK}         # edit stacks/Pulumi.demo.yaml first: a third VM, more memory
  npm run demo:down                   # removes all of it; asks before it removes data
`);
  if (json) {
    process.stdout.write(`${JSON.stringify({ ok, vms, bothDownSeconds, oldBaseGone, noChanges, seconds })}\n`);
  } else if (!ok) {
    process.stderr.write("\nThe demo did not hold what it promises; see 5/6 and 6/6 above.\n");
  }
  return ok;
}

async function guarded(work: () => Promise<boolean>): Promise<void> {
  try {
    process.exitCode = (await work()) ? 0 : 1;
  } catch (error) {
    process.stderr.write(`\n${error instanceof Error ? error.message : String(error)}\n`);
    if (error instanceof PulumiFailed) {
      process.stderr.write("Pulumi's own output above says why. Running the same command again goes on from here.\n");
    }
    process.exitCode = 1;
  }
}

const program = new Command("demo").description("Brings up two VMs, upgrades them, and shows what stays");
program
  .option("--json", "print the measured result as one JSON object on the last line of stdout", false)
  .action(async (options: { json: boolean }) => guarded(() => demo(options.json)));
program
  .command("down")
  .description("Removes what the demo made")
  .option("--yes", "remove the data of the VMs without asking", false)
  .action(async (options: { yes: boolean }) => guarded(() => down(options.yes)));
void program.parseAsync();
