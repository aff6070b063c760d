import { execFileSync } from "node:child_process";
import { createHash, randomBytes, randomUUID } from "node:crypto";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { StackFile } from "../../../cli/stackFile";
import type { CliProject } from "../../helpers/cliProject";
import { newKey, ssh } from "../../helpers/guest";
import { virsh } from "../../helpers/liveStack";

const MIB = 2 ** 20;
const HASH = `$6$${randomBytes(6).toString("hex")}$${randomBytes(40).toString("hex")}`;

/** A machine of nixos-vm-template, as it lies on its host. */
interface Machine {
  folder: string;
  uuid: string;
  machineId: string;
  /** Private key of its admin. */
  key: string;
  /** Public SSH host key, without a comment. */
  hostKey: string;
}

function makeMachine(top: string): Machine {
  const folder = path.join(top, "machines", "moved");
  fs.mkdirSync(folder, { recursive: true });
  const { file: key, publicKey } = newKey(top, "admin-of-moved");
  const [uuid, machineId] = [randomUUID(), randomBytes(16).toString("hex")];
  const files = {
    ...{ profile: "core\n", memory: "512\n", vcpus: "1\n", disk_size: "1\n", network: "nat\n", hostname: "old-name\n" },
    ...{ uuid: `${uuid}\n`, "machine-id": `${machineId}\n`, "mac-address": "52:54:00:5e:11:01\n" },
    ...{ admin_authorized_keys: `# admin\n${publicKey}\n`, user_authorized_keys: "# nobody\n" },
    ...{ tcp_ports: "# open\n22\n8080\n", udp_ports: "# none\n", "resolv.conf": "nameserver 9.9.9.9\n" },
    ...{ hosts: "# none\n", root_password_hash: `${HASH}\n`, allowed_cidrs: "10.0.0.0/8\n" },
  };
  for (const [name, content] of Object.entries(files))
    fs.writeFileSync(path.join(folder, name), content, { mode: 0o600 });

  const data = path.join(top, "data");
  for (const part of ["identity", "home/admin", "home/user", "lib/app"]) {
    fs.mkdirSync(path.join(data, part), { recursive: true });
  }
  const { publicKey: hostKey, file } = newKey(top, "host");
  fs.renameSync(file, path.join(data, "identity", "ssh_host_ed25519_key"));
  fs.renameSync(`${file}.pub`, path.join(data, "identity", "ssh_host_ed25519_key.pub"));
  fs.writeFileSync(path.join(data, "home/admin/marker"), "of the admin\n");
  fs.writeFileSync(path.join(data, "lib/app/marker"), "of the app\n");
  const fsFile = path.join(top, "fs.raw");
  const raw = path.join(top, "disk.raw");
  fs.writeFileSync(fsFile, "");
  fs.truncateSync(fsFile, 600 * MIB);
  execFileSync("mke2fs", ["-q", "-F", "-t", "ext4", "-d", data, fsFile]);
  // Numbers of accounts there are not those that a guest of ours would give.
  for (const [name, uid] of [
    ["/home/admin", 1001],
    ["/home/admin/marker", 1001],
    ["/home/user", 1000],
  ] as const) {
    for (const change of [`uid ${uid}`, "gid 100"]) {
      execFileSync("debugfs", ["-w", "-R", `set_inode_field ${name} ${change}`, fsFile], { stdio: "ignore" });
    }
  }
  fs.writeFileSync(raw, "");
  fs.truncateSync(raw, 1024 * MIB);
  execFileSync("sfdisk", ["-q", raw], {
    input: `label: gpt\nstart=2048,size=${600 * 2048}\n`,
    stdio: ["pipe", "ignore", "ignore"],
  });
  execFileSync("dd", [`if=${fsFile}`, `of=${raw}`, "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"]);
  execFileSync("qemu-img", ["convert", "-O", "qcow2", raw, path.join(folder, "var.qcow2")]);
  fs.rmSync(raw);
  fs.rmSync(fsFile);
  return { folder, uuid, machineId, key, hostKey: hostKey.split(" ").slice(0, 2).join(" ") };
}

const sums = (folder: string): Record<string, string> =>
  Object.fromEntries(
    fs.readdirSync(folder).map((name) => {
      const content = fs.readFileSync(path.join(folder, name));
      return [name, createHash("sha256").update(content).digest("hex")];
    }),
  );

/** `nixvm import`: a machine made as nixos-vm-template makes it, taken over and booted. */
export function importSteps(fleet: () => CliProject): void {
  describe("import", () => {
    let top = "";
    let machine: Machine;
    let before: Record<string, string>;

    beforeAll(() => {
      top = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm-import-"));
      machine = makeMachine(top);
      before = sums(machine.folder);
    });

    afterAll(async () => {
      await removeVm(fleet());
      fs.rmSync(top, { recursive: true, force: true });
    });

    test("import: what cannot go well is refused, and nothing is written (T-88)", async () => {
      const stack = fs.readFileSync(fleet().stackFile, "utf8");
      const web = (await fleet().vms()).find(({ name }) => name === "web");
      const copy = path.join(top, "taken");
      fs.cpSync(machine.folder, copy, { recursive: true });
      fs.writeFileSync(path.join(copy, "uuid"), web?.uuid ?? "");
      const taken = await fleet().nixvm("import", copy, "--yes");
      expect([taken.code, taken.stderr]).toEqual([3, expect.stringContaining("--new-identity")]);
      fs.writeFileSync(path.join(copy, "tcp_ports"), "ssh\n");
      const wrong = await fleet().nixvm("import", copy, "--yes");
      expect([wrong.code, wrong.stderr]).toEqual([2, expect.stringContaining('tcp_ports: "ssh" is not a port')]);
      expect(fs.readFileSync(fleet().stackFile, "utf8")).toBe(stack);
    });

    test("import: the VM boots with its data, identity and keys, and the original is as it was (T-88, T-95, T-98, T-99, T-100, T-104)", async () => {
      const answer = await fleet().answer("import", machine.folder, "--yes");
      expect(answer).toMatchObject({ name: "moved", imported: true, sshHostKey: machine.hostKey });
      expect(answer.left.map(({ file }: { file: string }) => file)).toEqual(["allowed_cidrs", "network", "profile"]);
      expect(JSON.stringify(answer)).not.toContain(HASH);
      expect(sums(machine.folder)).toEqual(before);

      const vm = (await fleet().vms()).find(({ name }) => name === "moved");
      expect(vm).toMatchObject({ uuid: machine.uuid, machineId: machine.machineId, sshHostKey: machine.hostKey });
      const seen = await fleet().inGuest(
        "moved",
        "cat /etc/machine-id /etc/hostname /var/lib/app/marker /home/admin/marker; stat -c %U /home/admin /home/admin/marker /home/user; " +
          "grep ^nameserver /etc/resolv.conf; nft list ruleset | grep -c 'tcp dport 8080 accept'; cut -d: -f1,2 /etc/shadow | grep ^root:",
      );
      expect(seen.split("\n")).toEqual([
        ...[machine.machineId, "old-name", "of the app", "of the admin", "admin", "admin", "user"],
        ...["nameserver 9.9.9.9", "1", `root:${HASH}`, ""],
      ]);
      const known = path.join(top, "known_hosts");
      fs.writeFileSync(known, `[127.0.0.1]:${vm?.sshPort} ${machine.hostKey}\n`);
      const strict = ["StrictHostKeyChecking=yes", `UserKnownHostsFile=${known}`];
      const said = ssh(vm?.sshPort ?? 0, "admin", machine.key, "cat marker", strict);
      expect([said.code, said.out]).toEqual([0, "of the admin\n"]);

      const text = fs.readFileSync(fleet().stackFile, "utf8");
      expect(text).not.toContain(HASH);
      expect(StackFile.open(fleet().stackFile).get(["nixvm:fleet", "moved", "rootPasswordHash"])).toEqual({
        secure: expect.stringMatching(/^v1:/) as string,
      });
      expect(await fleet().pending()).toBe("");
      expect(fs.existsSync(path.join(fleet().dir, ".nixvm", "import", "verbs-moved"))).toBe(false);
    });

    test("import: exported again, the machine is the one that was imported (T-25, T-88)", async () => {
      const folder = path.join(top, "exported");
      await fleet().answer("export", "machine", "moved", folder);
      for (const file of ["uuid", "machine-id", "mac-address", "hostname", "memory", "vcpus", "root_password_hash"]) {
        const read = (from: string): string => fs.readFileSync(path.join(from, file), "utf8");
        expect([file, read(folder)]).toEqual([file, read(machine.folder)]);
      }
      expect(fs.readFileSync(path.join(folder, "tcp_ports"), "utf8")).toMatch(/^# .*\n22\n8080\n$/);
      expect(fs.statSync(path.join(folder, "root_password_hash")).mode & 0o777).toBe(0o600);
      expect((await fleet().nixvm("export", "machine", "moved", folder)).code).toBe(2);
    });

    test("import: a second time it is refused, and the VM stays (T-88)", async () => {
      const said = await fleet().nixvm("import", machine.folder, "--yes");
      expect([said.code, said.stderr]).toEqual([2, expect.stringContaining("is a VM of this stack already")]);
      expect((await fleet().vms()).map(({ name }) => name)).toContain("moved");
    });
  });
}

/** The others stay as they are. */
async function removeVm(project: CliProject): Promise<void> {
  const file = StackFile.open(project.stackFile);
  const where = ["nixvm:fleet", "moved"];
  if (!file.has(where)) return;
  const path = (await project.vms()).find(({ name }) => name === "moved")?.persistPath;
  const urns = JSON.parse((await project.pulumi("stack", "export")).stdout) as {
    deployment: { resources: { urn: string; protect?: boolean }[] };
  };
  for (const { urn } of urns.deployment.resources.filter(
    (one) => one.protect && one.urn.endsWith("::moved-persist-volume"),
  )) {
    await project.pulumi("state", "unprotect", urn, "--yes");
  }
  file.delete(where);
  file.save();
  await project.up();
  if (path !== undefined) virsh("vol-delete", path);
}
