import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import { connect } from "node:net";
import * as path from "node:path";
import type { Identity } from "../../cli/guests";
import { newKey, ssh } from "../helpers/guest";
import { IMAGES, LiveStack, type Operation, virsh } from "../helpers/liveStack";

// The main job on real guests, told in one go: each test goes on from where the one before it left the fleet, because a
// boot costs more than everything else here.
jest.setTimeout(15 * 60_000);

const CONSOLE_PASSWORD = "console-password";
const CONSOLE_HASH =
  "$6$nixvmtest$pkEDp5x.QkzZjqrIqbovwhB9Y/OWnMxz6oG6aaX58HDbHqJHBiD06ieqT87lDt3BEryRRvcDQs6278t2oxhzD1";

let stack: LiveStack;
let config: Record<string, any>;
const before: Record<string, { identity: Identity; marker: string }> = {};

const bootId = async (vm: string): Promise<string> => (await (await stack.vm(vm)).status()).bootId;
const poolDir = (): string => path.join(process.env.NIXVM_POOL_ROOT ?? "", "nixvm-live");
const sha256 = (file: string): string => createHash("sha256").update(fs.readFileSync(file)).digest("hex");
const stepsOf = (operation: Operation, part: RegExp): string[] => operation.steps.filter((step) => part.test(step));

async function useImage(image: string): Promise<void> {
  config.images.os.path = path.join(IMAGES, `reference-${image}.qcow2`);
  await stack.configure(config);
}

beforeAll(async () => {
  stack = await LiveStack.make("live");
  const key = newKey(stack.dir, "admin");
  config = {
    images: { os: { path: path.join(IMAGES, "reference-v1.qcow2") } },
    rollout: { gateTimeout: "8m", stopTimeout: "2m" },
    defaults: {
      image: "os",
      memory: "512MiB",
      vcpus: 1,
      persist: { size: "512MiB", snapshots: 1 },
      adminKeys: [key.publicKey],
      userKeys: [key.publicKey],
    },
    fleet: {
      db: { network: { mode: "user", sshPort: 23201 }, rootPasswordHash: CONSOLE_HASH },
      web: { network: { mode: "user", sshPort: 23202 } },
    },
  };
  await stack.configure(config);
});

afterAll(async () => {
  await stack.remove(config);
  expect(virsh("list", "--all", "--name")).not.toContain("nixvm-live-");
  expect(fs.existsSync(poolDir())).toBe(false);
});

test("up makes two healthy VMs on one base image (T-2, T-5, T-90)", async () => {
  const up = await stack.up();
  expect(up.error).toBe("");
  for (const [name, vm] of await stack.vms()) {
    const status = await vm.status();
    expect(status).toMatchObject({ healthy: true, imageVersion: "v1", rootMode: "readonly", hostname: name });
    expect(virsh("dumpxml", vm.vm.uuid)).toContain("<serial>persist</serial>");
  }
  const bases = fs.readdirSync(poolDir()).filter((file) => file.includes("-base-"));
  expect(bases).toHaveLength(1);
  const chain = execFileSync("qemu-img", ["info", "-U", "--backing-chain", path.join(poolDir(), overlayOf("web"))]);
  expect(chain.toString()).toContain(bases[0]);
});

function overlayOf(vm: string): string {
  const found = fs.readdirSync(poolDir()).filter((f) => new RegExp(`^nixvm-live-${vm}-[0-9a-f]{12}-`).test(f));
  return found[0] ?? "";
}

test("a second up and a preview with a refresh find nothing to do", async () => {
  expect((await stack.preview({ expectNoChanges: true })).error).toBe("");
  const refreshed = await stack.preview({ refresh: true, expectNoChanges: true });
  expect(refreshed.error).toBe("");
});

test("the root is read-only, state is under /var, and mounts are as the template wants them (T-7 to T-12)", async () => {
  const vm = await stack.vm("web");
  const refused = await vm.exec(
    "for f in /x /etc/x /boot/x /usr/x; do touch $f 2>/dev/null && echo wrote $f; done; true",
  );
  expect(refused).toBe("");
  expect(await vm.exec("findmnt -no SOURCE,FSTYPE /var")).toMatch(/ext4/);
  expect(await vm.exec("findmnt -no SOURCE /home")).toContain("[/home]");
  expect(await vm.exec("findmnt -no OPTIONS /boot")).toMatch(/^ro\b/);
  expect(await vm.exec("findmnt -no FSTYPE /tmp")).toBe("tmpfs\n");
  // Whatever disk can be written to is the one at /var.
  const disks = (await vm.exec("findmnt -rno SOURCE,OPTIONS"))
    .split("\n")
    .filter((line) => /^\/dev\/\S+ rw\b/.test(line));
  const data = (await vm.exec("findmnt -no SOURCE /var")).trim();
  expect(new Set(disks.map((line) => line.replace(/[[ ].*/, "")))).toEqual(new Set([data]));
  expect(await vm.exec("test -d /sys/firmware/efi && echo uefi")).toBe("uefi\n");
  expect(await vm.exec("ls /dev/disk/by-id/virtio-boot /dev/disk/by-id/virtio-persist | wc -l")).toBe("2\n");
});

test("keys open both accounts, only admin has sudo, root and passwords are refused (T-96, T-97, T-109 to T-112, T-116)", async () => {
  const key = path.join(stack.dir, "admin");
  expect(ssh(23202, "admin", key, "sudo -n id -u")).toMatchObject({ code: 0, out: "0\n" });
  expect(ssh(23202, "user", key, "id -un; sudo -n true 2>/dev/null || echo no sudo").out).toBe("user\nno sudo\n");
  expect(ssh(23202, "root", key, "true").code).toBe(255);
  // What the server names here is all that it offers.
  for (const account of ["admin", "user", "root"]) {
    expect(ssh(23202, account, "/dev/null", "true")).toMatchObject({
      code: 255,
      err: expect.stringContaining("denied (publickey)"),
    });
  }
  const vm = await stack.vm("web");
  const passwords = (await vm.exec("cut -d: -f2 /etc/shadow")).trim().split("\n");
  expect(passwords.filter((password) => !/^[!*]/.test(password))).toEqual([]);
});

/** A terminal on the serial console of a VM, as an operator has it. */
class SerialConsole {
  private seen = "";
  private readonly child;

  constructor(uuid: string) {
    const uri = process.env.LIBVIRT_DEFAULT_URI ?? "qemu:///system";
    // virsh wants a terminal of its own.
    const command = `virsh -c '${uri}' console --force ${uuid}`;
    this.child = spawn("script", ["--quiet", "--flush", "--return", "--command", command, "/dev/null"]);
    this.child.stdout.on("data", (data: Buffer) => (this.seen += data.toString()));
  }

  /** Waits for something that was not there when the last wait ended. */
  async until(wanted: RegExp): Promise<string> {
    const limit = Date.now() + 60_000;
    for (;;) {
      const found = wanted.exec(this.seen);
      if (found) {
        this.seen = this.seen.slice(found.index + found[0].length);
        return found[0];
      }
      if (Date.now() > limit) throw new Error(`no ${String(wanted)} on the console: ${JSON.stringify(this.seen)}`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  async logIn(account: string, password: string): Promise<void> {
    await this.until(/login: $/);
    this.type(account);
    await this.until(/Password: $/);
    this.type(password);
  }

  type(line: string): void {
    this.child.stdin.write(`${line}\r`);
  }

  async close(): Promise<void> {
    const ended = new Promise((resolve) => this.child.once("exit", resolve));
    // virsh's own key to leave: Ctrl and ]
    this.child.stdin.end("\x1d");
    await ended;
  }
}

test("with a hash set, root logs in on the serial console with that password, and with no other (T-115)", async () => {
  const serial = new SerialConsole((await stack.vm("db")).vm.uuid);
  try {
    // What is typed before is lost; the prompt itself was printed long ago.
    await serial.until(/Escape character is [^\n]*\n/);
    serial.type("");
    await serial.logIn("root", "another-password");
    await serial.until(/Login incorrect/);
    await serial.logIn("root", CONSOLE_PASSWORD);
    await serial.until(/# $/);
    serial.type("echo I am $(id -un)");
    await serial.until(/I am root/);
    serial.type("exit");
    await serial.until(/login: $/);
  } finally {
    await serial.close();
  }
});

test("names are asked of the resolvers of the stack file, by default 1.1.1.1 and 1.0.0.1 (T-105)", async () => {
  const web = await stack.vm("web");
  expect(await web.exec("cat /etc/resolv.conf")).toBe("nameserver 1.1.1.1\nnameserver 1.0.0.1\n");
});

/** What a server behind a port of the guest says first; nothing when it cannot be reached. */
function banner(port: number): Promise<string> {
  return new Promise((resolve) => {
    let said = "";
    const socket = connect(port, "127.0.0.1");
    socket.setTimeout(30_000, () => socket.destroy());
    socket.on("data", (data) => {
      said += data.toString();
      socket.destroy();
    });
    socket.on("error", () => undefined);
    socket.on("close", () => resolve(said));
  });
}

test("secrets are not in the state, and guests cannot tell each other's identity (T-26, V-67, G-5)", async () => {
  const { resources } = (JSON.parse(stack.stateText()) as { checkpoint: { latest: { resources: any[] } } }).checkpoint
    .latest;
  const key = resources.find(({ urn }) => urn.endsWith("::fleet-key"));
  expect(key.id).toBe("none");
  // How Pulumi marks what it has encrypted.
  const encrypted = { "4dabf18193072939515e22adb298388d": expect.any(String), ciphertext: expect.any(String) };
  expect(key.outputs).toMatchObject({ result: encrypted, bcryptHash: encrypted });
  expect(stack.stateText()).not.toContain("local-hostname");
  for (const file of fs.readdirSync(poolDir()).filter((name) => !name.includes("-base-")))
    expect([file, fs.statSync(path.join(poolDir(), file)).mode & 0o077]).toEqual([file, 0]);
  const [db, web] = [await (await stack.vm("db")).identity(), await (await stack.vm("web")).identity()];
  for (const part of Object.keys(db) as (keyof Identity)[]) {
    expect(db[part]).not.toBe("");
    expect(db[part]).not.toBe(web[part]);
  }
});

test("a changed seed is applied live: a new key works, a removed key is a revoked key, a listed port opens (T-102, T-103, T-108)", async () => {
  const boot = await bootId("web");
  const web = await stack.vm("web");
  // A server on each of two ports, and a way to them from the host.
  await web.exec("/usr/sbin/sshd -p 8080 -p 8081 -o PidFile=none");
  for (const port of [8080, 8081])
    virsh("qemu-monitor-command", "--hmp", web.vm.uuid, `hostfwd_add tcp:127.0.0.1:${port + 15_200}-:${port}`);
  expect(await Promise.all([banner(23280), banner(23281)])).toEqual(["", ""]);
  config.fleet.web.tcpPorts = [22, 8080];
  const fresh = newKey(stack.dir, "fresh");
  const old = config.defaults.userKeys;
  config.defaults.userKeys = [fresh.publicKey];
  await stack.configure(config);
  const up = await stack.up();
  expect(up.error).toBe("");
  expect(stepsOf(up, /Guest/).every((step) => step.startsWith("update "))).toBe(true);
  expect(stepsOf(up, /replace.*(Domain|Volume)/)).toEqual([]);
  expect(await bootId("web")).toBe(boot);
  expect(ssh(23202, "user", fresh.file, "id -un").out).toBe("user\n");
  expect(ssh(23202, "user", path.join(stack.dir, "admin"), "true").code).toBe(255);
  expect(await Promise.all([banner(23280), banner(23281)])).toEqual([expect.stringMatching(/^SSH-2\.0-/), ""]);
  config.defaults.userKeys = old;
  await stack.configure(config);
});

test("the persistent volume grows in place, live, with its file system; shrinking is refused (T-62)", async () => {
  const vm = await stack.vm("db");
  const boot = await bootId("db");
  const marker = `kept-${Date.now()}`;
  await vm.exec(`echo ${marker} > /var/lib/grow-marker; sync`);
  const size = async (): Promise<number> => Number(await vm.exec("df --output=size -B1 /var | tail -1"));
  const small = await size();
  config.fleet.db.persist = { size: "1GiB" };
  await stack.configure(config);
  const up = await stack.up();
  expect(up.error).toBe("");
  expect(stepsOf(up, /Volume db-persist/)).toEqual([]);
  expect(await size()).toBeGreaterThan(small * 1.7);
  expect(await bootId("db")).toBe(boot);
  expect(await vm.exec("cat /var/lib/grow-marker")).toBe(`${marker}\n`);

  config.fleet.db.persist = { size: "768MiB" };
  await stack.configure(config);
  const refused = await stack.preview();
  expect(refused.error).toMatch(/cannot shrink from 1 GiB to 768 MiB; allowed: 1 GiB or more/);
  config.fleet.db.persist = { size: "1GiB" };
  await stack.configure(config);
});

test("an upgrade stops cleanly, goes one VM at a time, keeps data and identity, and removes the old base last (T-6, T-41 to T-43, T-48, T-49)", async () => {
  for (const [name, vm] of await stack.vms()) {
    const marker = `${name}-${Date.now()}`;
    await vm.exec(`echo ${marker} | tee /var/lib/marker /home/marker /var/log/marker >/dev/null; sync`);
    before[name] = { identity: await vm.identity(), marker };
  }
  const oldBase = fs.readdirSync(poolDir()).filter((file) => file.includes("-base-"))[0] ?? "";
  expect(sha256(path.join(poolDir(), oldBase))).toBe(sha256(path.join(IMAGES, "reference-v1.qcow2")));

  await useImage("v2");
  const preview = await stack.preview();
  for (const name of ["db", "web"]) {
    expect(preview.text).toMatch(new RegExp(`${name}: restarts, because the image changes from`));
  }
  const up = await stack.up();
  expect(up.error).toBe("");
  expectUpgradeOrder(up.steps);
  for (const [name, vm] of await stack.vms()) {
    const was = before[name];
    expect(await vm.status()).toMatchObject({ healthy: true, imageVersion: "v2", hostname: name });
    expect(await vm.identity()).toEqual(was?.identity);
    expect(await vm.exec("cat /var/lib/marker /home/marker /var/log/marker")).toBe(`${was?.marker}\n`.repeat(3));
    // Stopped by its own shutdown, not by a pulled plug: systemd says so in the journal of the boot before.
    expect(
      await vm.exec(
        "cat /var/lib/nixvm/last-shutdown 2>/dev/null || journalctl -b -1 --no-pager 2>/dev/null | grep -c 'Reached target.*Power'",
      ),
    ).not.toBe("0\n");
  }
  for (const name of ["db", "web"]) {
    const snapshots = snapshotsOf(name);
    expect(snapshots).toHaveLength(1);
    expect(fileIn(name, snapshots[0] ?? "", "/lib/marker")).toBe(`${before[name]?.marker}\n`);
  }
  const bases = fs.readdirSync(poolDir()).filter((file) => file.includes("-base-"));
  expect(bases).toHaveLength(1);
  expect(bases[0]).not.toBe(oldBase);
  expect((await stack.preview({ expectNoChanges: true })).error).toBe("");
});

/** Names of the snapshots in a VM's persistent volume, oldest first. */
function snapshotsOf(vm: string): string[] {
  const volume = path.join(poolDir(), `nixvm-live-${vm}-persist`);
  const info = execFileSync("qemu-img", ["info", "-U", "--output=json", volume], { encoding: "utf8" });
  const { snapshots = [] } = JSON.parse(info) as { snapshots?: Array<{ name: string }> };
  return snapshots.map(({ name }) => name);
}

/** A file as it was when the snapshot was taken. */
function fileIn(vm: string, snapshot: string, file: string): string {
  const raw = path.join(stack.dir, "snapshot.raw");
  const volume = path.join(poolDir(), `nixvm-live-${vm}-persist`);
  execFileSync("qemu-img", ["convert", "-U", "-l", `snapshot.name=${snapshot}`, "-O", "raw", volume, raw]);
  return execFileSync("debugfs", ["-R", `cat ${file}`, raw], { encoding: "utf8" });
}

/** The order of D4: overlays first, then VM after VM in the domain it has, old disks last. */
function expectUpgradeOrder(steps: string[]): void {
  const at = (pattern: RegExp): number => {
    const found = steps.findIndex((step) => pattern.test(step));
    if (found < 0) {
      throw new Error(`no step ${String(pattern)} among\n${steps.join("\n")}`);
    }
    return found;
  };
  const [db, web] = [at(/^update .*Guest db-guest/), at(/^update .*Guest web-guest/)];
  expect(at(/^create .*Volume db-overlay/)).toBeLessThan(db);
  expect(at(/^create .*Volume web-overlay/)).toBeLessThan(db);
  expect(db).toBeLessThan(web);
  for (const left of [/^delete .*Volume db-overlay/, /^delete .*Volume web-overlay/, /^delete .*Volume base-/]) {
    expect(at(left)).toBeGreaterThan(web);
  }
  expect(steps.filter((step) => /Domain|persist/.test(step))).toEqual([]);
}

test("an image that never gets healthy stops the rollout: its VM goes back by itself, the next one is untouched, and the image is refused from then on (T-16, T-47)", async () => {
  const webBoot = await bootId("web");
  const overlay = overlayOf("db");
  const data = snapshotsOf("db");
  config.rollout.restoreDataOnRollback = true;
  await useImage("broken");
  const bad = await stack.up();
  expect(bad.error).not.toBe("");
  expect(bad.text).toMatch(/db: .*not healthy/);
  expect(bad.text).toMatch(/last status record/i);
  expect(bad.text).toMatch(/serial console/i);
  const [good, failed, ...more] = snapshotsOf("db");
  // The one of the upgrade before has made room.
  expect([more, data.includes(good ?? "")]).toEqual([[], false]);
  expect(bad.text).toMatch(
    new RegExp(
      `db: is back on image [0-9a-f]{12} with its data of the snapshot ${good} ` +
        `\\(what was written since is in ${failed}\\) and healthy there, \\d+ s after the failure`,
    ),
  );
  const db = await stack.vm("db");
  const dbBoot = await bootId("db");
  // The very overlay that it ran on before, with what was written to it.
  expect(virsh("domblklist", db.vm.uuid)).toContain(overlay);
  expect(await db.status()).toMatchObject({ healthy: true, imageVersion: "v2" });

  for (const operation of [() => stack.preview(), () => stack.up()]) {
    const refused = await operation();
    expect(refused.text + refused.error).toMatch(/db: image [0-9a-f]{12} is quarantined: .*not healthy/);
  }
  await useImage("v2");
  const clean = await stack.preview({ refresh: true });
  expect(clean.error).toBe("");
  // What is left of the image that failed goes; nothing else is a change.
  expect(clean.steps.filter((step) => !/^delete .*(overlay|base)/i.test(step))).toEqual([]);
  const back = await stack.up();
  expect(back.error).toBe("");
  expect(stepsOf(bad, /(Domain|Guest) web-/)).toEqual([]);
  expect(stepsOf(back, /(Domain|Guest) web-/)).toEqual([]);
  expect(await bootId("web")).toBe(webBoot);
  expect(await bootId("db")).toBe(dbBoot);
  expect(await db.identity()).toEqual(before.db?.identity);
  expect(await db.exec("cat /var/lib/marker")).toBe(`${before.db?.marker}\n`);
  expect(virsh("domblklist", "nixvm-live-web")).toContain(overlayOf("web"));
  expect((await stack.preview({ expectNoChanges: true })).error).toBe("");
});

test("a VM removed behind our back is shown as drift, and up heals it with its data", async () => {
  virsh("destroy", "nixvm-live-web");
  virsh("undefine", "--nvram", "nixvm-live-web");
  const drift = await stack.preview({ refresh: true });
  expect(stepsOf(drift, /^create .*Domain web-domain/)).toHaveLength(1);
  const up = await stack.up({ refresh: true });
  expect(up.error).toBe("");
  expect(stepsOf(up, /Domain db-/)).toEqual([]);
  const web = await stack.vm("web");
  expect(await web.identity()).toEqual(before.web?.identity);
  expect(await web.exec("cat /home/marker")).toBe(`${before.web?.marker}\n`);
});

test("Ctrl-C in the middle of an up leaves a stack that the next up finishes", async () => {
  await useImage("v1");
  const abort = new AbortController();
  const broken = await stack.up({
    signal: abort.signal,
    onEvent: (event) => {
      const step = event.resourcePreEvent?.metadata;
      if (step?.op === "update" && step.urn.endsWith("::db-guest")) {
        abort.abort();
      }
    },
  });
  expect(broken.error).not.toBe("");
  expect((await (await stack.vm("web")).status()).imageVersion).toBe("v2");
  const up = await stack.up();
  expect(up.error).toBe("");
  for (const [name, vm] of await stack.vms()) {
    expect(await vm.status()).toMatchObject({ healthy: true, imageVersion: "v1" });
    expect(await vm.identity()).toEqual(before[name]?.identity);
    expect(await vm.exec("cat /var/lib/marker")).toBe(`${before[name]?.marker}\n`);
  }
});

test("a persistent disk with a file system that we did not make is never formatted", async () => {
  const volume = path.join(poolDir(), "nixvm-live-odd-persist");
  const raw = path.join(stack.dir, "precious.raw");
  fs.writeFileSync(raw, "");
  fs.truncateSync(raw, 128 << 20);
  execFileSync("mke2fs", ["-q", "-t", "ext4", "-L", "precious", raw]);
  execFileSync("qemu-img", ["convert", "-O", "qcow2", raw, volume]);
  virsh("pool-refresh", "nixvm-live");
  config.fleet.odd = { network: { mode: "user", sshPort: 23203 }, persist: { size: "128MiB" } };
  await stack.configure(config);
  const up = await stack.up();
  expect(up.error).not.toBe("");
  expect(up.text).toMatch(/odd: .*not healthy.*precious/);
  virsh("destroy", "nixvm-live-odd");
  execFileSync("qemu-img", ["convert", "-O", "raw", volume, `${raw}.after`]);
  expect(sha256(`${raw}.after`)).toBe(sha256(raw));
});

test("destroy is refused while data is protected, and says how to do it on purpose (T-53)", async () => {
  const refused = stack.destroyByHand();
  expect(refused.code).not.toBe(0);
  expect(refused.text).toMatch(/cannot be deleted[^]*because it is protected[^]*`protect`/);
  expect((await (await stack.vm("db")).status()).healthy).toBe(true);
});
