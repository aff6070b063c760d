import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { Context } from "../../cli/context";

const UUID = "11111111-2222-4333-8444-555555555555";

/** libvirt as one VM sees it: what it was asked for is written down, and what it does is what a test says. */
// Of the shell: it is started a dozen times a backup, and must not take longer than the backup. Each fact is a file.
const VIRSH = `#!/bin/sh
cd "\${0%/*}/../libvirt"
shift 3
command=$1 shown=$1
for last; do :; done
case $last in
  *guest-ping*) shown=guest-ping ;;
  *guest-exec-status*) shown=guest-exec-status ;;
  *guest-exec*) shown=guest-exec ;;
esac
echo "$shown" >> ../calls
fail() { echo "error: $*" >&2; exit 1; }
has() { read -r value < "$1"; [ "$value" = "$2" ]; }
is() { printf %s "$2" > "$1.part"; mv "$1.part" "$1"; }
case ",$(cat fails)," in *",$shown,"*) fail "$shown does not work today" ;; esac
case $shown in
  list) echo "${UUID} nixvm-test-web" ;;
  domstate) echo "$(cat state) (some reason)" ;;
  dumpxml) cat xml ;;
  guest-ping) has agent true && echo '{"return":{}}' || fail "agent is not connected" ;;
  guest-exec) echo '{"return":{"pid":1}}' ;;
  guest-exec-status) echo '{"return":{"exited":true,"exitcode":0,"out-data":"cnVubmluZwotLW5peHZtLS0K"}}' ;;
  domfsfreeze) is frozen true ;;
  domfsthaw) is frozen false ;;
  suspend) is state paused ;;
  resume | start) is state running ;;
  shutdown) is state "shut off" ;;
  backup-begin)
    copy=$(sed 's/.*target file="\\([^"]*\\)".*/\\1/' "$3")
    qemu-img convert -U -O qcow2 "$(cat volume)" "$copy"
    is still "$(cat state) $(cat frozen)"
    is job "$(cat "$3")" ;;
  backup-dumpxml) [ -s job ] && cat job || fail "Domain backup job id not found: no domain backup job present" ;;
  domjobabort) is job ""; is ended Cancelled ;;
  domjobinfo)
    looks=$(cat looks)
    if [ "$last" = --completed ]; then echo "Job type:         $(cat ended)"
    elif [ -s job ] && [ "$looks" -gt 0 ]; then
      is looks $((looks - 1))
      printf 'Job type:         Unbounded\\nFile processed:   1.000 MiB\\nFile total:       4.000 MiB\\n'
    else
      [ ! -s job ] || { is job ""; is ended "$(cat ends)"; }
      echo "Job type:         None"
    fi ;;
  vol-pool) echo pool ;;
  pool-refresh) ;;
  *) fail "unknown command $shown" ;;
esac
`;

interface Libvirt {
  state: string;
  agent: boolean;
  frozen: boolean;
  /** Commands that fail, with commas between them. */
  fails: string;
  /** How often a job is seen at work. */
  looks: number;
  /** How a job ends. */
  ends: string;
  /** The XML of the job that runs. */
  job: string;
  /** How the guest was while a job began: its state, and whether it was frozen. */
  still: string;
  xml: string;
  volume: string;
}

/** A project with one VM, its disks real files, its libvirt and its state what a test makes of them. */
export class World {
  readonly dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm backup "));
  readonly volume = path.join(this.dir, "pool", "web-persist.qcow2");
  readonly backups = path.join(this.dir, "output", "backups");
  readonly journal = path.join(this.dir, ".nixvm", "backup", `${UUID}.json`);
  private readonly env = { PATH: process.env.PATH, NIXVM_PROJECT: process.env.NIXVM_PROJECT };

  constructor(vm: Record<string, unknown> = {}) {
    for (const name of ["bin", "libvirt", "pool", "stacks"]) fs.mkdirSync(path.join(this.dir, name));
    fs.writeFileSync(this.in("bin", "virsh"), VIRSH, { mode: 0o755 });
    const overlay = this.in("pool", "web-overlay.qcow2");
    const firmware = this.in("web_VARS.fd");
    this.disk(this.volume, "64M", "first");
    this.img("create", "-q", "-f", "qcow2", overlay, "1G");
    fs.writeFileSync(firmware, Buffer.alloc(540_672, 7));
    const disk = (file: string, dev: string): string =>
      `<disk type="file" device="disk"><source file="${file}"/><target dev="${dev}" bus="virtio"/></disk>`;
    const disks = disk(overlay, "vda") + disk(this.volume, "vdb") + disk(this.in("pool", "web-scratch"), "vdc");
    const seed = `<disk type="file" device="cdrom"><source file="/s"/><target dev="sda"/></disk>`;
    this.libvirt({
      ...{
        state: "running",
        agent: true,
        frozen: false,
        fails: "",
        job: "",
        looks: 1,
        ends: "Completed",
        volume: this.volume,
      },
      xml: `<domain><os><nvram>${firmware}</nvram></os><devices>${disks}${seed}</devices></domain>`,
    });
    const inputs = {
      ...{ uri: "qemu:///system", vm: "web", domain: "nixvm-test-web", uuid: UUID, domainId: UUID, imageDigest: "abc" },
      ...{ overlayPath: overlay, memoryMiB: 64, vcpus: 1, network: "", accelerator: "tcg", contract: "none" },
      ...{ persistPath: this.volume, persistBytes: 64 * 2 ** 20, running: true, stopTimeoutSeconds: 5, seedPath: "/s" },
      ...vm,
    };
    const guest = { urn: "urn:pulumi:test::nixvm::nixvm:index:Guest::web-guest", type: "nixvm:index:Guest", inputs };
    fs.writeFileSync(this.in("stack.json"), JSON.stringify({ deployment: { resources: [guest] } }));
    fs.writeFileSync(this.in("stacks", "Pulumi.test.yaml"), "config: {}\n");
    fs.writeFileSync(this.in("package.json"), JSON.stringify({ version: "0.1.0" }));
    process.env.PATH = `${this.in("bin")}:${this.env.PATH ?? ""}`;
    process.env.NIXVM_PROJECT = this.dir;
  }

  in(...parts: string[]): string {
    return path.join(this.dir, ...parts);
  }

  /** Makes what is given true of libvirt. */
  libvirt(news: Partial<Libvirt>): void {
    for (const [name, value] of Object.entries(news)) fs.writeFileSync(this.in("libvirt", name), String(value));
  }

  /** A fact of it. */
  is(name: keyof Libvirt): string {
    return fs.readFileSync(this.in("libvirt", name), "utf8");
  }

  /** What libvirt was asked for since it was last looked at, without questions. */
  calls(): string[] {
    const file = this.in("calls");
    const all = fs.existsSync(file) ? fs.readFileSync(file, "utf8").trim().split("\n") : [];
    fs.rmSync(file, { force: true });
    const questions = /^(list|domstate|dumpxml|guest-.*|backup-dumpxml|domjobinfo|vol-pool|pool-refresh)$/;
    return all.filter((call) => !questions.test(call));
  }

  img(...args: string[]): string {
    return execFileSync("qemu-img", args, { encoding: "utf8" });
  }

  /** A qcow2 volume with a text at its beginning. */
  disk(file: string, size: string, text: string): void {
    if (!fs.existsSync(file)) this.img("create", "-q", "-f", "qcow2", "-o", "compat=1.1", file, size);
    const raw = this.in("raw");
    fs.writeFileSync(raw, text.padEnd(512));
    fs.truncateSync(raw, JSON.parse(this.img("info", "--output=json", file))["virtual-size"] as number);
    this.img("convert", "-n", "-f", "raw", "-O", "qcow2", raw, file);
  }

  /** That text. */
  textOf(file: string): string {
    const raw = this.in("raw-out");
    this.img("convert", "-O", "raw", file, raw);
    const text = fs.readFileSync(raw).toString("latin1", 0, 512).trim();
    fs.rmSync(raw);
    return text;
  }

  /** A member of an archive, as a file. */
  member(archive: string, name: string): string {
    const out = this.in(`member-${name}`);
    const content = execFileSync("tar", ["--zstd", "-xOf", archive, name], { maxBuffer: 2 ** 28 });
    fs.writeFileSync(out, content);
    return out;
  }

  /** Files in the pool that are neither disks of the VM. */
  strays(): string[] {
    return fs.readdirSync(this.in("pool")).filter((name) => !/^web-(persist|overlay)\.qcow2$/.test(name));
  }

  async with<T>(use: (context: Context) => Promise<T>): Promise<T> {
    const context = new Context({ json: true, stack: "test" });
    // What Pulumi would print: the state, and a stack file that is empty.
    context.pulumi = ([command]) =>
      Promise.resolve(command === "stack" ? fs.readFileSync(this.in("stack.json"), "utf8") : "{}");
    context.note = (line) => void this.notes.push(line);
    try {
      return await use(context);
    } finally {
      context.close();
    }
  }

  readonly notes: string[] = [];

  remove(): void {
    process.env.PATH = this.env.PATH;
    if (this.env.NIXVM_PROJECT === undefined) delete process.env.NIXVM_PROJECT;
    else process.env.NIXVM_PROJECT = this.env.NIXVM_PROJECT;
    fs.rmSync(this.dir, { recursive: true });
  }
}

/** Types Ctrl-C as soon as something is so. */
export function breakOffWhen(isSo: () => boolean): () => void {
  const timer = setInterval(() => {
    if (isSo()) {
      clearInterval(timer);
      process.emit("SIGINT");
    }
  }, 5);
  return () => clearInterval(timer);
}
