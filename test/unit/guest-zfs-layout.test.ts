// The install side: `zfs layout single-disk` and `zfs prepare`.
import { symlinkSync, truncateSync } from "node:fs";
import { MIB } from "./guest-sandbox";
import { CREATE, DATASETS, GUID, ZfsSandbox } from "./guest-zfs-support";

let box: ZfsSandbox;
beforeEach(() => (box = new ZfsSandbox()));
afterEach(() => box.done());

describe("layout single-disk", () => {
  const efi = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
  const zfs = "6A898CC3-1DD2-11B2-99A6-080020736631";
  const linux = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";
  let vda: string;
  const lay = (env: NodeJS.ProcessEnv = {}) =>
    box.guest("zfs", "layout", "single-disk", vda, { NIXVM_TARGET: box.path("mnt"), ...env });
  interface Table {
    label: string;
    lastlba: number;
    partitions: { start: number; size: number; type: string }[];
  }
  const table = () => (JSON.parse(box.tool("sfdisk", "-J", vda)) as { partitiontable: Table }).partitiontable;
  const nodes = () => [box.digest(vda), box.digest(box.path("dev/vda1")), box.digest(box.path("dev/vda2"))];
  // The kernel makes a node for each partition; here files of their size stand for them.
  const kernel = () =>
    table().partitions.forEach((part, i) => {
      box.write(`dev/vda${i + 1}`, "");
      truncateSync(box.path(`dev/vda${i + 1}`), part.size * 512);
    });
  const partition = (...types: string[]) => {
    const lines = types.map((type, i) => `${i === types.length - 1 ? "" : "size=1GiB, "}type=${type}`);
    box.tool("sh", "-c", `printf '%s\\n' 'label: gpt' '${lines.join("' '")}' | sfdisk -q '${vda}'`);
    kernel();
  };
  const SINGLE = CREATE.replace("/dev/nixvm-pool", "/dev/vda2");

  beforeEach(() => {
    vda = box.disk("vda", "", 1280);
    box.write(
      "bin/sfdisk",
      `#!/bin/sh
PATH=$REAL_PATH sfdisk "$@" || exit
PATH=$REAL_PATH sfdisk -d "$SANDBOX/dev/vda" | sed -n 's/.*vda\\([0-9]\\) : .*size= *\\([0-9]*\\),.*/\\1 \\2/p' | while read -r n size; do
  [ -e "$SANDBOX/dev/vda$n" ] || truncate -s $((size * 512)) "$SANDBOX/dev/vda$n"
done
`,
    );
    box.tool("chmod", "755", box.path("bin/sfdisk"));
  });

  test("makes an EFI partition of 1 GiB and one for the pool in all the rest (Z-10 to Z-13, Q-9)", () => {
    expect(lay()).toMatchObject({ code: 0 });
    const { label, partitions, lastlba } = table();
    expect(label).toBe("gpt");
    expect(partitions.map((part) => part.type)).toEqual([efi, zfs]);
    expect(partitions[0]!.size * 512).toBe(1024 * MIB);
    const end = partitions[1]!.start + partitions[1]!.size - 1;
    // the last sector that a GPT leaves for partitions, rounded down to a whole MiB
    expect(end).toBeGreaterThan(lastlba - 2048);
    const probe = box.tool("blkid", "-p", "-o", "export", box.path("dev/vda1"));
    expect(probe).toMatch(/^TYPE=vfat$/m);
    expect(probe).toMatch(/^LABEL=EFI$/m);
  });

  test("makes the pool on partition 2 and mounts everything, /boot before the EFI partition (Z-15, Z-34, Z-36, Z-37)", () => {
    lay();
    expect(box.changes()).toEqual([
      SINGLE,
      ...DATASETS,
      "zpool export rpool",
      `zpool import -N -f -d /dev ${GUID}`,
      "mount -t zfs rpool/local/root /mnt",
      "mount -t zfs rpool/local/boot /mnt/boot",
      "mount -t zfs rpool/local/nix /mnt/nix",
      "mount -t zfs rpool/safe/home /mnt/home",
      "mount -t zfs rpool/safe/persist /mnt/persist",
      "mount -t vfat -o umask=0077 /dev/vda1 /mnt/boot/efi",
    ]);
  });

  test("run again it opens the pool and changes nothing (Z-27)", () => {
    lay();
    box.boot();
    box.remove("mnt");
    const before = nodes();
    expect(lay().code).toBe(0);
    expect(box.changes()[0]).toBe(`zpool import -N -f -d /dev ${GUID}`);
    expect(box.calls()).not.toMatch(/create|snapshot|export|rollback/);
    expect(nodes()).toEqual(before);
    box.write("calls", "");
    expect(lay().code).toBe(0);
    expect(box.changes()).toEqual([]);
  });

  test("takes a disk that a person has partitioned as the document says (Z-14)", () => {
    partition(efi, linux);
    expect(lay()).toMatchObject({ code: 0 });
    expect(box.changes()[0]).toBe(SINGLE);
    expect(box.tool("blkid", "-p", "-s", "LABEL", "-o", "value", box.path("dev/vda1")).trim()).toBe("EFI");
  });

  test("what was cut off is done again", () => {
    box.write("cut", "snapshot");
    lay();
    expect(box.has("mnt")).toBe(false);
    // and the EFI partition half formatted
    box.put(0, "x".repeat(200), box.path("dev/vda1"));
    box.put(510, Buffer.alloc(4096), box.path("dev/vda1"));
    box.boot();
    expect(lay()).toMatchObject({ code: 0 });
    expect(box.changes()[0]).toBe(SINGLE);
  });

  test("encryption changes the creation of the pool only (Z-21, Z-23)", () => {
    lay({ NIXVM_ZFS_ENCRYPTION: "on" });
    expect(box.changes()[0]).toMatch(/^zpool create -f .*-O encryption=aes-256-gcm .* rpool \/dev\/vda2$/);
    expect(box.changes().slice(1, 7)).toEqual(DATASETS);
  });

  describe("stops before anything is written (Z-14)", () => {
    test.each<[string, RegExp, () => void]>([
      ["swapped partitions", /swapped/, () => partition(zfs, efi)],
      ["swapped partitions, as cfdisk makes them", /swapped/, () => partition(linux, efi)],
      ["one partition", /exactly two partitions/, () => partition(efi)],
      ["three partitions", /exactly two partitions/, () => partition(efi, zfs, linux)],
      ["two EFI partitions", /exactly two partitions/, () => partition(efi, efi)],
      ["another role", /exactly two/, () => partition(efi, "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F")],
      [
        "ext4 where the pool goes",
        /vda2: it carries ext4/,
        () => (partition(efi, zfs), box.tool("mkfs.ext4", "-q", "-F", box.path("dev/vda2"))),
      ],
      [
        "a pool of another name",
        /vda2: it holds the pool 'tank'/,
        () => (partition(efi, zfs), box.havePool("tank", box.path("dev/vda2"))),
      ],
      [
        "ext4 where the EFI partition is",
        /vda1 carries ext4/,
        () => (partition(efi, zfs), box.tool("mkfs.ext4", "-q", "-F", box.path("dev/vda1"))),
      ],
      [
        "another system's EFI partition",
        /vda1 carries vfat labelled 'SYSTEM'/,
        () => (partition(efi, zfs), box.tool("mkfs.vfat", "-n", "SYSTEM", box.path("dev/vda1"))),
      ],
      [
        "unknown bytes where the EFI partition is",
        /vda1: no known signature, but/,
        () => (partition(efi, zfs), box.put(5000, "x", box.path("dev/vda1"))),
      ],
      [
        "our pool, but no EFI partition",
        /no EFI partition/,
        () => (partition(efi, zfs), box.havePool("rpool", box.path("dev/vda2"))),
      ],
    ])("%s", (_name, reason, prepare) => {
      prepare();
      const before = ["dev/vda", "dev/vda1", "dev/vda2"].map((name) => box.has(name) && box.digest(box.path(name)));
      const run = lay();
      expect(run.code).toBe(1);
      expect(run.log).toMatch(reason);
      expect(run.log).toMatch(/nothing was written/);
      expect(box.changes()).toEqual([]);
      expect(["dev/vda", "dev/vda1", "dev/vda2"].map((name) => box.has(name) && box.digest(box.path(name)))).toEqual(
        before,
      );
    });

    test.each<[string, RegExp, () => void]>([
      [
        "a disk with a file system",
        /exactly two|unrecognized|not contain/,
        () => box.tool("mkfs.ext4", "-q", "-F", vda),
      ],
      [
        "a disk with a DOS table",
        /exactly two/,
        () => box.tool("sh", "-c", `printf 'label: dos\\n,\\n' | sfdisk -q '${vda}'`),
      ],
      ["unknown bytes", /first MiB is not empty/, () => box.put(9000, "x", vda)],
      ["a disk that is too small", /at least/, () => truncateSync(vda, 512 * MIB)],
      ["a kernel without ZFS", /no ZFS: modprobe: not found/, () => box.write("fails", "modprobe zfs\nnot found\n")],
      ["no disk", /no disk/, () => box.remove("dev/vda")],
    ])("%s", (_name, reason, prepare) => {
      prepare();
      const before = box.has("dev/vda") && box.digest(vda);
      const run = lay();
      expect(run.code).toBe(1);
      expect(run.log).toMatch(reason);
      expect(box.changes()).toEqual([]);
      expect(box.has("dev/vda") && box.digest(vda)).toBe(before);
    });
  });
});

describe("prepare", () => {
  const files = ["configuration.nix", "hardware-configuration.nix"];
  const prepare = () => box.guest("zfs", "prepare", { NIXVM_TARGET: box.path("mnt") });
  beforeEach(() => {
    for (const file of files) box.write(`mnt/etc/nixos/${file}`, `{ } # ${file}\n`);
    box.write("mnt/persist/etc/ssh/ssh_host_ed25519_key", "key\n");
    box.write("mnt/persist/passwords/ada", "$y$hash\n");
  });

  test("saves the configuration on /persist (Z-60)", () => {
    expect(prepare().code).toBe(0);
    for (const file of files) expect(box.read(`mnt/persist/etc/${file}`)).toBe(`{ } # ${file}\n`);
  });

  test("knows the document's folder for passwords too", () => {
    box.remove("mnt/persist/passwords");
    box.write("mnt/persist/etc/nixos-secrets/passwords/ada", "$y$hash\n");
    expect(prepare().code).toBe(0);
  });

  test.each<[string, RegExp, () => void]>([
    ["the password file", /missing a password file/, () => box.remove("mnt/persist/passwords")],
    ["anything in the password file", /missing a password file/, () => box.write("mnt/persist/passwords/ada", "")],
    ["the host key", /the host key .*ssh_host_ed25519_key/, () => box.remove("mnt/persist/etc/ssh")],
    [
      "a host key that a link leads to",
      /the host key/,
      () => {
        box.remove("mnt/persist/etc/ssh/ssh_host_ed25519_key");
        symlinkSync("/nowhere", box.path("mnt/persist/etc/ssh/ssh_host_ed25519_key"));
      },
    ],
  ])("refuses the rollback without %s, so that nobody is locked out (Z-61)", (_name, reason, prepareTree) => {
    prepareTree();
    const run = prepare();
    expect(run.code).toBe(1);
    expect(run.log).toMatch(reason);
    for (const file of files) expect(box.has(`mnt/persist/etc/${file}`)).toBe(true);
  });

  test("says so when there is no /persist", () => {
    box.remove("mnt/persist");
    expect(prepare()).toMatchObject({ code: 1, log: expect.stringMatching(/there is no .*\/persist/) });
  });
});
