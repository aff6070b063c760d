import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import { basename, join } from "node:path";
import { DOMParser } from "@xmldom/xmldom";
import { VirshDisks } from "../../provider/disks";
import { run, Run, RunResult } from "../../provider/run";
import { domainXml, Scene } from "./provider-fake";

interface Domain {
  name: string;
  file: string;
  firmware: boolean;
  snapshots: Set<string>;
}

/**
 * A host with real files behind a virsh in the words of the real one (libvirt 9.0). What libvirtd does to a qcow2 file it does through
 * qemu-img, and so does this.
 */
export class DiskHost {
  /** Verbs of the calls that change something. */
  calls: string[] = [];
  free = 2 ** 40;
  domains = new Map<string, Domain>();
  /** The verb that fails, and whether it has done its work by then. */
  failing: { verb: string; done: boolean } | undefined;

  run: Run = async (_command, args) => {
    const [verb = "", ...rest] = args.slice(3);
    if (!/^(vol-|pool-)/.test(verb)) this.calls.push(verb);
    if (this.failing?.verb === verb && !this.failing.done) return failed("the fake was told to fail");
    const result = await this.virsh(verb, rest);
    return this.failing?.verb === verb ? failed("the fake was told to fail") : result;
  };

  /** A scene whose guest has its data in `file`. */
  scene(file: string, bootPath = "/pool/boot.qcow2"): Scene {
    const scene = new Scene();
    scene.deps.disks = new VirshDisks("qemu:///system", this.run);
    const os = `<os><type arch="x86_64" machine="q35">hvm</type><loader type="pflash">/code.fd</loader></os>`;
    const definition = domainXml(bootPath)
      .replace("/pool/fleet-web-persist", file)
      .replace("<devices>", `${os}<devices><emulator>/usr/bin/qemu</emulator>`);
    scene.libvirt.live = scene.libvirt.inactive = definition;
    scene.libvirt.volumeResize = async (path, bytes) => void this.img("resize", path, String(bytes));
    return scene;
  }

  img(...args: string[]): string {
    return execFileSync("qemu-img", args, { encoding: "utf8" });
  }

  private async virsh(verb: string, args: readonly string[]): Promise<RunResult> {
    const option = (name: string): number => Number(args[args.indexOf(`--${name}`) + 1]);
    const [first = "", second = ""] = args;
    switch (verb) {
      case "vol-download": {
        const source = fs.readFileSync(first);
        fs.writeFileSync(second, source.subarray(option("offset"), option("offset") + option("length")));
        return done();
      }
      case "vol-pool":
        return done("fleet\n\n");
      case "pool-refresh":
        return done();
      case "pool-info":
        return done(
          `Name:           fleet\nCapacity:       ${2 ** 41}\nAllocation:     1\nAvailable:      ${this.free}\n`,
        );
      case "vol-info":
        return done(
          `Name:  x\nType:  file\nCapacity:  1 bytes\nAllocation:  ${fs.statSync(first).blocks * 512} bytes\n`,
        );
      case "define":
        return this.define(fs.readFileSync(first, "utf8"));
      default:
        return this.snapshot(verb, this.domains.get(first), second, first);
    }
  }

  private define(xml: string): RunResult {
    const document = new DOMParser().parseFromString(xml, "text/xml");
    const text = (tag: string): string => document.getElementsByTagName(tag)[0]?.textContent ?? "";
    const file = document.getElementsByTagName("source")[0]?.getAttribute("file") ?? "";
    const firmware = document.getElementsByTagName("loader").length > 0;
    const before = this.domains.get(text("uuid"));
    const snapshots = before?.snapshots ?? new Set<string>();
    this.domains.set(text("uuid"), { name: text("name"), file, firmware, snapshots });
    return done();
  }

  private async snapshot(verb: string, domain: Domain | undefined, name: string, uuid: string): Promise<RunResult> {
    if (domain === undefined) return failed(`failed to get domain '${uuid}'`);
    if (verb === "undefine") {
      if (domain.snapshots.size > 0 && name !== "--snapshots-metadata") return failed("cannot delete inactive domain");
      this.domains.delete(uuid);
      return done();
    }
    if (domain.firmware) return failed("internal snapshots of a VM with pflash based firmware are not supported");
    const img = async (option: string): Promise<RunResult> => {
      const { code, stderr } = await run("qemu-img", ["snapshot", option, name, domain.file], 10_000);
      return code === 0 ? done() : failed(`internal error: Child process unexpected exit status 1: ${stderr}`);
    };
    switch (verb) {
      case "snapshot-create": {
        // Of a file with the definition, which must hold a domain.
        const xml = fs.readFileSync(name, "utf8");
        if (!xml.includes(`<uuid>${uuid}</uuid>`)) return failed("internal error: missing domain in snapshot");
        domain.snapshots.add(/<name>(.*?)<\/name>/.exec(xml)?.[1] ?? "");
        return done();
      }
      case "snapshot-create-as":
        return img("-c");
      case "snapshot-revert":
        return domain.snapshots.has(name) ? img("-a") : failed("Domain snapshot not found");
      case "snapshot-delete":
        if (!domain.snapshots.delete(name)) return failed("Domain snapshot not found");
        // What fails here libvirt holds for done.
        await img("-d");
        return done();
      default:
        throw new Error(`the fake virsh does not know ${verb}`);
    }
  }
}

/** Names of the snapshots in a file, as QEMU reads them. */
export function snapshotsIn(file: string): string[] {
  const info = JSON.parse(execFileSync("qemu-img", ["info", "--output=json", file], { encoding: "utf8" })) as {
    snapshots?: Array<{ name: string }>;
  };
  return (info.snapshots ?? []).map(({ name }) => name);
}

/** The content of a disk as a guest sees it, or of a snapshot in it. */
export function contentOf(file: string, snapshot?: string): Buffer {
  const raw = join(file, "..", `${basename(file)}.raw`);
  const of = snapshot === undefined ? [] : ["-l", `snapshot.name=${snapshot}`];
  execFileSync("qemu-img", ["convert", ...of, "-f", "qcow2", "-O", "raw", file, raw]);
  const content = fs.readFileSync(raw);
  fs.rmSync(raw);
  return content;
}

function done(stdout = ""): RunResult {
  return { code: 0, stdout, stderr: "" };
}

function failed(text: string): RunResult {
  return { code: 1, stdout: "", stderr: `error: ${text}\n` };
}
