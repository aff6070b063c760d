import * as fs from "node:fs";
import * as path from "node:path";
import { Nvram } from "../../cli/nvram";
import { Subject } from "../../cli/snapshotSubject";
import { VirshDisks } from "../../provider/disks";
import type { Run, RunResult } from "../../provider/run";
import { run as realRun } from "../../provider/run";
import { type AgentCommand, LibvirtError } from "../../provider/virsh";
import { VirshVolumes } from "../../provider/volumes";
import { DiskHost } from "./provider-disks";
import { FakeLibvirt, Scene, UUID } from "./provider-fake";

const URI = "qemu:///system";

/** A libvirt whose domain has a monitor and an agent that can freeze. What QEMU does to a qcow2 file, qemu-img does here. */
export class SnapLibvirt extends FakeLibvirt {
  /** Words of what happened, in order: freeze, thaw, suspend, resume, and the snapshots that were taken and deleted. */
  story: string[] = [];
  frozen = false;
  agentThere = true;
  /** What fails, how often, and whether it has been done by then. */
  broken = new Map<string, { times: number; done: boolean }>();
  onMonitor: () => void = () => undefined;
  nodeFile: string | undefined;

  constructor(private readonly file: string) {
    super();
  }

  private tell<T>(what: string, act: () => T): T {
    const fault = this.broken.get(what);
    const fails = fault !== undefined && fault.times > 0;
    if (fails) fault.times--;
    this.story.push(fails ? `${what} fails` : what);
    if (!fails) return act();
    if (fault.done) act();
    throw new LibvirtError(
      what === "freeze" || what === "thaw" ? "agent" : "failed",
      `the fake was told to fail at ${what}`,
    );
  }

  override async agent(uuid: string, command: AgentCommand): Promise<unknown> {
    if (!command.execute.startsWith("guest-fsfreeze-")) return super.agent(uuid, command);
    if (!this.agentThere) throw new LibvirtError("agent", "QEMU guest agent is not connected");
    if (command.execute === "guest-fsfreeze-status") return this.frozen ? "frozen" : "thawed";
    if (command.execute === "guest-fsfreeze-thaw") return this.tell("thaw", () => void (this.frozen = false));
    if (this.frozen) throw new LibvirtError("agent", "Command has been disabled: the agent is in frozen state");
    return this.tell("freeze", () => void (this.frozen = true));
  }

  async suspend(): Promise<void> {
    this.tell("suspend", () => (this.domain = { state: "paused", reason: "user" }));
  }

  override async resume(): Promise<void> {
    this.tell("resume", () => (this.domain = { state: "running", reason: "unpaused" }));
  }

  async commandLine(): Promise<string> {
    return `-blockdev '{"driver":"file","filename":"/vars/chosen \\"1\\".fd","node-name":"libvirt-pflash1-storage"}'`;
  }

  async monitor(_uuid: string, { execute, arguments: given = {} }: AgentCommand): Promise<unknown> {
    if (execute === "query-named-block-nodes") {
      return [
        { "node-name": "libvirt-1-format", drv: "qcow2", file: "/pool/root.qcow2" },
        { "node-name": "libvirt-2-storage", drv: "file", file: this.file },
        { "node-name": "libvirt-2-format", drv: "qcow2", file: this.nodeFile ?? this.file },
      ];
    }
    if (given["device"] !== "libvirt-2-format") throw new Error(`unexpected device ${String(given["device"])}`);
    const name = String(given["name"]);
    const taking = execute === "blockdev-snapshot-internal-sync";
    const host = new DiskHost();
    return this.tell(`${taking ? "take" : "delete"} ${name}`, () => {
      this.onMonitor();
      host.img("snapshot", taking ? "-c" : "-d", name, this.file);
    });
  }
}

/** {@link DiskHost} with pools, which are folders, in the words of libvirt 9.0. */
export class PoolHost extends DiskHost {
  pools = new Map<string, string>();
  /** The verb that fails, and how often. */
  faults = new Map<string, number>();
  /** Every call. */
  said: string[][] = [];

  constructor() {
    super();
    const holder = this.run;
    this.run = async (command, args, limit) => {
      if (command !== "virsh") return realRun(command, args, limit);
      const [verb = "", ...rest] = args.slice(3);
      this.said.push([verb, ...rest]);
      const left = this.faults.get(verb) ?? 0;
      if (left > 0) {
        this.faults.set(verb, left - 1);
        return failed("the fake was told to fail");
      }
      return this.pool(verb, rest) ?? holder(command, args, limit);
    };
  }

  private pool(verb: string, args: readonly string[]): RunResult | undefined {
    const option = (name: string): string => (args.includes(`--${name}`) ? args[args.indexOf(`--${name}`) + 1]! : "");
    const named = args.includes("--pool");
    const file = named
      ? path.join(this.pools.get(option("pool")) ?? "", option("vol") || option("name"))
      : (args[0] ?? "");
    const of = [...this.pools].find(([, folder]) => folder === path.dirname(file))?.[0];
    switch (verb) {
      case "vol-pool":
        return of !== undefined && fs.existsSync(file)
          ? done(`${of}\n\n`)
          : failed("Storage volume not found: no storage vol");
      case "vol-list":
        return done(
          fs
            .readdirSync(this.pools.get(option("pool")) ?? "")
            .map((name) => ` ${name}   ${path.join(this.pools.get(option("pool"))!, name)}\n`)
            .join(""),
        );
      case "vol-create-as":
        if (fs.existsSync(file)) return failed(`storage volume '${option("name")}' exists already`);
        fs.writeFileSync(file, Buffer.alloc(Number(option("capacity"))));
        return done();
      case "vol-upload":
        fs.writeFileSync(file, fs.readFileSync(named ? option("file") : args[1]!), { flag: "r+" });
        return done();
      case "vol-download":
        if (args.includes("--length")) return undefined;
        fs.copyFileSync(file, named ? option("file") : args[1]!);
        return done();
      case "vol-delete":
        fs.rmSync(file);
        return done();
      case "pool-create": {
        const xml = fs.readFileSync(args[0]!, "utf8");
        const [name, folder] = [/<name>(.*)<\/name>/.exec(xml)![1]!, /<path>(.*)<\/path>/.exec(xml)![1]!];
        if (!fs.existsSync(folder)) return failed(`cannot open directory '${folder}': No such file or directory`);
        const other = [...this.pools].find(([, known]) => known === folder)?.[0];
        if (other !== undefined) return failed(`operation failed: Storage source conflict with pool: '${other}'`);
        this.pools.set(name, folder);
        return done();
      }
      case "pool-destroy":
        this.pools.delete(args[0]!);
        return done();
      default:
        return undefined;
    }
  }
}

/** One VM with real files: its persistent volume, root and scratch disk in a pool, and its UEFI variables elsewhere. */
export class SnapScene extends Scene {
  readonly folder: string;
  readonly file: string;
  readonly nvram: string;
  readonly host = new PoolHost();
  readonly snap: SnapLibvirt;
  readonly subject: Subject;

  constructor(parent: string) {
    super();
    this.folder = path.join(parent, "the pool");
    this.file = path.join(this.folder, "fleet-web-persist");
    this.nvram = path.join(parent, "vars", "web VARS.fd");
    fs.mkdirSync(this.folder);
    fs.mkdirSync(path.dirname(this.nvram));
    fs.writeFileSync(this.nvram, "variables 1");
    for (const name of ["fleet-web-persist", "root.qcow2", "scratch.qcow2"]) {
      this.host.img("create", "-q", "-f", "qcow2", "-o", "compat=1.1", path.join(this.folder, name), "8M");
    }
    this.host.pools.set("fleet", this.folder);
    const { libvirt } = this.host.scene(this.file, path.join(this.folder, "fleet-web-aaaaaaaaaaaa-1.qcow2"));
    this.snap = new SnapLibvirt(this.file);
    const withVars = libvirt.live.replace("</os>", `<nvram>${this.nvram}</nvram></os>`);
    Object.assign(this.snap, { live: withVars, inactive: withVars });
    this.snap.volumeResize = (at, bytes) => libvirt.volumeResize(at, bytes);
    this.libvirt = this.snap;
    const run: Run = this.host.run;
    this.deps = { ...this.deps, libvirt: this.snap, libvirtAt: () => this.snap, disks: new VirshDisks(URI, run) };
    this.subject = new Subject({
      vm: { name: "web", uuid: UUID, imageDigest: "bbbbbbbbbbbb" },
      persistPath: this.file,
      deps: { ...this.deps, libvirt: this.snap as never, signal: new AbortController().signal },
      volumes: new VirshVolumes(URI, run),
      nvram: new Nvram(URI, run, this.clock),
    });
  }

  off(): void {
    this.snap.domain = { state: "shut off", reason: "shutdown" };
  }

  /** Names in the pool, less the disks. */
  copies(): string[] {
    return fs.readdirSync(this.folder).filter((name) => name.endsWith(".nvram"));
  }
}

function done(stdout = ""): RunResult {
  return { code: 0, stdout, stderr: "" };
}

function failed(text: string): RunResult {
  return { code: 1, stdout: "", stderr: `error: ${text}\n` };
}
