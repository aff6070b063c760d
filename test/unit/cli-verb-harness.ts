import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { nixvm } from "../../cli/nixvm";

// A stand-in for the pulumi command: it answers from files, and notes how it was called.
const PULUMI = `#!/usr/bin/env node
const fs = require("node:fs");
const path = require("node:path");
const dir = path.dirname(__dirname);
const args = process.argv.slice(2);
const at = (flag) => (args.includes(flag) ? args[args.indexOf(flag) + 1] : undefined);
const config = at("--config-file") ?? path.join(dir, "stacks", "Pulumi.test.yaml");
const call = { args, config: fs.readFileSync(config, "utf8"), mode: fs.statSync(path.dirname(config)).mode & 0o777 };
fs.appendFileSync(path.join(dir, "calls"), JSON.stringify(call) + "\\n");
const file = (name) => path.join(dir, name);
if (args[0] === "stack" && args[1] === "export") process.stdout.write(fs.readFileSync(file("state.json"), "utf8"));
else if (args[0] === "preview") process.stdout.write(fs.existsSync(file("preview.json")) ? fs.readFileSync(file("preview.json"), "utf8") : "{}");
else if (args[0] === "up") {
  const ups = fs.readFileSync(file("calls"), "utf8").split("\\n").filter((line) => line.includes('"args":["up"')).length;
  const next = file("state." + ups + ".json");
  const fails = file("fails." + ups);
  if (fs.existsSync(next)) fs.copyFileSync(next, file("state.json"));
  if (fs.existsSync(fails)) process.exit(1);
} else process.exit(9);
`;

// libvirt has the volumes that are files, and no more.
const VIRSH = `#!/bin/sh
while [ "$1" = -q ] || [ "$1" = -c ]; do if [ "$1" = -c ]; then shift; fi; shift; done
case "$1" in
  vol-info) [ -e "$2" ] || { echo "error: Storage volume not found: no storage vol" >&2; exit 1; } ;;
esac
`;

/** What a verb left behind. */
export interface Ended {
  code: number;
  out: string;
  err: string;
}

export interface Call {
  args: string[];
  /** The stack file that it worked by, as it read then. */
  config: string;
  /** Of the folder that this was in. */
  mode: number;
}

/** A VM of the state. */
export interface VmState {
  name: string;
  inputs?: Record<string, unknown>;
  volume?: string;
  protect?: boolean;
  waitsFor?: string[];
  going?: boolean;
  /** Whether its guest is there; not in a run that was broken off before. */
  guest?: boolean;
}

const FLEET = "urn:pulumi:test::nixvm::nixvm:index:Fleet$";
const vmUrn = (name: string): string => `${FLEET}nixvm:index:VirtualMachine::${name}`;
const guestUrn = (name: string): string => `${FLEET}nixvm:index:VirtualMachine$nixvm:index:Guest::${name}-guest`;

/** A project in a folder of its own, with a stand-in for pulumi and virsh. Verbs run in this process. */
export class VerbProject {
  readonly dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm verbs "));
  private readonly env = { ...process.env };

  constructor(text: string) {
    for (const folder of ["stacks", "bin", "pool"]) fs.mkdirSync(path.join(this.dir, folder));
    const image = Buffer.alloc(4096);
    image.writeUInt16LE(0xaa55, 510);
    fs.writeFileSync(path.join(this.dir, "os.img"), image);
    fs.writeFileSync(this.file, text);
    fs.writeFileSync(path.join(this.dir, "bin", "pulumi"), PULUMI, { mode: 0o755 });
    fs.writeFileSync(path.join(this.dir, "bin", "virsh"), VIRSH, { mode: 0o755 });
    process.env.PATH = `${path.join(this.dir, "bin")}:${process.env.PATH ?? ""}`;
    process.env.NIXVM_PROJECT = this.dir;
    process.env.PULUMI_STACK = "test";
    delete process.env.NIXVM_NETWORK;
    delete process.env.LIBVIRT_DEFAULT_URI;
    process.env.NIXVM_POOL_ROOT = path.join(this.dir, "pool");
    this.state([]);
  }

  remove(): void {
    process.env = this.env;
    fs.rmSync(this.dir, { recursive: true, force: true });
  }

  get file(): string {
    return path.join(this.dir, "stacks", "Pulumi.test.yaml");
  }

  get text(): string {
    return fs.readFileSync(this.file, "utf8");
  }

  disk(name: string): string {
    return path.join(this.dir, "pool", name);
  }

  /** What `pulumi stack export` says; after that many runs of `up`, if it is said. */
  state(vms: VmState[], ups?: number): void {
    const resources = vms.flatMap((vm) => this.resourcesOf(vm));
    const name = ups === undefined ? "state.json" : `state.${ups}.json`;
    fs.writeFileSync(path.join(this.dir, name), JSON.stringify({ deployment: { resources } }));
  }

  private resourcesOf({
    name,
    inputs,
    volume,
    protect = true,
    waitsFor = [],
    going = false,
    guest: there = true,
  }: VmState): object[] {
    const parent = vmUrn(name);
    const volumeName = volume ?? `nixvm-test-${name}-persist`;
    const guest = {
      vm: name,
      uri: "qemu:///system",
      domain: `nixvm-test-${name}`,
      uuid: `uuid-of-${name}`,
      imageDigest: "0123456789ab",
      overlayPath: this.disk(`${name}-overlay`),
      persistPath: this.disk(volumeName),
      persistBytes: 10 * 2 ** 30,
      memoryMiB: 2048,
      vcpus: 2,
      network: "network default",
      nic: { type: "network", source: "default", mac: "02:00:00:00:00:01" },
      running: true,
      ...inputs,
    };
    const persist = {
      urn: `${FLEET}nixvm:index:VirtualMachine$nixvm:index:PersistentVolume$libvirt:index/volume:Volume::${name}-persist-volume`,
      type: "libvirt:index/volume:Volume",
      id: this.disk(volumeName),
      parent,
      inputs: { name: volumeName },
    };
    return [
      { urn: parent, type: "nixvm:index:VirtualMachine" },
      { ...persist, ...(protect ? { protect: true, retainOnDelete: true } : {}) },
      ...(going ? [{ ...persist, delete: true }] : []),
      { urn: `${parent}-domain`, type: "libvirt:index/domain:Domain", parent, dependencies: waitsFor.map(guestUrn) },
      ...(there ? [{ urn: guestUrn(name), type: "nixvm:index:Guest", parent, inputs: guest, outputs: {} }] : []),
    ];
  }

  /** The next runs of `up`, counted from 1, that fail. */
  fails(...ups: number[]): void {
    for (const n of ups) fs.writeFileSync(path.join(this.dir, `fails.${n}`), "");
  }

  preview(steps: { op: string; urn: string }[]): void {
    fs.writeFileSync(path.join(this.dir, "preview.json"), JSON.stringify({ steps }));
  }

  /** How pulumi was called, in order, without those that only read. */
  ups(): Call[] {
    return this.calls().filter(({ args }) => args[0] === "up");
  }

  calls(): Call[] {
    const file = path.join(this.dir, "calls");
    if (!fs.existsSync(file)) return [];
    const lines = fs.readFileSync(file, "utf8").trim().split("\n");
    return lines.map((line) => JSON.parse(line) as Call);
  }

  /** Forgets all calls and what was to happen. */
  afresh(): void {
    for (const name of fs.readdirSync(this.dir))
      if (/^(calls|fails\.|state\.\d)/.test(name)) fs.rmSync(path.join(this.dir, name));
  }

  async run(...args: string[]): Promise<Ended> {
    const ended: Ended = { code: 0, out: "", err: "" };
    const into = (stream: "out" | "err") => (text: unknown) => {
      ended[stream] += String(text);
      return true;
    };
    const out = jest.spyOn(process.stdout, "write").mockImplementation(into("out"));
    const err = jest.spyOn(process.stderr, "write").mockImplementation(into("err"));
    const terminal = Object.getOwnPropertyDescriptor(process.stdin, "isTTY");
    Object.defineProperty(process.stdin, "isTTY", { value: false, configurable: true });
    try {
      await nixvm().parseAsync(["node", "nixvm", ...args]);
      ended.code = Number(process.exitCode ?? 0);
      return ended;
    } finally {
      process.exitCode = 0;
      out.mockRestore();
      err.mockRestore();
      if (terminal) Object.defineProperty(process.stdin, "isTTY", terminal);
    }
  }
}

/** URNs that a call is about. */
export function targets({ args }: Call): string[] {
  return args.flatMap((arg, i) => (arg === "--target" ? [args[i + 1] ?? ""] : []));
}
