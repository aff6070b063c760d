// The real cryptsetup formats the disks here (Debian: cryptsetup-bin) and proves each key; only what needs a kernel is stood in for.
import { createHash } from "node:crypto";
import { chmodSync, closeSync, mkdirSync, openSync, readFileSync, statSync, truncateSync, writeSync } from "node:fs";
import { MIB, Sandbox } from "./guest-sandbox";

// On a machine that does much else a test takes seconds.
jest.setTimeout(60_000);
let box: Sandbox;
let disk: string;

/** Told to fail by FAIL, a list of names; every call leaves its arguments, and the environments of itself and of who called it. */
const stubs: Record<string, string> = {
  "mkfs.ext4": `PATH=$REAL_PATH exec mkfs.ext4 "$@"`,
  mount: "",
  umount: "",
  modprobe: "",
  chown: "",
  chmod: `PATH=$REAL_PATH exec chmod "$@"`,
  mkdir: `PATH=$REAL_PATH exec mkdir "$@"`,
  od: `PATH=$REAL_PATH exec od "$@"`,
  // The mapper is a file; opening is real as far as the key is concerned.
  // Names of its own: a variable that the script exports by mistake must not carry the key on from here.
  cryptsetup: `case $1 in close) rm "$NIXVM_DEV/mapper/$2" && exit ;; esac
unset got; got=$(cat; echo .) && got=\${got%.}
printf '%s' "$got" | sha256sum >> "$SANDBOX/keys"
cp -R "$NIXVM_RUN" "$SANDBOX/run at $1"
PATH=$REAL_PATH
for last; do :; done
case $1 in
  luksFormat) printf '%s' "$got" | cryptsetup "$@" ;;
  open)
    disk=\${*% *} disk=\${disk#*--key-file=- }
    printf '%s' "$got" | cryptsetup open --test-passphrase --key-file=- "$disk" &&
      mkdir -p "$NIXVM_DEV/mapper" && truncate -s $(($(stat -c %s "$disk") - 16777216)) "$NIXVM_DEV/mapper/$last"
    ;;
esac`,
  // A busybox of this name prefers its own tools to those on the PATH, but not to functions.
  ash: `options=; while [ $# -gt 1 ]; do options="$options $1"; shift; done
exec busybox ash $options -c 'for name in mount umount modprobe chown chmod mkdir od; do
  eval "$name() { \\"$SANDBOX/bin/$name\\" \\"\\$@\\"; }"
done
. "$0"' "$1"`,
};
const stub = (name: string, body: string): string => `#!/bin/sh
case $1 in [a-z]*) call="${name} $1" ;; *) call=${name} ;; esac
if [ "${name}" = mount ]; then call="mount $2"; fi
echo "${name} $*" >> "$SANDBOX/calls"
cat /proc/self/environ /proc/$PPID/environ /proc/$PPID/cmdline >> "$SANDBOX/environments"
case ",$FAIL," in *",$call,"*) echo "a line before" >&2; echo "$call was told to fail" >&2; exit 1 ;; esac
${body}
`;

function prepare(shell?: string): void {
  box = new Sandbox(shell);
  for (const [name, body] of Object.entries(stubs)) {
    box.write(`bin/${name}`, stub(name, body));
    chmodSync(box.path(`bin/${name}`), 0o755);
  }
  disk = box.disk("vdq", "scratch", 64);
  box.write("sys/block/vdq/ro", "0\n");
  box.write("sys/block/vdq/dev", "254:32\n");
  box.write("proc/self/mountinfo", "22 1 254:1 / / ro - ext4 /dev/vda2 ro\n31 22 0:27 / /tmp rw - tmpfs tmp rw\n");
  box.write("proc/meminfo", "MemTotal:         524288 kB\nMemFree:          1 kB\n");
  boot("false");
}
/** A start of the machine whose seed asks for `scratch`; nothing of the one before is left but what is on its disks. */
function boot(scratch: string | undefined, random = "first"): void {
  box.restart();
  for (const name of ["dev/mapper", "scratch", "keys", "environments"]) box.remove(name);
  box.write("run/state/layout", "rootMode\ttmpfs\nmount\t\n");
  box.write("run/seed/incoming/plan", `rootMode\ttmpfs\n${scratch === undefined ? "" : `scratch\t${scratch}\n`}`);
  box.write("proc/sys/kernel/random/uuid", `0000000${random.length}-3333-4444-5555-666677778888\n`);
  box.write("dev/urandom", random.padEnd(100, "!x0"));
}
beforeEach(() => prepare());
afterEach(() => box.done());

/** The key as cryptsetup must get it: 64 bytes of /dev/urandom, written as od does. */
const key = (): string => box.tool("od", "-A", "n", "-v", "-t", "x1", "-N", "64", box.path("dev/urandom")).trimEnd();
const sha256 = (data: Buffer | string): string => createHash("sha256").update(data).digest("hex");
const digest = (): string => sha256(readFileSync(disk));
const dump = (): string => box.tool("cryptsetup", "luksDump", disk);
const calls = (name: string): string[] =>
  box
    .calls()
    .split("\n")
    .filter((line) => line.startsWith(`${name} `));
const opens = (text: string): boolean => {
  box.write("a key", text);
  try {
    box.tool("cryptsetup", "open", "--test-passphrase", "--key-file", box.path("a key"), disk);
    return true;
  } catch {
    return false;
  } finally {
    box.remove("a key");
  }
};
function put(offset: number, data: string): void {
  const fd = openSync(disk, "r+");
  writeSync(fd, Buffer.from(data, "latin1"), 0, data.length, offset);
  closeSync(fd);
}
const luks = (...args: string[]): string => {
  box.write("a key", "someone's");
  return box.tool(
    "cryptsetup",
    "luksFormat",
    "-q",
    "--pbkdf",
    "pbkdf2",
    "--pbkdf-force-iterations",
    "1000",
    ...args,
    disk,
    box.path("a key"),
  );
};
/** In memory, said so, and no mount of the disk itself. */
function expectMemory(reason: RegExp): void {
  expect(box.state("scratch")).toEqual({
    state: "tmpfs",
    reason: expect.stringMatching(reason) as string,
    sizeBytes: String(128 * MIB),
    uuid: "",
  });
  expect(calls("mount")).toContainEqual(
    `mount -t tmpfs -o mode=1777,nosuid,nodev,size=${128 * MIB} nixvm-scratch ${box.path("scratch")}`,
  );
  expect(calls("mount").filter((line) => line.includes(disk))).toEqual([]);
  expect(box.has("dev/mapper/nixvm-scratch")).toBe(false);
  expect(box.read("run/environment")).toBe("TMPDIR=/scratch\n");
}

test("each start formats the disk anew, with the cheapest derivation and no copy of the header, and mounts what is decrypted (E-12, E-13, E-29, E-43, E-47)", () => {
  const run = box.guest("scratch");
  expect(run).toMatchObject({
    code: 0,
    log: expect.stringMatching(/\/scratch is .*vdq, encrypted .*: 47 MiB/) as string,
  });
  const first = box.state("scratch");
  expect(first).toMatchObject({ state: "luks", sizeBytes: String(47 * MIB) });
  expect(dump()).toMatch(/Version:\s+2\n/);
  expect(dump()).toMatch(/PBKDF:\s+pbkdf2\n.*\n\s+Iterations: 1000\n/);
  expect(dump()).toContain(`UUID:          \t${first["uuid"]}\n`);
  expect(calls("cryptsetup").map((line) => line.split(" ")[1])).toEqual(["luksFormat", "open"]);
  expect(calls("mount")).toEqual([
    `mount -t ext4 -o noatime,nosuid,nodev ${box.path("dev/mapper/nixvm-scratch")} ${box.path("scratch")}`,
  ]);
  expect(statSync(box.path("scratch")).mode & 0o7777).toBe(0o1777);
  const former = key();
  expect(opens(former)).toBe(true);

  boot("false", "second");
  expect(box.guest("scratch").code).toBe(0);
  expect(box.state("scratch")).toMatchObject({ state: "luks", reason: "" });
  expect(box.state("scratch")["uuid"]).not.toBe(first["uuid"]);
  expect(opens(former)).toBe(false);
  expect(opens(key())).toBe(true);
});

describe.each(["dash", "bash", "ash", "dash -a", "ash -ax"])("under %s", (shell) => {
  beforeEach(() => {
    box.done();
    prepare(shell);
  });

  test("the key is 64 bytes of /dev/urandom, on a pipe to cryptsetup and nowhere else (E-12, E-23)", () => {
    const { code, log } = box.guest("scratch", { secret: "of the environment" });
    expect(code).toBe(0);
    expect(box.state("scratch")).toMatchObject({ state: "luks" });
    const line = `${sha256(key())}  -\n`;
    expect(box.read("keys")).toBe(line + line);
    // As it is, without spaces, and the bytes themselves: in no call, no environment, no log, no file that is left
    // or that was there while cryptsetup had the key.
    const raw = readFileSync(box.path("dev/urandom")).subarray(0, 64).toString("latin1");
    const short = key().split("\n")[1]!.trim();
    for (const text of [short, short.replaceAll(" ", ""), raw.slice(0, 16)]) {
      expect(log).not.toContain(text);
      expect(calls("od")).toHaveLength(1);
      box.remove("dev/urandom");
      const found = box.tool("sh", "-c", 'LC_ALL=C grep -rlaF -e "$1" "$2" || [ $? -eq 1 ]', "-", text, box.dir);
      expect(found).toBe("");
      box.write("dev/urandom", "first".padEnd(100, "!x0"));
    }
    expect(box.read("environments")).toContain("DM_DISABLE_UDEV=1");
    expect(calls("cryptsetup").every((call) => call.includes("--key-file=- "))).toBe(true);
  });

  test("a failure is no end, and memory takes the place of the disk (E-28, E-30, E-31)", () => {
    const { code, log } = box.guest("scratch", { FAIL: "cryptsetup open" });
    expect(code).toBe(0);
    expectMemory(/^opening .*vdq: cryptsetup open was told to fail$/);
    expect(log).toContain("/scratch is in memory, at most 128 MiB: opening");
  });
});

test("with nixOverlay the writable layer of the store is on the same disk, hidden from users, and has the store's mode (E-7)", () => {
  boot("true");
  mkdirSync(box.path("nix/store"), { recursive: true });
  chmodSync(box.path("nix/store"), 0o1775);
  expect(box.guest("scratch").code).toBe(0);
  expect(box.state("scratch")).toMatchObject({ state: "luks", reason: "" });
  const layer = box.path("scratch/.nix-store");
  expect(calls("mount").at(-1)).toBe(
    `mount -t overlay -o lowerdir=${box.path("nix/store")},upperdir=${layer}/upper,workdir=${layer}/work nixvm-store ${box.path("nix/store")}`,
  );
  expect(statSync(`${layer}/upper`).mode & 0o7777).toBe(0o1775);
  expect(statSync(layer).mode & 0o7777).toBe(0o700);
});

test("without nixOverlay the store is left alone (E-8)", () => {
  mkdirSync(box.path("nix/store"), { recursive: true });
  box.guest("scratch");
  expect(box.calls()).not.toContain("overlay -o");
  expect(box.has("scratch/.nix-store")).toBe(false);
});

test("an image without a store keeps its encrypted /scratch and says so", () => {
  boot("true");
  box.guest("scratch");
  expect(box.state("scratch")).toMatchObject({ state: "luks", reason: "the image has no /nix/store" });
});

test("nothing is done without a wish for it, whatever disks there are (E-3)", () => {
  boot(undefined);
  const before = digest();
  expect(box.guest("scratch").code).toBe(0);
  expect(box.state("scratch")).toEqual({ state: "none", reason: "", sizeBytes: "0", uuid: "" });
  expect(box.calls()).toBe("");
  expect(digest()).toBe(before);
  expect(box.has("run/environment")).toBe(false);
});

test("a second run in the same start changes nothing", () => {
  box.guest("scratch");
  const before = [box.calls(), digest(), box.read("run/state/scratch")];
  expect(box.guest("scratch").code).toBe(0);
  expect([box.calls(), digest(), box.read("run/state/scratch")]).toEqual(before);
});

describe("each command failing in turn leaves memory, never the disk in clear (E-28, E-29, E-30, E-31)", () => {
  beforeEach(() => {
    boot("true");
    mkdirSync(box.path("nix/store"), { recursive: true });
  });
  test.each([
    ["od", /^no key can be read from .*urandom$/],
    ["cryptsetup luksFormat", /^luksFormat of .*: cryptsetup luksFormat was told to fail$/],
    ["cryptsetup open", /^opening .*: cryptsetup open was told to fail$/],
    ["mkfs.ext4", /^mkfs.ext4: mkfs.ext4 was told to fail$/],
    ["mount ext4", /cannot be mounted$/],
    ["chmod", /^the mode of \/scratch cannot be set; the overlay cannot be mounted on \/nix\/store$/],
    ["chown", /^the overlay cannot be mounted on \/nix\/store$/],
    ["mkdir", /^the overlay cannot be mounted on \/nix\/store$/],
    ["mount overlay", /^the overlay cannot be mounted on \/nix\/store$/],
  ])("%s", (name, reason) => {
    if (name === "mkdir") mkdirSync(box.path("scratch"));
    const { code, log } = box.guest("scratch", { FAIL: name });
    expect(code).toBe(0);
    expectMemory(reason);
    expect(log).toContain("/scratch is in memory, at most 128 MiB");
    // The layer of the store is in that memory too, as far as there can be one.
    const layered = calls("mount").filter((line) => line.includes("-t overlay"));
    expect(layered.length).toBe({ chmod: 0, chown: 0, mkdir: 0, "mount overlay": 2 }[name] ?? 1);
  });

  test("a module that cannot be loaded may be built in", () => {
    box.guest("scratch", { FAIL: "modprobe" });
    expect(box.state("scratch")).toMatchObject({ state: "luks" });
  });

  test("a closing that fails as well", () => {
    box.guest("scratch", { FAIL: "mkfs.ext4,cryptsetup close" });
    expect(box.state("scratch")).toMatchObject({ state: "tmpfs" });
  });

  test("no memory either", () => {
    const { code } = box.guest("scratch", { FAIL: "mkfs.ext4,mount tmpfs" });
    expect(code).toBe(0);
    expect(box.state("scratch")).toMatchObject({
      state: "none",
      reason: "mkfs.ext4: mkfs.ext4 was told to fail; a tmpfs cannot be mounted on /scratch either",
    });
    expect(box.has("run/environment")).toBe(false);
  });

  test("a fault in the script itself", () => {
    box.remove("proc/sys/kernel/random/uuid");
    expect(box.guest("scratch").code).toBe(0);
    expectMemory(/^scratch broke off unexpectedly$/);
  });

  test("not knowing how much memory there is", () => {
    box.remove("proc/meminfo");
    box.guest("scratch", { FAIL: "od" });
    expect(box.state("scratch")).toMatchObject({ state: "tmpfs", sizeBytes: String(64 * MIB) });
  });
});

describe("a disk that is not surely ours is not written to (E-29, E-32)", () => {
  test.each<[string, RegExp, () => void]>([
    ["none with the serial", /^no disk with the serial scratch$/, () => box.write("sys/block/vdq/serial", "persist\n")],
    ["two with the serial", /^more than one disk/, () => box.disk("vdz", "scratch", 64)],
    ["detached", /^no disk with the serial scratch$/, () => box.remove("sys/block/vdq")],
    [
      "ext4 labelled persist",
      /^the disk carries ext4, labelled 'persist'$/,
      () => box.tool("mkfs.ext4", "-q", "-F", "-L", "persist", disk),
    ],
    [
      "ext4 labelled as ours",
      /^the disk carries ext4, labelled 'nixvm-scratch'$/,
      () => box.tool("mkfs.ext4", "-q", "-F", "-L", "nixvm-scratch", disk),
    ],
    ["FAT", /^the disk carries vfat/, () => box.tool("mkfs.vfat", disk)],
    ["LUKS of someone else", /^the disk carries crypto_LUKS, labelled ''/, () => luks("--type", "luks2")],
    ["LUKS with another label", /labelled 'backup'/, () => luks("--type", "luks2", "--label", "backup")],
    ["LUKS of the first version, which has no label", /labelled ''/, () => luks("--type", "luks1")],
    [
      "a partition table",
      /^the disk (has a partition table|carries)/,
      () => box.tool("sh", "-c", `echo 'label: gpt' | sfdisk -q '${disk}'`),
    ],
    [
      "a partition table beside a header of ours",
      /has a partition table \(gpt\)/,
      () => (
        luks("--type", "luks2", "--label", "nixvm-scratch"),
        box.tool("sh", "-c", `echo 'label: gpt' | sfdisk -q --wipe never '${disk}'`)
      ),
    ],
    ["unknown bytes at its start", /first MiB is not empty/, () => put(700_000, "x")],
    ["unknown bytes at its end", /last MiB is not empty/, () => put(64 * MIB - 1, "x")],
    ["read-only", /is read-only$/, () => box.write("sys/block/vdq/ro", "1\n")],
    ["partitioned", /in use or partitioned: vdq1\/partition$/, () => box.write("sys/block/vdq/vdq1/partition", "1\n")],
    [
      "held by device-mapper",
      /in use or partitioned: holders\/dm-0$/,
      () => box.write("sys/block/vdq/holders/dm-0", ""),
    ],
    [
      "mounted",
      /is mounted at \/srv$/,
      () => box.write("proc/self/mountinfo", "40 22 254:32 / /srv rw - ext4 /dev/vdq rw\n"),
    ],
    ["no list of mounts", /^it cannot be told whether .* is mounted$/, () => box.remove("proc/self/mountinfo")],
    ["of no size", /has 0 bytes, at least 33554432 are needed$/, () => truncateSync(disk, 0)],
    ["too small", /has 33554431 bytes/, () => truncateSync(disk, 32 * MIB - 1)],
  ])("%s", (_name, reason, change) => {
    change();
    const before = digest();
    expect(box.guest("scratch").code).toBe(0);
    expectMemory(reason);
    expect(calls("cryptsetup")).toEqual([]);
    expect(digest()).toBe(before);
  });

  test("nor are the disks beside it, whatever their order", () => {
    const persist = box.disk("vda", "persist", 24);
    const other = box.disk("vdz", "", 24);
    box.guest("scratch");
    expect(box.state("scratch")).toMatchObject({ state: "luks" });
    expect(box.calls()).not.toContain(persist);
    expect(readFileSync(persist).every((byte) => byte === 0)).toBe(true);
    expect(readFileSync(other).every((byte) => byte === 0)).toBe(true);
  });
});

describe("formatting that was broken off is done again at the next start", () => {
  test.each<[string, () => void]>([
    [
      "between the removal of the old header and the new one",
      () => (put(0, "\0".repeat(6)), put(16_384, "\0".repeat(6))),
    ],
    ["with only the second copy of the header in place", () => put(0, "\0".repeat(6))],
    ["in the middle of the area for keys", () => (put(0, "\0".repeat(32_768)), put(300_000, "half"))],
  ])("%s", (_name, interrupt) => {
    box.guest("scratch");
    boot("false", "next");
    interrupt();
    expect(box.guest("scratch").code).toBe(0);
    expect(box.state("scratch")).toMatchObject({ state: "luks", reason: "" });
    expect(opens(key())).toBe(true);
  });

  test("the file system leaves out the mark that proves the disk to be ours", () => {
    box.guest("scratch");
    const blocks = Number(
      /Block count: +(\d+)/.exec(box.tool("dumpe2fs", "-h", box.path("dev/mapper/nixvm-scratch")))![1],
    );
    expect(blocks * 4096).toBe(47 * MIB);
    expect(
      readFileSync(disk)
        .subarray(63 * MIB)
        .toString("latin1"),
    ).toMatch(/^nixvm: this disk is being formatted\n\0+$/);
  });
});
