import { execFileSync, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import type { LiveVm } from "../../cli/guests";
import type { StatusRecord } from "../../provider/status";
import { newKey, reboot, ssh } from "../helpers/guest";
import { IMAGES, LiveStack, ROOT, virsh } from "../helpers/liveStack";

// One VM for each document but two (the template is what fleet.test.ts is about, ZFS has rollback.test.ts), on real guests. Each test goes on from where the
// one before it left them, as boots cost more than everything else.
jest.setTimeout(20 * 60_000);

const NAMES = ["sealed", "workbench", "zvm"] as const;
type Name = (typeof NAMES)[number];
const PORTS: Record<Name, number> = { sealed: 23502, workbench: 23503, zvm: 23504 };
let firstUuid = "";
const CANARY = "canary-" + "c0ffee42".repeat(7);
const FIRST_HASH = "$6$saltsalt$" + "a".repeat(86);

let stack: LiveStack;
let config: Record<string, any>;
let key: { file: string; publicKey: string };
let placed: { file: string; publicKey: string };
const vms = new Map<Name, LiveVm>();
const first = new Map<Name, StatusRecord>();
const vm = (name: Name): LiveVm => vms.get(name)!;
const poolFile = (part: string): string => {
  const dir = path.join(process.env.NIXVM_POOL_ROOT ?? "", "nixvm-presets");
  return path.join(dir, fs.readdirSync(dir).find((file) => file.includes(part)) ?? part);
};

/** Which of the paths are there. */
async function present(name: Name, paths: readonly string[]): Promise<string[]> {
  const out = await vm(name).exec(`for f in ${paths.join(" ")}; do if [ -e $f ]; then echo $f; fi; done`);
  return out.split("\n").filter(Boolean);
}
async function plant(name: Name, paths: readonly string[]): Promise<void> {
  await vm(name).exec(`set -e; for f in ${paths.join(" ")}; do mkdir -p $(dirname $f); echo marker > $f; done; sync`);
}
const asUser = (name: Name, command: string, account: string, login = key.file) =>
  ssh(PORTS[name], account, login, command);

/** The content of a disk as the host sees it. */
function rawOf(part: string): Buffer {
  const raw = path.join(stack.dir, "seen.raw");
  execFileSync("qemu-img", ["convert", "-U", "-O", "raw", poolFile(part), raw]);
  const bytes = fs.readFileSync(raw);
  fs.rmSync(raw);
  return bytes;
}

/** What the scratch disk was after a clean power-off. */
let switchedOff: Buffer;
const isOff = (e: LiveVm): boolean => virsh("domstate", e.vm.uuid).includes("shut off");
const sleep = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Restarts all VMs, two at a time: there are two processors, and a guest uses one for most of its boot. */
async function restartAll(): Promise<void> {
  const e = vm("sealed");
  virsh("shutdown", e.vm.uuid, "--mode", "agent");
  while (!isOff(e)) await sleep(200);
  switchedOff = rawOf("sealed-scratch");
  virsh("start", e.vm.uuid);
  await reboot(e, "started");
  // One is stopped cleanly, the other one loses its power.
  virsh("destroy", vm("zvm").vm.uuid);
  virsh("start", vm("zvm").vm.uuid);
  await Promise.all([reboot(vm("workbench")), reboot(vm("zvm"), "started")]);
}

beforeAll(async () => {
  execFileSync(path.join(ROOT, "images/build"), ["v1", "v2"], { stdio: "ignore" });
  stack = await LiveStack.make("presets");
  key = newKey(stack.dir, "key");
  placed = newKey(stack.dir, "placed");
  config = {
    images: { os: { path: path.join(IMAGES, "reference-v1.qcow2") } },
    rollout: { gateTimeout: "10m", stopTimeout: "2m", maxUnavailable: 2 },
    defaults: { image: "os", memory: "640MiB", vcpus: 1, adminKeys: [key.publicKey], userKeys: [key.publicKey] },
    fleet: {
      sealed: { preset: "sealed", scratch: { size: "256MiB", nixOverlay: true } },
      workbench: { preset: "workbench", home: { mode: "tmpfs", size: "64MiB" }, persist: { size: "256MiB" } },
      zvm: { preset: "zvm", update: "image", persist: { size: "256MiB" } },
    },
  };
  for (const name of NAMES) config.fleet[name].network = { mode: "user", sshPort: PORTS[name] };
  await stack.configure(config);
});

afterAll(() => stack.remove(config));

test("one up brings all presets to a healthy start", async () => {
  const up = await stack.up();
  expect(up.error).toBe("");
  for (const [name, found] of await stack.vms()) {
    vms.set(name as Name, found);
    first.set(name as Name, await found.status());
  }
  expect([...first].map(([name, { healthy, rootMode }]) => [name, healthy, rootMode])).toEqual([
    ["sealed", true, "tmpfs"],
    ["workbench", true, "persistent"],
    ["zvm", true, "tmpfs"],
  ]);
  expect((await stack.preview({ expectNoChanges: true })).error).toBe("");
});

const ZVM_GONE = "/etc/marker /var/lib/marker /root/marker /home/zvm/marker /opt/marker".split(" ");
const ZVM_KEPT =
  "/var/log/marker /var/lib/nixos/marker /var/lib/netbird/marker /home/zvm/.config/netbird/marker /persist/marker".split(
    " ",
  );
const WORKBENCH_GONE =
  "/home/user/marker /home/user/.cache/marker /home/user/.config/marker /home/user/.bash_history /home/user/src/marker".split(
    " ",
  );
const WORKBENCH_KEPT =
  "/home/user/Documents/marker /home/user/.ssh/known_hosts /etc/marker /var/lib/marker /persist/marker /nix/store/marker".split(
    " ",
  );

test("a root in memory has nothing on a disk but what is listed (V-2, V-4, V-5, V-6, P-22)", async () => {
  const v = vm("zvm");
  expect(await v.exec("findmnt -n -o FSTYPE /")).toBe("tmpfs\n");
  expect(await v.exec("awk -F: '$3 >= 1000 && $3 < 60000 { print $1 }' /etc/passwd")).toBe("zvm\n");
  expect(await v.exec("id -nG zvm")).toBe("zvm\n");
  expect(asUser("zvm", "test -x $(command -v sudo) || echo none", "zvm").out).toBe("none\n");
  expect(asUser("zvm", "sudo -n true; echo $?", "zvm").out).not.toBe("0\n");
  expect(asUser("zvm", "touch /persist/x; echo $?", "zvm").out).toBe("1\n");
});

test("keys only: a password is not even asked for (V-7)", () => {
  const options = ["PreferredAuthentications=password,keyboard-interactive", "PubkeyAuthentication=no"];
  const tried = ssh(PORTS.zvm, "zvm", key.file, "true", options);
  expect(tried.code).not.toBe(0);
  expect(tried.err).toMatch(/Permission denied \(publickey\)/);
});

test("the home in memory has its size and mode, and the user cannot switch that off (P-3, P-10, P-21)", async () => {
  const p = vm("workbench");
  expect(await p.exec("findmnt -n -o FSTYPE,OPTIONS /home")).toMatch(/^tmpfs .*size=65536k,mode=755/);
  expect(await p.exec("stat -c '%a %U:%G' /home/user /home/user/Documents /home/user/.ssh")).toBe(
    "700 user:user\n755 user:user\n700 user:user\n",
  );
  expect(
    asUser(
      "workbench",
      "umount /home 2>&1; mount -o remount,size=1g /home 2>&1; su -c true 2>&1 < /dev/null; echo end",
      "user",
    ).out,
  ).toMatch(/must be superuser[^]*must be superuser[^]*Authentication failure[^]*end/);
  expect(await p.exec("findmnt -n -o OPTIONS /home")).toMatch(/size=65536k/);
  expect(await p.exec("swapon --show")).toBe("");
  expect(await p.exec("findmnt -n -o TARGET -T /tmp")).toBe("/\n");
});

test("scratch is a disk under a key of this boot, with the store's layer on it (E-4, E-6, E-7, E-10, E-12, E-27, E-34)", async () => {
  const e = vm("sealed");
  expect(first.get("sealed")).toMatchObject({ scratch: { state: "luks" } });
  expect(await e.exec("findmnt -n -o SOURCE,FSTYPE /scratch")).toMatch(/^\/dev\/mapper\/nixvm-scratch ext4/);
  expect(await e.exec("findmnt -n -o FSTYPE,OPTIONS /nix/store")).toMatch(
    /^overlay .*upperdir=[^,]*\/scratch\/.*workdir=[^,]*\/scratch\//,
  );
  expect(await e.exec("lsblk -dn -o NAME,TYPE | grep -c disk")).toBe("2\n");
  expect(await e.exec("cryptsetup luksDump /dev/disk/by-id/virtio-scratch")).toMatch(
    /PBKDF: +pbkdf2[^]*Iterations: +1000/,
  );
  firstUuid = await e.exec("cryptsetup luksUUID /dev/disk/by-id/virtio-scratch");
  // Nothing that has to stay secret lies on it, not even encrypted.
  const homes = await e.exec(
    "for f in /home/user /etc/shadow /run/nixvm/kept /tmp; do findmnt -n -o SOURCE -T $f; done",
  );
  expect(homes).not.toMatch(/mapper/);
  // Set up before the system started: the kernel's log has the line before that of systemd.
  expect(await e.exec("dmesg | grep -E 'nixvm-scratch|systemd\\[1\\]: systemd' | head -1")).toMatch(/nixvm-scratch/);
  expect(asUser("sealed", "echo $TMPDIR; echo x > /scratch/mine && echo ok", "user").out).toBe("/scratch\nok\n");
});

/** No slot of the LUKS header opens with what an outsider can guess. */
function expectClosed(disk: Buffer): void {
  const image = path.join(stack.dir, "scratch.raw");
  fs.writeFileSync(image, disk);
  for (const guess of ["", "\n", CANARY]) {
    const tried = spawnSync("cryptsetup", ["open", "--test-passphrase", "--key-file=-", image], { input: guess });
    expect(tried.status).not.toBe(0);
  }
  fs.rmSync(image);
}

test("the host sees ciphertext only, and finds the key nowhere (E-14, E-17)", async () => {
  await vm("sealed").exec(`for i in 1 2 3 4; do echo ${CANARY}; done > /scratch/canary; sync`);
  await vm("zvm").exec(`echo ${CANARY} > /persist/canary; sync`);
  expect(rawOf("zvm-persist").includes(CANARY)).toBe(true);
  const seen = rawOf("sealed-scratch");
  expect(seen.includes(CANARY)).toBe(false);
  expect(seen.subarray(0, 4).toString()).toBe("LUKS");
  expectClosed(seen);
  expect(virsh("secret-list").trim()).toBe("");
  expect(virsh("dumpxml", vm("sealed").vm.uuid)).not.toMatch(/<encryption|<secret /);
});

test("markers are planted everywhere", async () => {
  await plant("zvm", [...ZVM_GONE, ...ZVM_KEPT]);
  await plant("workbench", [...WORKBENCH_GONE, ...WORKBENCH_KEPT]);
  await plant("sealed", ["/scratch/marker", "/etc/marker", "/home/user/marker"]);
  // What an operator puts on the volume by hand, before or after the first boot.
  await vm("zvm").exec(`umask 077; echo '${FIRST_HASH}' > /persist/passwords/zvm
    mkdir -p /persist/home/zvm/.ssh; echo '${placed.publicKey}' > /persist/home/zvm/.ssh/authorized_keys
    chown -R zvm:zvm /persist/home/zvm/.ssh; sync`);
});

describe("after a restart", () => {
  beforeAll(restartAll);

  test("only the allowlist is left of a root in memory (V-3, V-13 to V-19, V-21, V-22, V-25, Z-78)", async () => {
    const v = vm("zvm");
    const { sshHostKey, machineId } = first.get("zvm")!;
    expect(await v.status()).toMatchObject({ healthy: true, sshHostKey, machineId, allowlist: { state: "applied" } });
    expect(await present("zvm", ZVM_GONE)).toEqual([]);
    expect(await present("zvm", ZVM_KEPT)).toEqual(ZVM_KEPT);
    expect(await v.exec("stat -c '%U:%G' /home/zvm/.config/netbird /home/zvm")).toBe("zvm:zvm\nzvm:zvm\n");
    expect(Number(await v.exec("journalctl --list-boots | wc -l"))).toBeGreaterThanOrEqual(2);
    expect(await v.exec("grep ^zvm: /etc/shadow; stat -c '%a %U:%G' /persist/passwords/zvm")).toBe(
      `zvm:${FIRST_HASH}:20000:0:99999:7:::\n600 root:root\n`,
    );
    for (const login of [key, placed]) expect(asUser("zvm", "id -un", "zvm", login.file).out).toBe("zvm\n");
  });

  test("of the home in memory only the list is left, and the rest of the system stays (P-8, P-14 to P-17, P-20, P-30, P-36)", async () => {
    expect(await vm("workbench").status()).toMatchObject({ healthy: true, home: { state: "tmpfs" } });
    expect(await present("workbench", WORKBENCH_GONE)).toEqual([]);
    expect(await present("workbench", WORKBENCH_KEPT)).toEqual(WORKBENCH_KEPT);
    expect(await vm("workbench").exec("stat -c '%a %U:%G' /home/user/.ssh /home/user/Documents")).toBe(
      "700 user:user\n755 user:user\n",
    );
  });

  test("after a clean power-off the disk is there and cannot be opened (E-18, E-21)", () => {
    expect(switchedOff.subarray(0, 4).toString()).toBe("LUKS");
    expect(switchedOff.includes(CANARY)).toBe(false);
    expectClosed(switchedOff);
  });

  test("scratch starts from nothing under another key (E-13)", async () => {
    const status = await vm("sealed").status();
    expect(status).toMatchObject({ healthy: true, scratch: { state: "luks" } });
    expect(await present("sealed", ["/scratch/marker", "/scratch/canary", "/etc/marker", "/home/user/marker"])).toEqual(
      [],
    );
    const uuid = await vm("sealed").exec("cryptsetup luksUUID /dev/disk/by-id/virtio-scratch");
    expect(uuid).not.toBe(firstUuid);
  });
});

test("an upgrade of the image keeps what a restart keeps, and makes all else new (V-3, P-20, E-13)", async () => {
  await plant("zvm", ZVM_GONE);
  const onRoot = ["/etc/marker", "/var/lib/marker", "/nix/store/marker"];
  const kept = WORKBENCH_KEPT.filter((file) => !onRoot.includes(file));
  expect(await present("workbench", onRoot)).toEqual(onRoot);
  config.images.os.path = path.join(IMAGES, "reference-v2.qcow2");
  await stack.configure(config);
  expect((await stack.up()).error).toBe("");
  for (const name of NAMES) {
    const { machineId, sshHostKey, healthy, imageVersion } = await vm(name).status();
    const before = first.get(name)!;
    expect([name, healthy, imageVersion, machineId]).toEqual([name, true, "v2", before.machineId]);
    // Without a persistent volume there is nothing that a key could be kept on.
    expect([name, sshHostKey === before.sshHostKey]).toEqual([name, name !== "sealed"]);
  }
  expect(await present("zvm", [...ZVM_GONE, ...ZVM_KEPT])).toEqual(ZVM_KEPT);
  expect(await present("workbench", [...onRoot, ...WORKBENCH_GONE, ...kept])).toEqual(kept);
  expect(await vm("sealed").exec("cryptsetup luksUUID /dev/disk/by-id/virtio-scratch")).not.toBe(firstUuid);
});

test("a full /home is an error for the writer and for nobody else (P-33)", async () => {
  const out = asUser("workbench", "{ cat /dev/zero > full; } 2>&1; rm full; echo alive", "user").out;
  expect(out).toMatch(/No space left on device[^]*alive/);
  expect((await vm("workbench").status()).healthy).toBe(true);
});

test("killed without any clean-up, the scratch disk is still nothing but ciphertext (E-19)", async () => {
  const e = vm("sealed");
  await e.exec(`echo ${CANARY} > /scratch/canary; sync`);
  const pid = fs
    .readdirSync("/proc")
    .find(
      (entry) =>
        /^\d+$/.test(entry) && commandLine(entry).includes("qemu-system") && commandLine(entry).includes(e.vm.uuid),
    );
  process.kill(Number(pid), "SIGKILL");
  while (!isOff(e)) await sleep(200);
  expect(rawOf("sealed-scratch").includes(CANARY)).toBe(false);
});
function commandLine(pid: string): string {
  try {
    return fs.readFileSync(`/proc/${pid}/cmdline`, "utf8");
  } catch {
    return "";
  }
}

test("without its disk the guest starts with scratch in memory, and says so (E-28 to E-31)", async () => {
  const e = vm("sealed");
  const target = /vd[a-z](?=\s.*scratch)/.exec(virsh("domblklist", e.vm.uuid))?.[0] ?? "";
  virsh("detach-disk", e.vm.uuid, target, "--config");
  virsh("start", e.vm.uuid);
  const status = await reboot(e, "started");
  expect(status).toMatchObject({
    healthy: true,
    scratch: { state: "tmpfs", reason: expect.stringContaining("serial scratch") },
  });
  expect(await e.exec("findmnt -n -o FSTYPE /scratch")).toBe("tmpfs\n");
  expect(asUser("sealed", "echo x > /scratch/mine && echo ok", "user").out).toBe("ok\n");
});
