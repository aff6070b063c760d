import { setMaxListeners } from "node:events";
import { formatProblem, formatWaves, type Plan, planFleet, type VmPlan } from "../../components/plan";
import type { Clock } from "../../provider/clock";
import { diffGuest } from "../../provider/diff";
import { fleetFacts } from "../../provider/facts";
import type { Deps } from "../../provider/gate";
import type { GuestInputs, Props } from "../../provider/inputs";
import { applyGuest, InitFailed } from "../../provider/lifecycle";
import { memoryOf, refusal } from "../../provider/memory";
import { type Behaviour, digestOf, SimHost, SimVm } from "./hosts";
import { formatTime, Time } from "./time";

/** Something that happens by itself, that many seconds after an `up` has begun. */
export interface Event {
  at: number;
  /** A VM goes off or restarts, its domain or its former overlay is removed, its host is lost or found again. */
  what: "goes off" | "restarts" | "is removed" | "loses its former overlay" | "loses its host" | "finds its host";
  vm: string;
}

/** What people do. */
export interface Step {
  /** Runs `pulumi up` with this image. */
  up?: string;
  /** Differences of `nixvm:rollout` from then on. */
  rollout?: Record<string, unknown>;
  /** Seconds after which it is cancelled (Ctrl-C), or killed without a chance to say anything. */
  cancel?: number;
  kill?: number;
  events?: Event[];
  /** Lets seconds pass. */
  wait?: number;
}

export interface Scenario {
  name: string;
  /** VMs by name; members of a group are `<group>-<n>`. */
  vms: string[];
  groups?: Record<string, Record<string, unknown>>;
  rollout?: Record<string, unknown>;
  /** UTC; default a Thursday. */
  start?: string;
  /** VMs that are not there yet, off, or on another host. */
  fresh?: string[];
  off?: string[];
  elsewhere?: string[];
  /** How guests behave, by VM (`*`: all others) and image. What is not named behaves well. */
  guests?: Record<string, Record<string, Behaviour>>;
  steps: Step[];
}

/** One VM being changed by one `up`. */
export interface Change {
  vm: string;
  /** When a VM that ran was stopped for it; absent when none was. */
  downFrom?: number;
  to?: number;
  outcome?: "ok" | "failed";
  said?: string;
  /** Boots of the VMs of the wave before, when it was stopped. */
  bootsBefore: number[];
}

/** One `up` as it went. */
export interface Run {
  image: string;
  plan: Plan;
  changes: Change[];
  /** Quarantined images by VM at its beginning, those that may be tried again left out. */
  quarantined: Map<string, string[]>;
  started: { vm: string; image: string }[];
  failedAt?: number;
  /** When the first VM failed, of which the engine hears when that VM is back on its former image. */
  brokeAt?: number;
  /** What its provider remembers of a failure. */
  stopped: { vm?: string };
  begun: number;
  brokenOff: boolean;
  ok: boolean;
}

const HERE = "qemu:///system";
const THERE = "qemu+ssh://there/system";
const said = (text: string): string => text.replace(/(\d)\1{11}/g, "v$1").split("\n")[0] ?? "";

/** Runs the planner, the facts, the gate and the Guests as they are, over hosts and a time of its own. */
export class Simulation {
  readonly time: Time;
  readonly log: string[] = [];
  readonly runs: Run[] = [];
  readonly vms = new Map<string, SimVm>();
  private readonly hosts: Map<string, SimHost>;
  private readonly state = new Map<string, { inputs: Props; outputs: Props; broken: boolean }>();
  private rollout: Record<string, unknown>;
  private run: Run | undefined;

  constructor(readonly scenario: Scenario) {
    this.time = new Time(Date.parse(`${scenario.start ?? "2026-01-01T00:00"}Z`));
    this.rollout = { gateTimeout: "30s", stopTimeout: "20s", ...scenario.rollout };
    for (const [index, name] of scenario.vms.entries()) {
      const uri = scenario.elsewhere?.includes(name) ? THERE : HERE;
      const behaviourOn = (image: string): Behaviour =>
        (scenario.guests?.[name] ?? scenario.guests?.["*"])?.[image] ?? {};
      const vm = new SimVm(name, uri, index + 1, "v1", behaviourOn, this.time);
      this.vms.set(name, vm);
      if (scenario.fresh?.includes(name)) {
        vm.gone = true;
        continue;
      }
      if (!scenario.off?.includes(name)) vm.boot();
      vm.bootedAt = -3_600_000;
      const inputs = this.inputsOf(name, "v1", true);
      const { imageDigest, imageId, overlayPath, contract } = inputs;
      const outputs = { ...inputs, lastGood: { imageDigest, imageId, overlayPath, contract } };
      this.state.set(name, { inputs, outputs, broken: false });
    }
    this.hosts = new Map(
      [HERE, THERE].map((uri) => {
        const own = [...this.vms.values()].filter(({ host }) => host === uri);
        return [uri, new SimHost(uri, own, this.time, (vm, what) => this.note(vm, what))];
      }),
    );
  }

  async play(): Promise<void> {
    for (const { wait, rollout, ...step } of this.scenario.steps) {
      Object.assign(this.rollout, rollout);
      if (wait !== undefined) {
        this.say(`${wait} s pass`);
        await this.time.until(new Promise<void>((resolve) => this.time.at(this.time.now + wait * 1000, resolve)));
      }
      if (step.up !== undefined) await this.time.until(this.up(step.up, step, rollout));
    }
  }

  say(text: string): void {
    this.log.push(`t=${formatTime(this.time.now)} ${text}`);
  }

  /** What is done to a VM. A clean stop is asked for again and again, and logged once. */
  private note(vm: SimVm, what: string): void {
    const change = this.run?.changes.find(({ vm: name, to }) => name === vm.name && to === undefined);
    if (what === "stop") {
      const began = vm.bootedAt;
      if (this.stopped.get(vm.name) === began) return;
      this.stopped.set(vm.name, began);
      if (change && change.downFrom === undefined) {
        change.downFrom = this.time.now;
        const before = this.run?.plan.vms.find(({ name }) => name === vm.name)?.rollout?.before ?? [];
        change.bootsBefore = before.map((one) => this.vms.get(one.vm)?.bootedAt ?? Infinity);
      }
    }
    if (what.startsWith("boots")) this.run?.started.push({ vm: vm.name, image: vm.image });
    this.say(`${vm.name} ${what}`);
  }
  private readonly stopped = new Map<string, number>();

  private async up(
    image: string,
    { cancel, kill, events = [] }: Step,
    changed?: Record<string, unknown>,
  ): Promise<void> {
    this.say(`up ${image}${changed ? ` with ${JSON.stringify(changed).replace(/(\d)\1{11}/g, "v$1")}` : ""}`);
    const begun = this.time.now;
    const program = { dead: false };
    const abort = new AbortController();
    setMaxListeners(0, abort.signal);
    const clock = this.time.clockOf(program);
    const plan = await this.plan(image, clock);
    if (plan === undefined) return;
    for (const line of formatWaves(plan)) this.say(line);
    if (this.refused(plan, image)) return;
    const run: Run = {
      ...{ image, plan, changes: [], started: [], stopped: {}, begun: this.time.now, brokenOff: false, ok: false },
      quarantined: new Map(
        plan.vms.map(({ name, retry }) => [
          name,
          memoryOf(this.state.get(name)?.outputs ?? {})
            .quarantined.map(({ digest }) => digest)
            .filter((digest) => !retry.includes(digest)),
        ]),
      ),
    };
    this.run = run;
    this.runs.push(run);
    const forget = events.map((event) => this.time.at(begun + event.at * 1000, () => this.happens(event)));
    const dies = new Promise<void>((resolve) => {
      if (kill === undefined) return;
      forget.push(
        this.time.at(begun + kill * 1000, () => {
          program.dead = run.brokenOff = true;
          this.say("killed");
          resolve();
        }),
      );
    });
    if (cancel !== undefined) {
      forget.push(
        this.time.at(begun + cancel * 1000, () => {
          run.brokenOff = true;
          this.say("cancelled");
          abort.abort();
        }),
      );
    }
    await Promise.race([dies, this.carryOut(run, image, clock, abort.signal)]);
    for (const one of forget) one();
    this.run = undefined;
    if (!program.dead) this.say(run.ok ? "up done" : "up failed");
  }

  private happens({ what, vm: name }: Event): void {
    const vm = this.vms.get(name);
    const host = this.hosts.get(vm?.host ?? "");
    this.say(`${name} ${what}`);
    if (!vm || !host) return;
    if (what === "goes off") vm.off();
    if (what === "restarts") vm.boot();
    if (what === "is removed") vm.gone = true;
    if (what === "loses its former overlay") host.missingVolumes.add(vm.overlay("v1"));
    if (what === "loses its host") host.lost = true;
    if (what === "finds its host") host.lost = false;
  }

  private async plan(image: string, clock: Clock): Promise<Plan | undefined> {
    const { vms, groups = {}, elsewhere } = this.scenario;
    const members = new Set(
      Object.entries(groups).flatMap(([group, { count }]) =>
        vms.filter((name) => new RegExp(`^${group}-\\d+$`).test(name) && Number(count) > 0),
      ),
    );
    const config = {
      hosts: { here: { uri: HERE }, ...(elsewhere ? { there: { uri: THERE } } : {}) },
      images: { os: { path: "os.qcow2" } },
      defaults: { image: "os" },
      groups,
      fleet: Object.fromEntries(
        vms
          .filter((name) => !members.has(name))
          .map((name) => [name, elsewhere ? { host: elsewhere.includes(name) ? "there" : "here" } : {}]),
      ),
      rollout: this.rollout,
    };
    const digest = digestOf(image).padEnd(64, "0");
    const wanted = [...this.vms.values()].map(({ name, domain, host: uri }) => ({ name, domain, uri, digest }));
    try {
      const current = await fleetFacts(wanted, { libvirt: (uri) => this.hosts.get(uri)!, clock });
      const context = { project: "nixvm", stack: "sim", defaults: { poolRoot: "/pool" }, images: { os: { digest } } };
      const result = planFleet(config, { ...context, current });
      if (result.ok) return result.plan;
      for (const problem of result.problems) this.say(`refused: ${formatProblem(problem)}`);
    } catch (error) {
      this.say(`refused: ${(error as Error).message}`);
    }
    return undefined;
  }

  private refused(plan: Plan, image: string): boolean {
    const reasons = plan.vms.flatMap(({ name, retry }) => {
      const news = { ...this.inputsOf(name, image, true), retry: retry.includes(digestOf(image)) };
      return refusal(this.state.get(name)?.outputs ?? {}, news) ?? [];
    });
    for (const reason of reasons) this.say(`refused: ${said(reason).replace(/ \(.*\)/, "")}`);
    return reasons.length > 0;
  }

  /** As the engine does: by dependencies, and after a failure nothing new is begun. */
  private async carryOut(run: Run, image: string, clock: Clock, signal: AbortSignal): Promise<void> {
    const done = new Map<string, Promise<boolean>>();
    const untouched: string[] = [];
    for (const vm of run.plan.vms) {
      const work = async (): Promise<boolean> => {
        const before = await Promise.all(vm.after.map((name) => done.get(name) ?? Promise.resolve(false)));
        const news = this.newsOf(vm, image);
        const old = this.state.get(vm.name);
        if (old && !old.broken && diffGuest(old.inputs, news, old.outputs).updates.length === 0)
          return before.every(Boolean);
        if (run.failedAt !== undefined || signal.aborted || !before.every(Boolean)) {
          untouched.push(vm.name);
          return false;
        }
        return this.change(run, vm, news, clock, signal);
      };
      done.set(vm.name, work());
    }
    const all = await Promise.all(done.values());
    run.ok = all.every(Boolean);
    if (untouched.length > 0) this.say(`not begun: ${untouched.join(", ")}`);
  }

  private newsOf({ name, goBack, retry, rollout }: VmPlan, image: string): GuestInputs {
    return {
      ...this.inputsOf(name, image, goBack),
      retry: retry.includes(digestOf(image)),
      ...(rollout ? { rollout } : {}),
    };
  }

  private async change(run: Run, plan: VmPlan, news: GuestInputs, clock: Clock, signal: AbortSignal): Promise<boolean> {
    const { name } = plan;
    const vm = this.vms.get(name)!;
    const old = this.state.get(name);
    const change: Change = { vm: name, bootsBefore: [] };
    run.changes.push(change);
    // What `libvirt.Domain` does for a new VM.
    if (!old) vm.gone = false;
    let waited = "";
    const deps: Deps = {
      libvirt: this.hosts.get(vm.host)!,
      libvirtAt: (uri) => this.hosts.get(uri)!,
      disks: undefined as never,
      networks: undefined as never,
      failed: run.stopped,
      begun: run.begun,
      clock,
      signal,
      progress: (line) => {
        const about = line.replace(/ \d\w* /, " ");
        if (line.startsWith("waits") && about !== waited) this.say(`${name} ${line}`);
        waited = line.startsWith("waits") ? about : waited;
      },
      info: (line) => this.say(`${name} ${said(line)}`),
      warn: (line) => {
        if (line.includes("failed, going back")) run.brokeAt ??= this.time.now;
        this.say(`${name} warns: ${said(line)}`);
      },
    };
    try {
      const outputs = await applyGuest(news, plan.gateTimeoutSeconds, deps, memoryOf(old?.outputs ?? {}));
      this.state.set(name, { inputs: { ...news }, outputs, broken: false });
      change.outcome = "ok";
      this.say(`${name} healthy on ${run.image}`);
      return true;
    } catch (error) {
      const { message } = error as Error;
      change.outcome = "failed";
      change.said = said(message.split(`\n${name}: `)[1] ?? "");
      run.failedAt ??= this.time.now;
      run.brokeAt ??= this.time.now;
      if (error instanceof InitFailed)
        this.state.set(name, { inputs: { ...news }, outputs: error.properties, broken: true });
      this.say(
        `${name} ${error instanceof InitFailed ? "failed" : "refused"}: ${said(message.replace(`${name}: `, ""))}`,
      );
      if (change.said) this.say(`${name} ${change.said}`);
      return false;
    } finally {
      change.to = this.time.now;
    }
  }

  private inputsOf(name: string, image: string, goBack: boolean): GuestInputs {
    const vm = this.vms.get(name)!;
    return {
      ...{ uri: vm.host, vm: name, domain: vm.domain, uuid: vm.uuid, domainId: vm.uuid },
      ...{ imageId: `image-${image}`, imageDigest: digestOf(image), overlayPath: vm.overlay(image) },
      ...{ memoryMiB: 512, vcpus: 1, network: "user", accelerator: "kvm", running: true, contract: "nixvm" },
      ...{ stopTimeoutSeconds: 20, goBack },
    };
  }
}
