// A folder that looks to the guest scripts like a machine: image files for disks, a fake /sys and /proc, and fakes in front of the
// few tools that need root or a kernel. Everything else (awk, blkid, wipefs, mkfs.ext4, …) is the real thing.
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

export const guestDir = path.resolve(__dirname, "../../nix/guest");
export const MIB = 1024 * 1024;

const fakes: Record<string, string> = {
  // A "mount" of the seed's medium copies the folder that stands for it, a bind mount is a link; all others are only noted.
  mount: `echo "mount $*" >> "$SANDBOX/calls"
for last; do :; done
if [ -e "$SANDBOX/mount-fails" ] && echo "$*" | grep -qxF -f "$SANDBOX/mount-fails"; then exit 32; fi
case "$*" in
  *"$SANDBOX/dev/sr0"*) cp -R "$SANDBOX/medium/." "$last/" ;;
  "--bind "*) { [ -d "$last" ] && rmdir "$last" || rm "$last"; } && ln -s "$2" "$last" ;;
esac`,
  umount: `echo "umount $*" >> "$SANDBOX/calls"
for last; do :; done
if [ -L "$last" ]; then rm "$last"; else rm -rf "$last"/*; fi`,
  mountpoint: '[ -L "$2" ]',
  chown: "exit 0",
  sync: "exit 0",
  blkid: `for last; do :; done
case $last in
  */sr0) [ -d "$SANDBOX/medium" ] && echo cidata || exit 2 ;;
  *) PATH=$REAL_PATH exec blkid "$@" ;;
esac`,
  nft: `echo "nft $*" >> "$SANDBOX/calls"; [ ! -e "$SANDBOX/nft-fails" ]`,
  networkctl: `echo "networkctl $*" >> "$SANDBOX/calls"`,
  resize2fs: `echo "resize2fs $*" >> "$SANDBOX/calls"
[ ! -e "$SANDBOX/resize-fails" ] || { echo "resize2fs: no space for it" >&2; exit 1; }
PATH=$REAL_PATH exec resize2fs "$@"`,
  systemctl: `echo "systemctl $*" >> "$SANDBOX/calls"
case "$*" in list-units*) [ ! -f "$SANDBOX/failed-units" ] || cat "$SANDBOX/failed-units" ;; esac`,
  "ssh-keygen": `echo "ssh-keygen $*" >> "$SANDBOX/calls"
for last; do :; done
case "$*" in
  *-y*) grep -q USABLE "$last" && echo "ssh-ed25519 AAAAderived" ;;
  *) printf 'made in the guest\\n' > "$last" && echo "ssh-ed25519 AAAAmade comment" > "$last.pub" ;;
esac`,
};

export interface Run {
  code: number | null;
  log: string;
}

export class Sandbox {
  readonly dir = mkdtempSync(path.join(tmpdir(), "nixvm guest "));
  private readonly env: NodeJS.ProcessEnv;

  constructor(private readonly shell = "/bin/sh") {
    for (const dir of [
      "dev",
      "proc/sys/kernel/random",
      "var",
      "share/etc",
      "share/var/log",
      "share/var/home",
      "image/tmp",
      "sysroot",
      "home",
      "skel",
      "bin",
    ])
      mkdirSync(this.path(dir), { recursive: true });
    this.write("proc/sys/kernel/random/uuid", "11112222-3333-4444-5555-666677778888\n");
    this.write("proc/sys/kernel/random/boot_id", "99992222-3333-4444-5555-666677778888\n");
    this.write("proc/sys/kernel/hostname", "localhost\n");
    this.write("proc/stat", "cpu 1 2 3\nbtime 1763596800\n");
    this.write("share/etc/passwd", "root:x:0:0:root:/root:/bin/bash\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n");
    this.write("share/etc/group", "root:x:0:\nsudo:x:27:\nnogroup:x:65534:\n");
    this.write("share/etc/shadow", "root:!*:20000:0:99999:7:::\nsshd:!:20000::::::\n");
    this.write("share/etc/gshadow", "root:*::\nsudo:*::\n");
    this.write("share/var/log/README", "skeleton\n");
    this.write("skel/.profile", "# profile\n");
    this.write("image/image.json", '{"schema":1,"id":"img-v1","version":"v1","contract":1,"rootModes":["readonly"]}\n');
    this.write("calls", "");
    mkdirSync(this.path("sys/block"), { recursive: true });
    for (const [name, body] of Object.entries(fakes)) {
      this.write(`bin/${name}`, `#!/bin/sh\n${body}\n`);
      chmodSync(this.path(`bin/${name}`), 0o755);
    }
    const real = `${process.env["PATH"]}:/usr/sbin:/sbin`;
    this.env = {
      ...process.env,
      SANDBOX: this.dir,
      REAL_PATH: real,
      PATH: `${this.path("bin")}:${real}`,
      NIXVM_ENV: "/dev/null",
      NIXVM_ROOT: this.path("image"),
      NIXVM_IMAGE_JSON: this.path("image/image.json"),
      NIXVM_RUN: this.path("run"),
      NIXVM_TARGET: this.dir,
      NIXVM_NEWROOT: this.path("sysroot"),
      NIXVM_SUDO: this.path("image/usr/bin/sudo"),
      NIXVM_SHARE: this.path("share"),
      NIXVM_SKEL: this.path("skel"),
      NIXVM_SYS: this.path("sys"),
      NIXVM_PROC: this.path("proc"),
      NIXVM_DEV: this.path("dev"),
      NIXVM_NETWORKD: this.path("networkd"),
      NIXVM_WANTS: this.path("wants"),
      NIXVM_KMSG: this.path("no-kmsg"),
      NIXVM_SEED_WAIT: "0",
      NIXVM_DISK_TRIES: "0",
    };
  }

  path(name: string): string {
    return path.join(this.dir, name);
  }
  write(name: string, text: string): void {
    mkdirSync(path.dirname(this.path(name)), { recursive: true });
    writeFileSync(this.path(name), text);
  }
  read(name: string): string {
    return readFileSync(this.path(name), "utf8");
  }
  has(name: string): boolean {
    return existsSync(this.path(name));
  }
  remove(name: string): void {
    rmSync(this.path(name), { recursive: true, force: true });
  }
  /** A disk with a virtio serial; sparse, all zero. */
  disk(name: string, serial: string, sizeMib: number): string {
    this.write(`sys/block/${name}/serial`, `${serial}\n`);
    this.write(`dev/${name}`, "");
    truncateSync(this.path(`dev/${name}`), sizeMib * MIB);
    return this.path(`dev/${name}`);
  }
  /** Puts a seed into the CD-ROM drive. */
  medium(files: Record<string, string>): void {
    this.remove("medium");
    mkdirSync(this.path("medium"));
    mkdirSync(this.path("sys/block/sr0"), { recursive: true });
    for (const [name, text] of Object.entries(files)) this.write(`medium/${name}`, text);
  }
  /**
   * Runs a guest script as the initrd does, so with the layout of the root decided before; a last argument that is an object adds to its
   * environment.
   */
  guest(script: string, ...args: (string | NodeJS.ProcessEnv)[]): Run {
    const decided = this.has("run/state/layout") || script === "assemble-root" || args[0] === "read";
    if (!decided) this.guest("assemble-root");
    const [shell, ...options] = this.shell.split(" ") as [string, ...string[]];
    const texts = args.filter((arg) => typeof arg === "string");
    const env = args.filter((arg) => typeof arg !== "string");
    const run = spawnSync(shell, [...options, path.join(guestDir, script), ...texts], {
      encoding: "utf8",
      env: Object.assign({}, this.env, ...env) as NodeJS.ProcessEnv,
    });
    return { code: run.status, log: run.stdout + run.stderr };
  }
  /** A real tool on a disk of the sandbox. */
  tool(command: string, ...args: string[]): string {
    const run = spawnSync(command, args, { encoding: "utf8", env: { ...this.env, PATH: this.env["REAL_PATH"] } });
    if (run.error || run.status !== 0)
      throw new Error(`${command} ${args.join(" ")}: ${run.error?.message ?? run.stderr}`);
    return run.stdout;
  }
  state(name: string): Record<string, string> {
    return Object.fromEntries(
      this.read(`run/state/${name}`)
        .split("\n")
        .filter(Boolean)
        .map((line) => line.split("\t") as [string, string]),
    );
  }
  calls(): string {
    return this.read("calls");
  }
  /** A new start of the machine: what is in RAM is gone. */
  restart(): void {
    this.remove("run");
    this.remove("networkd");
    this.write("calls", "");
  }
  done(): void {
    rmSync(this.dir, { recursive: true, force: true });
  }
}
