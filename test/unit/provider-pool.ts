import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import { run, Run, RunResult } from "../../provider/run";

export const POOL = "fleet";
export const NAME = "fleet-web-seed.iso";

/** A storage pool behind a fake virsh, in the words of the real one (libvirt 9.0); mkisofs is the real one. */
export class FakePool {
  /** Every command with its arguments. */
  calls: string[][] = [];
  /** Names that libvirt has seen; others may be in the folder all the same. */
  known = new Set<string>();
  /** The command or verb that fails, after it has begun its work. */
  failing: string | undefined;
  /** Modes of what mkisofs got to see. */
  modes: { folder: number; files: number[] } | undefined;

  constructor(private readonly folder: string) {}

  run: Run = async (command, args, timeoutMs) => {
    this.calls.push([command, ...args]);
    if (command === "virsh") return this.virsh(args.slice(3));
    const sources = args.slice(-3);
    const mode = (path: string): number => fs.statSync(path).mode & 0o777;
    this.modes = { folder: mode(join(sources[0]!, "..")), files: sources.map(mode) };
    return this.failing === command ? failed("No space left on device") : run(command, args, timeoutMs);
  };

  /** An ISO image with a label. */
  iso(label: string): Buffer {
    const file = join(this.folder, "..", "other.iso");
    execFileSync("mkisofs", ["-quiet", "-output", file, "-volid", label, __filename]);
    return fs.readFileSync(file);
  }

  private virsh([verb = "", ...args]: readonly string[]): RunResult {
    const option = (name: string): string => args[args.indexOf(`--${name}`) + 1] ?? "";
    if (verb === "pool-refresh") {
      this.known = new Set(fs.readdirSync(this.folder));
      return done();
    }
    if (option("pool") !== POOL) return failed("failed to get pool\nerror: Storage pool not found: no storage pool");
    const name = option(verb === "vol-create-as" ? "name" : "vol");
    const file = join(this.folder, name);
    if (this.failing === verb) {
      if (verb === "vol-upload") fs.writeFileSync(file, fs.readFileSync(option("file")).subarray(0, 65_536));
      return failed("the fake was told to fail");
    }
    if (verb === "vol-create-as") return this.create(name, file, option("capacity"));
    if (!this.known.has(name) || (verb === "vol-info" && !fs.existsSync(file))) {
      return failed(`failed to get vol '${name}'\nerror: Storage volume not found: no storage vol with matching path`);
    }
    switch (verb) {
      case "vol-info":
        return done(`Name: ${name}\nType:           file\nCapacity:       ${fs.statSync(file).size} bytes\n`);
      case "vol-path":
        return done(`${file}\n\n`);
      case "vol-download":
        fs.writeFileSync(option("file"), fs.readFileSync(file).subarray(0, Number(option("length"))));
        return done();
      case "vol-upload":
        // Into the file that is there, as libvirt does.
        fs.writeFileSync(file, fs.readFileSync(option("file")), { flag: "r+" });
        return done();
      case "vol-delete":
        fs.rmSync(file, { force: true });
        this.known.delete(name);
        return done();
      default:
        throw new Error(`the fake virsh does not know ${verb}`);
    }
  }

  private create(name: string, file: string, capacity: string): RunResult {
    if (this.known.has(name)) return failed(`storage volume '${name}' exists already`);
    if (fs.existsSync(file)) return failed(`volume target path '${file}' already exists`);
    fs.writeFileSync(file, Buffer.alloc(Number(capacity)));
    this.known.add(name);
    return done();
  }
}

function done(stdout = ""): RunResult {
  return { code: 0, stdout, stderr: "" };
}

function failed(text: string): RunResult {
  return { code: 1, stdout: "", stderr: `error: ${text}\n` };
}
