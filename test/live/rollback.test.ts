import { execFileSync } from "node:child_process";
import * as path from "node:path";
import type { LiveVm } from "../../cli/guests";
import type { StatusRecord } from "../../provider/status";
import { newKey, reboot } from "../helpers/guest";
import { IMAGES, LiveStack, ROOT } from "../helpers/liveStack";

// A root on ZFS that each boot puts back to its empty snapshot, on a real guest. Each test goes on from where the one before it left it.
// The image with ZFS is compiled the first time, which takes some minutes.
jest.setTimeout(25 * 60_000);

let stack: LiveStack;
let config: Record<string, any>;
let z: LiveVm;
let first: StatusRecord;

const present = async (paths: readonly string[]): Promise<string[]> =>
  (await z.exec(`for f in ${paths.join(" ")}; do if [ -e $f ]; then echo $f; fi; done`)).split("\n").filter(Boolean);
const plant = (paths: readonly string[]): Promise<string> =>
  z.exec(`set -e; for f in ${paths.join(" ")}; do mkdir -p $(dirname $f); echo marker > $f; done; sync`);

beforeAll(async () => {
  execFileSync(path.join(ROOT, "images/build"), ["zfs1", "zfs2"], { stdio: "ignore" });
  stack = await LiveStack.make("rollback");
  config = {
    images: { zfs: { path: path.join(IMAGES, "reference-zfs1.qcow2") } },
    rollout: { gateTimeout: "10m", stopTimeout: "2m" },
    defaults: {
      image: "zfs",
      preset: "rollback",
      memory: "768MiB",
      vcpus: 1,
      persist: { size: "1GiB" },
      adminKeys: [newKey(stack.dir, "key").publicKey],
    },
    fleet: { rollback: { network: { mode: "user", sshPort: 23301 } } },
  };
  await stack.configure(config);
});

afterAll(() => stack.remove(config));

test("one up makes the pool on the blank volume, and the guest is healthy on it", async () => {
  const up = await stack.up();
  expect(up.error).toBe("");
  z = await stack.vm("rollback");
  first = await z.status();
  expect(first).toMatchObject({ healthy: true, rootMode: "zfs-rollback", rollback: { state: "done" } });
  expect((await stack.preview({ expectNoChanges: true })).error).toBe("");
});

const GONE =
  "/etc/rollback-canary /imperm_test/testfile /var/log/marker /var/lib/marker /root/marker /srv/marker".split(" ");
const KEPT =
  "/nix/marker /boot/marker /home/marker /persist/marker /home/admin/.config/sops/marker /home/admin/flake/marker".split(
    " ",
  );
test("the pool and its datasets are as the page wants them (Z-6, Z-15 to Z-20, Z-28 to Z-33, Z-37, Z-38, Z-50)", async () => {
  expect(await z.exec("zpool get -H -o property,value ashift,autotrim rpool")).toBe("ashift\t12\nautotrim\ton\n");
  const wanted = "acltype,xattr,dnodesize,relatime,canmount,mountpoint,normalization,encryption";
  expect(await z.exec(`zfs get -H -o value ${wanted} rpool | tr '\\n' ' '`)).toBe(
    "posix sa auto on off none none off ",
  );
  expect(await z.exec("zfs list -H -o name,canmount,mountpoint | grep -v '^rpool/[a-z]*\\s' | sort")).toMatch(
    /rpool\/local\/root\tnoauto\tlegacy/,
  );
  for (const [at, source] of [
    ["/", "rpool/local/root"],
    ["/nix", "rpool/local/nix"],
    ["/boot", "rpool/local/boot"],
    ["/home", "rpool/safe/home"],
    ["/persist", "rpool/safe/persist"],
  ])
    expect(await z.exec(`findmnt -n -o SOURCE,FSTYPE ${at}`)).toMatch(new RegExp(`^${source} +zfs`));
  expect(await z.exec("findmnt -n -o FSTYPE,OPTIONS /boot/efi")).toMatch(/^vfat .*fmask=0077,dmask=0077/);
  expect((await z.exec("hostid")).trim()).toMatch(/^[0-9a-f]{8}$/);
});

test("the host key is an Ed25519 key without a passphrase on the volume (Z-85)", async () => {
  const made = await z.exec("ssh-keygen -y -P '' -f /persist/etc/ssh/ssh_host_ed25519_key");
  expect(made).toMatch(/^ssh-ed25519 /);
  expect(made.split(" ").slice(0, 2).join(" ").trim()).toBe(first.sshHostKey);
  expect(await z.exec("sshd -T | grep -i '^hostkey '")).toBe("hostkey /persist/etc/ssh/ssh_host_ed25519_key\n");
});

test("markers are planted", async () => {
  await plant([...GONE, ...KEPT]);
  await z.exec("zfs snapshot rpool/local/root@later; zfs snapshot rpool/safe/persist@kept");
  expect(await present(GONE)).toEqual(GONE);
});

describe.each([1, 2])("after restart %i", (round) => {
  beforeAll(() => reboot(z));

  test("the rolled-back root is empty again, the other datasets are as they were (Z-39, Z-53, Z-54, Z-57, Z-58, Z-63 to Z-71, Z-88, Z-90)", async () => {
    expect(await z.status()).toMatchObject({
      healthy: true,
      rollback: { state: "done" },
      sshHostKey: first.sshHostKey,
    });
    expect(await present(["/imperm_test", ...GONE])).toEqual([]);
    expect(await present(KEPT)).toEqual(KEPT);
    expect(await z.exec("zfs list -H -o name -t snapshot | sort")).toBe(
      "rpool/local/root@blank\nrpool/safe/persist@kept\n",
    );
    expect(await z.exec("dmesg | grep -E 'nixvm-zfs|systemd\\[1\\]: systemd' | head -1")).toMatch(/nixvm-zfs/);
    if (round === 1) await plant(GONE);
  });
});

test("an upgrade keeps the pool's safe datasets, and the root comes from the new image (Z-42, Z-51, Z-88)", async () => {
  const hostId = await z.exec("hostid");
  config.images.zfs.path = path.join(IMAGES, "reference-zfs2.qcow2");
  await stack.configure(config);
  const up = await stack.up();
  expect(up.error).toBe("");
  expect(await z.status()).toMatchObject({
    healthy: true,
    imageVersion: "v2",
    sshHostKey: first.sshHostKey,
  });
  expect(await present(KEPT)).toEqual(KEPT);
  expect(await z.exec("hostid")).toBe(hostId);
});

test("without its empty snapshot the guest never starts on the old root: it is not healthy and says why (Z-62)", async () => {
  await plant(["/etc/rollback-canary"]);
  await z.exec("zfs destroy rpool/local/root@blank");
  const status = await reboot(z);
  expect(status).toMatchObject({ healthy: false, rollback: { state: "failed" } });
  expect(status.reasons.join()).toMatch(/@blank/);
  expect(await z.exec("findmnt -n -o FSTYPE /")).toBe("tmpfs\n");
  expect(await present(["/etc/rollback-canary"])).toEqual([]);
  expect(await present(["/persist/marker", "/home/marker"])).toEqual(["/persist/marker", "/home/marker"]);
});
