// What a root mode costs at boot, side by side with the same kernel and initrd and none of our scripts and units.
//
//   node bench/boot.mjs [boots of each, default 2] [presets, default template,zvm,workbench,sealed,scratch]
//
// Seconds are the guest's own, from its first instruction until systemd has nothing left to start, with QEMU counting instructions
// (icount: 500 million are a second) and one processor: what else the machine does then has no part in it, and two boots of a kind
// differ by a hundredth. The plain guest is the same image with an init that does the least that Debian needs (an empty /var in memory,
// the image's own account files, a host key that is there; for "rollback", which needs `images/build zfs1` first, also what any root on
// ZFS needs: the module, the same pool imported, its datasets mounted).
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const { planFleet, seedFiles, identityOf } = createRequire(import.meta.url)(join(root, "bin/components/plan/index.js"));
const times = Number(process.argv[2] ?? 2);
const presets = (process.argv[3] ?? "template,zvm,workbench,sealed,scratch").split(",");
const dir = mkdtempSync(join(tmpdir(), "nixvm-boot-"));

const PLAIN_INIT = `#!/bin/busybox sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o mode=755,nosuid,nodev run /run
for module in /modules/*.ko; do insmod "$module" 2> /dev/null; done
until [ -b /dev/vda2 ]; do sleep 0.05; done
mount -t ext4 -o ro,noatime /dev/vda2 /newroot
cp /key /run/key
for d in proc sys dev run; do mount --move /$d /newroot/$d; done
chroot /newroot /bin/sh -c 'mkdir -p /run/nixvm/etc /run/systemd/system.control
for unit in seed grow status update; do ln -s /dev/null /run/systemd/system.control/nixvm-$unit.service; done; cp -p /usr/share/nixvm/etc/* /run/nixvm/etc/
mount -t tmpfs -o mode=755 var /var; cp -a /usr/share/nixvm/var/. /var/; mount -t tmpfs tmp /tmp
echo plain > /run/nixvm/etc/hostname; echo 0123456789abcdef0123456789abcdef > /run/nixvm/etc/machine-id
echo "HostKey /run/key" > /run/nixvm/etc/sshd.conf
if [ -b /dev/vdb ]; then PATH=/usr/sbin:/usr/bin; modprobe zfs; zpool import -N -f -d /dev rpool; for at in local/nix:/nix safe/home:/home safe/persist:/persist; do
mount -t zfs rpool/\${at%:*} \${at#*:}; done; [ -d /proc/spl/kstat/zfs/rpool ] || reboot -f; fi'
exec switch_root /newroot /usr/lib/systemd/systemd
`;

function tool(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: dir, maxBuffer: 1 << 28, ...options });
  if (result.status !== 0) throw new Error(`${command} ${args.join(" ")}: ${result.stderr}`);
  return result.stdout;
}

/** Kernel, initrd and command line out of the unified image on the ESP, which lies at 1 MiB. */
function unpack(image) {
  tool("qemu-img", ["convert", "-O", "raw", image, "disk.raw"]);
  tool("dd", ["if=disk.raw", "of=esp.img", "bs=1M", "skip=1", "count=48", "status=none"]);
  rmSync(join(dir, "disk.raw"));
  tool("mcopy", ["-o", "-i", "esp.img", "::/EFI/BOOT/BOOTX64.EFI", "uki.efi"]);
  for (const part of ["linux", "initrd", "cmdline"])
    tool("objcopy", ["-O", "binary", `--only-section=.${part}`, "uki.efi", part]);
  // The kernel unpacks archives one after the other; behind a compressed one there can be none.
  mkdirSync(join(dir, "plain"), { recursive: true });
  writeFileSync(join(dir, "plain/plain"), PLAIN_INIT, { mode: 0o755 });
  if (!existsSync(join(dir, "plain/key"))) tool("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", "plain/key"]);
  const archive = tool("cpio", ["--quiet", "-o", "-H", "newc", "-R", "0:0"], {
    cwd: join(dir, "plain"),
    input: "plain\nkey\n",
  });
  writeFileSync(join(dir, "initrd-plain"), Buffer.concat([archive, readFileSync(join(dir, "initrd"))]));
}

/** The disks and the seed of a VM with that preset, as the planner has them. */
function prepare(preset) {
  const scratch = preset === "scratch";
  const vm = { preset: scratch ? "sealed" : preset, image: "os", home: { mode: "tmpfs", size: "128MiB" } };
  if (preset === "template" || preset === "rollback") delete vm.home;
  if (preset === "zvm") vm.update = "image";
  if (scratch) vm.scratch = { size: "256MiB", nixOverlay: false };
  const config = { images: { os: { path: "x.qcow2" } }, fleet: { boot: vm } };
  const result = planFleet(config, { project: "bench", stack: "boot", defaults: { poolRoot: "/pools" } });
  if (!result.ok) throw new Error(JSON.stringify(result.problems));
  const [plan] = result.plan.vms;
  const identity = identityOf("ab".repeat(32), "boot");
  const files = seedFiles(plan, identity);
  for (const [name, text] of [
    ["user-data", files.userData],
    ["meta-data", files.metaData],
    ["network-config", files.networkConfig],
  ])
    writeFileSync(join(dir, name), text);
  tool("genisoimage", [
    "-quiet",
    "-o",
    "seed.iso",
    "-V",
    "cidata",
    "-J",
    "-r",
    "user-data",
    "meta-data",
    "network-config",
  ]);
  for (const role of ["persist", "scratch"]) rmSync(join(dir, `${role}.qcow2`), { force: true });
  if (plan.persist) tool("qemu-img", ["create", "-q", "-f", "qcow2", "persist.qcow2", "1G"]);
  if (plan.scratch) tool("qemu-img", ["create", "-q", "-f", "qcow2", "scratch.qcow2", "256M"]);
}

const drive = (role) =>
  existsSync(join(dir, `${role}.qcow2`))
    ? ["-drive", `if=none,id=${role},file=${role}.qcow2`, "-device", `virtio-blk-pci,drive=${role},serial=${role}`]
    : [];

/**
 * One connection for the whole boot: a call that is dropped while its answer is on the way leaves the agent spinning. What is sent
 * before the agent runs waits for it.
 */
async function agent() {
  let socket;
  for (let i = 0; socket === undefined; i++) {
    socket = await new Promise((resolve, reject) => {
      const attempt = connect(join(dir, "agent.sock"), () => resolve(attempt));
      attempt.on("error", (error) => (i < 200 ? resolve(undefined) : reject(error)));
    });
    if (socket === undefined) await sleep(50);
  }
  const lines = createInterface({ input: socket })[Symbol.asyncIterator]();
  return async (execute, args) => {
    socket.write(`${JSON.stringify({ execute, arguments: args })}\n`);
    const { value } = await lines.next();
    if (value === undefined) throw new Error("the guest went away");
    const answer = JSON.parse(value);
    if (answer.error) throw new Error(`${execute}: ${answer.error.desc}`);
    return answer.return;
  };
}

/** Seconds of the guest until its system is started; rejects when our record does not say healthy. */
async function boot(image, plain, pool = false) {
  rmSync(join(dir, "boot.qcow2"), { force: true });
  tool("qemu-img", ["create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", "boot.qcow2"]);
  const cmdline = `${readFileSync(join(dir, "cmdline"), "utf8").replace(/\0/g, "").trim()}${plain ? " rdinit=/plain" : ""}`;
  rmSync(join(dir, "agent.sock"), { force: true });
  const vm = spawn(
    "qemu-system-x86_64",
    [
      ..."-machine q35 -accel tcg -icount shift=1,sleep=on -cpu Nehalem -smp 1 -m 512 -nodefaults -display none -no-reboot".split(
        " ",
      ),
      ...["-kernel", "linux", "-initrd", plain ? "initrd-plain" : "initrd", "-append", cmdline],
      ...["boot", ...(plain && !pool ? [] : ["persist", "scratch"])].flatMap(drive),
      ...["-drive", "if=none,id=seed,file=seed.iso,format=raw,readonly=on", "-device", "ide-cd,drive=seed,bus=ide.0"],
      ...["-device", "virtio-rng-pci", "-device", "virtio-serial-pci", "-serial", "file:console.log"],
      ...["-chardev", "socket,path=agent.sock,server=on,wait=off,id=agent"],
      ...["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"],
      ...["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="],
    ],
    { cwd: dir, stdio: "ignore" },
  );
  const limit = setTimeout(() => vm.kill(), 300_000);
  try {
    const call = await agent();
    const script =
      'systemctl is-system-running --wait; cat /proc/uptime; grep -o "\\"healthy\\": [a-z]*" /run/nixvm/status.json';
    const { pid } = await call("guest-exec", { path: "/bin/sh", arg: ["-c", script], "capture-output": true });
    for (;;) {
      const status = await call("guest-exec-status", { pid });
      if (status.exited) {
        const said = Buffer.from(status["out-data"] ?? "", "base64").toString();
        if (!plain && !said.includes('"healthy": true')) throw new Error(`not healthy: ${said}`);
        return Number(/^([\d.]+) [\d.]+$/m.exec(said)?.[1]);
      }
      await sleep(100);
    }
  } catch (error) {
    throw new Error(`${error.message}\n${readFileSync(join(dir, "console.log"), "utf8").slice(-2000)}`, {
      cause: error,
    });
  } finally {
    clearTimeout(limit);
    const ended = new Promise((resolve) => vm.once("exit", resolve));
    vm.kill();
    await ended;
  }
}

const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
const result = {};
try {
  for (const preset of presets) {
    const image = join(root, `.nixvm/images/reference-${preset === "rollback" ? "zfs1" : "v1"}.qcow2`);
    unpack(image);
    prepare(preset);
    // The first boot formats; that is paid once in a VM's life.
    await boot(image, false);
    const [ours, plain] = [[], []];
    for (let i = 0; i < times; i++) {
      plain.push(await boot(image, true, preset === "rollback"));
      ours.push(await boot(image, false));
    }
    const [a, b] = [median(ours), median(plain)];
    result[preset] = { healthySeconds: a, plainSeconds: b, ratio: Number((a / b).toFixed(3)) };
    process.stderr.write(`${preset}: ${a.toFixed(2)} s, plain ${b.toFixed(2)} s, ratio ${(a / b).toFixed(3)}\n`);
  }
  console.log(JSON.stringify(result));
} finally {
  rmSync(dir, { recursive: true, force: true });
}
