// The machine of the tests of `zfs`: image files with the labels of pools, and stand-ins for what needs a kernel with ZFS. They note how
// they were called, and zpool writes labels that the real blkid and wipefs take for a pool's.
import { createHash } from "node:crypto";
import { closeSync, openSync, readSync, statSync, truncateSync, writeSync } from "node:fs";
import { MIB, Sandbox } from "./guest-sandbox";

export const GUID = "1234567890123456789";
export const SIZE = 64;
export const MARK = "nixvm: this disk is being formatted\n";
export const CREATE =
  "zpool create -o ashift=12 -o autotrim=on -O acltype=posixacl -O canmount=off -O dnodesize=auto " +
  "-O normalization=none -O relatime=on -O xattr=sa -O mountpoint=none rpool /dev/nixvm-pool";
export const DATASETS = [
  "zfs create -p -o canmount=noauto -o mountpoint=legacy rpool/local/root",
  "zfs snapshot rpool/local/root@blank",
  "zfs create -p -o mountpoint=legacy rpool/local/boot",
  "zfs create -p -o mountpoint=legacy rpool/local/nix",
  "zfs create -p -o mountpoint=legacy rpool/safe/home",
  "zfs create -p -o mountpoint=legacy rpool/safe/persist",
];
export const OPENED = [
  `zpool import -N -f -d /dev ${GUID}`,
  "zpool list -Hp -o size,expandsize,guid rpool",
  "zfs rollback -r rpool/local/root@blank",
];

function zfsLabel(pool: string, guid = GUID): Buffer {
  const u32 = (n: number) => (b => (b.writeUInt32BE(n), b))(Buffer.alloc(4)); // prettier-ignore
  const u64 = (n: string) => (b => (b.writeBigUInt64BE(BigInt(n)), b))(Buffer.alloc(8)); // prettier-ignore
  const text = (s: string) => Buffer.concat([Buffer.from(s), Buffer.alloc(-s.length & 3)]);
  const pair = (key: string, type: number, value: Buffer) => {
    const body = Buffer.concat([u32(key.length), text(key), u32(type), u32(1), value]);
    return Buffer.concat([u32(body.length + 8), u32(0), body]);
  };
  const label = Buffer.alloc(256 * 1024);
  Buffer.concat([
    Buffer.from([1, 1, 0, 0]),
    u32(0),
    u32(1),
    pair("version", 8, u64("5000")),
    pair("name", 9, Buffer.concat([u32(pool.length), text(pool)])),
    pair("pool_guid", 8, u64(guid)),
    pair("guid", 8, u64("77")),
  ]).copy(label, 16 * 1024);
  for (let i = 0; i < 32; i++) label.writeBigUInt64LE(0x00bab10cn, 128 * 1024 + i * 4096);
  return label;
}

const fakes: Record<string, string> = {
  // Ends the script like a power cut, at the call whose text is in the file "cut".
  cut: `[ -s "$SANDBOX/cut" ] && case "$*" in *"$(cat "$SANDBOX/cut")"*) ;; *) false ;; esac || exit 0
p=$PPID
# up to the script, and no further
while case $(tr '\\0' ' ' < "/proc/$p/cmdline") in "/bin/sh "*) ;; *) false ;; esac; do
  up=$(sed -n 's/^PPid:[^0-9]*//p' "/proc/$p/status")
  kill -9 "$p"
  p=$up
done`,
  fails: `[ -s "$SANDBOX/fails" ] || exit 1
case "$*" in *"$(head -n 1 "$SANDBOX/fails")"*) tail -n +2 "$SANDBOX/fails" >&2 ;; *) exit 1 ;; esac`,
  zpool: `echo "zpool $*" >> "$SANDBOX/calls"
echo "\${ZFS_VDEV_DEVID_OPT_OUT:-}" > "$SANDBOX/opt-out"
! fails zpool "$@" || exit 1
for last; do :; done
case $1 in
  create)
    # as the real one: not over something else, unless it is told to
    case " $* " in *" -f "*) ;; *)
      [ "$(head -c 262144 "$last" | tr -d '\\000' | wc -c)" -eq 0 ] || { echo "invalid vdev specification: $last is in use" >&2; exit 1; } ;; esac
    dd if="$SANDBOX/label" of="$last" bs=4096 count=8 conv=notrunc 2> "$SANDBOX/dd"
    cut zpool "$@" half
    size=$(stat -L -c %s "$last")
    for at in 0 262144 $((size - 524288)) $((size - 262144)); do
      dd if="$SANDBOX/label" of="$last" bs=262144 oflag=seek_bytes seek=$at conv=notrunc 2> "$SANDBOX/dd"
    done ;;
  import) mkdir -p "$SANDBOX/proc/spl/kstat/zfs/$(cat "$SANDBOX/pool")" ;;
  export) rm -rf "$SANDBOX/proc/spl/kstat/zfs/$2" ;;
  list) cat "$SANDBOX/list" ;;
esac
cut zpool "$@"`,
  zfs: `echo "zfs $*" >> "$SANDBOX/calls"
! fails zfs "$@" || exit 1
case $1 in get) cat "$SANDBOX/keystatus" ;; esac
cut zfs "$@"`,
  modprobe: `echo "modprobe $*" >> "$SANDBOX/calls"
! fails modprobe "$@" || exit 1
case $1 in zfs) mkdir -p "$SANDBOX/sys/module/spl/parameters" && echo 0 > "$SANDBOX/sys/module/spl/parameters/spl_hostid" ;; esac`,
  mknod: `echo "mknod $*" >> "$SANDBOX/calls"
! fails mknod "$@" || exit 1
ln -s "$SANDBOX/dev/vdq" "$1"`,
  mount: `echo "mount $*" >> "$SANDBOX/calls"
! fails mount "$@" || exit 32
while [ $# -gt 2 ]; do shift; done
[ -d "$2" ] || { echo "$2: no such directory" >&2; exit 32; }
echo "$1 $2 x rw 0 0" >> "$SANDBOX/proc/self/mounts"`,
  // A busybox of this name prefers its own tools to those on the PATH, but not to functions.
  ash: `script=$1
shift
exec busybox ash -c 'for name in blkid mount modprobe mknod; do eval "$name() { \\"$SANDBOX/bin/$name\\" \\"\\$@\\"; }"; done
. "$0"' "$script" "$@"`,
};

export class ZfsSandbox extends Sandbox {
  readonly layout = "rootMode\tzfs-rollback\nmount\t/persist\nfs\tzfs\nlabel\trpool\n";
  /** A disk with the serial persist, blank. */
  readonly persist: string;

  constructor(shell?: string) {
    super(shell);
    for (const [name, body] of Object.entries(fakes)) this.program(name, body);
    this.persist = this.disk("vdq", "persist", SIZE);
    this.write("sys/block/vdq/dev", "254:16\n");
    this.write("pool", "rpool");
    this.write("list", `58720256\t-\t${GUID}\n`);
    this.write("keystatus", "-\n");
    this.nextPool("rpool");
    this.boot();
  }
  program(name: string, body: string): void {
    this.write(`bin/${name}`, `#!/bin/sh\n${body}\n`);
    this.tool("chmod", "755", this.path(`bin/${name}`));
  }
  /** What a new start finds: nothing in RAM, nothing mounted, no pool open. */
  boot(): void {
    this.restart();
    for (const name of ["cut", "fails", "proc/spl", "target"]) this.remove(name);
    this.write("proc/self/mounts", "proc /proc proc rw 0 0\n");
    this.write("run/state/layout", this.layout);
    this.write("run/seed/incoming/plan", "rootMode\tzfs-rollback\npersist\t/persist\tzfs\trpool\nhostId\tdbd36cb7\n");
  }
  put(offset: number, data: Buffer | string, file = this.persist): void {
    const fd = openSync(file, "r+");
    writeSync(fd, Buffer.from(data), 0, Buffer.byteLength(data), offset);
    closeSync(fd);
  }
  /** The name that the next `zpool create` writes. */
  nextPool(pool: string): void {
    this.write("label", "");
    truncateSync(this.path("label"), 256 * 1024);
    this.put(0, zfsLabel(pool), this.path("label"));
  }
  havePool(pool: string, file = this.persist): void {
    const size = statSync(file).size;
    for (const at of [0, 262144, size - 524288, size - 262144]) this.put(at, zfsLabel(pool), file);
  }
  /** Of where signatures are, and with the time of the last write, as the rest is a gigabyte of nothing. */
  digest(file = this.persist): string {
    const { size, blocks, mtimeNs } = statSync(file, { bigint: true });
    const hash = createHash("sha256").update(`${size} ${blocks} ${mtimeNs}`);
    const fd = openSync(file, "r");
    for (const at of [0, Number(size) - MIB]) {
      const bytes = Buffer.alloc(MIB);
      readSync(fd, bytes, 0, MIB, at);
      hash.update(bytes);
    }
    closeSync(fd);
    return hash.digest("hex");
  }
  /** Calls of zpool, zfs, mknod and mount that change something, with the sandbox's own folder left out. */
  changes(): string[] {
    return this.calls()
      .split("\n")
      .filter((call) => /^(zpool|zfs|mknod|mount) (?!get )/.test(call))
      .map((call) => call.replaceAll(this.dir, ""));
  }
  open(env: NodeJS.ProcessEnv = {}) {
    return this.guest("zfs", "open", env);
  }
}
