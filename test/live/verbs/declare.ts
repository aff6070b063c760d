import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { StackFile } from "../../../cli/stackFile";
import type { CliProject, Said } from "../../helpers/cliProject";
import { newKey } from "../../helpers/guest";
import { virsh } from "../../helpers/liveStack";

const BOOT_ID = "cat /proc/sys/kernel/random/boot_id";
const PASSWORD = "correct horse battery staple";

/** Verbs that change what is declared, on a third VM: the others stay as they are. */
export function declareSteps(fleet: () => CliProject): void {
  const extra = async () => {
    const vm = (await fleet().vms()).find(({ name }) => name === "extra");
    if (!vm) throw new Error("no VM extra");
    return vm;
  };
  let first: { uuid: string; machineId?: string };
  let others: { name: string; bootedAt?: string }[];
  const bystanders = async () =>
    (await fleet().vms()).filter(({ name }) => name !== "extra").map(({ name, bootedAt }) => ({ name, bootedAt }));

  test("declare: create makes a VM by its words in order, and its entry (T-32, T-125)", async () => {
    others = await bystanders();
    const made = await fleet().answer("create", "extra", "reference", "512", "1", "1G", "user");
    expect(made.entry).toEqual({
      image: "reference",
      memory: "512MiB",
      vcpus: 1,
      persist: { size: "1GiB" },
      network: "user",
    });
    first = await extra();
    expect(await fleet().inGuest("extra", "hostname")).toBe("extra\n");
    expect(await fleet().pending()).toBe("");
  });

  test("declare: memory and disk grow live, and a smaller disk is refused (T-44, T-62)", async () => {
    const boot = await fleet().inGuest("extra", BOOT_ID);
    const said = await fleet().answer("resize", "extra", "--memory", "640MiB", "--disk", "1536M");
    expect(said).toMatchObject({
      restart: false,
      changed: [expect.stringMatching(/640 MiB.* live/), expect.any(String)],
    });
    expect(await fleet().inGuest("extra", BOOT_ID)).toBe(boot);
    const blocks = Number(await fleet().inGuest("extra", "df -Pk /var | awk 'NR==2 {print $2}'"));
    expect(blocks).toBeGreaterThan(1.3 * 2 ** 20);
    const less = await fleet().nixvm("resize", "extra", "--disk", "1GiB");
    expect(less.code).toBe(2);
    expect(less.stderr).toMatch(/"1GiB" is smaller than the volume is now \(1536MiB\)/);
    expect(await fleet().pending()).toBe("");
  });

  test("declare: a key comes and goes live (T-96, T-108)", async () => {
    const boot = await fleet().inGuest("extra", BOOT_ID);
    const { publicKey } = newKey(fleet().dir, "guest");
    const blob = publicKey.split(" ")[1] ?? "";
    const keys = "cat /run/nixvm/ssh/*";
    await fleet().answer("keys", "extra", "add", publicKey, "--role", "admin");
    expect(await fleet().inGuest("extra", keys)).toContain(blob);
    await fleet().answer("keys", "extra", "remove", blob);
    expect(await fleet().inGuest("extra", keys)).not.toContain(blob);
    expect(await fleet().inGuest("extra", BOOT_ID)).toBe(boot);
  });

  test("declare: a password reaches the guest, and lies nowhere in clear (T-113, Z-77, T-25)", async () => {
    const said = await withInput(fleet(), ["passwd", "extra", "--json"], `${PASSWORD}\n`);
    expect(said).toMatchObject({ code: 0, stdout: expect.stringContaining('"password":"set"') });
    const hash = (await fleet().inGuest("extra", "awk -F: '$1 == \"root\" {print $2}' /etc/shadow")).trim();
    const perl = "chomp(my ($hash, $password) = <STDIN>); print crypt($password, $hash)";
    expect(hash).toMatch(/^\$y\$/);
    expect(spawnSync("perl", ["-e", perl], { input: `${hash}\n${PASSWORD}\n`, encoding: "utf8" }).stdout).toBe(hash);
    const state = fs.readFileSync(path.join(fleet().dir, "state", ".pulumi", "stacks", "nixvm", "verbs.json"), "utf8");
    for (const text of [fs.readFileSync(fleet().stackFile, "utf8"), state, said.stdout + said.stderr]) {
      expect(text).not.toContain(hash);
      expect(text).not.toContain(PASSWORD);
    }
    expect(await fleet().pending()).toBe("");
  });

  test("declare: destroy removes VM and disks, and create brings the same VM back (T-54, T-106)", async () => {
    const vm = await extra();
    await fleet().inGuest("extra", "touch /var/marker");
    const unsure = await fleet().nixvm("destroy", "extra");
    expect(unsure.code).toBe(2);
    expect(unsure.stderr).toContain("all data on its persistent volume");
    await fleet().answer("destroy", "extra", "--yes");
    expect(virsh("list", "--all", "--uuid")).not.toContain(vm.uuid);
    for (const disk of [vm.persistPath, vm.overlayPath, vm.seedPath]) expect(fs.existsSync(disk ?? "")).toBe(false);
    expect((await fleet().answer("list-machines")).map(({ name, state, made }: any) => [name, state, made])).toEqual([
      ["db", "present", true],
      ["extra", "absent", false],
      ["web", "present", true],
    ]);
    expect(await fleet().pending()).toBe("");
    const file = StackFile.open(fleet().stackFile);
    file.set(["nixvm:fleet", "extra", "identity"], { sshHostKey: "stack" });
    file.save();
    await fleet().answer("create", "extra");
    expect(await extra()).toMatchObject({ uuid: first.uuid, machineId: first.machineId });
    expect((await fleet().nixvm("create", "extra", "--memory", "1GiB")).code).toBe(2);
    expect(await fleet().inGuest("extra", "ls /var/marker 2>&1; true")).toContain("No such file");
  });

  test("declare: recreate empties the disks and keeps identity, image and mounts (T-14, T-50 to T-52, T-107)", async () => {
    const before = await extra();
    const facts = "cat /etc/os-release; findmnt -rno TARGET,FSTYPE,OPTIONS /; findmnt -rno TARGET,FSTYPE,OPTIONS /var";
    const system = await fleet().inGuest("extra", facts);
    await fleet().inGuest("extra", "touch /var/marker");
    await fleet().answer("recreate", "extra", "--yes");
    const after = await extra();
    const { uuid, machineId, sshHostKey, imageId } = before;
    expect(after).toMatchObject({ uuid, machineId, sshHostKey, imageId });
    expect(after.persistPath).not.toBe(before.persistPath);
    for (const disk of [before.persistPath, before.overlayPath]) expect(fs.existsSync(disk ?? "")).toBe(false);
    expect(await fleet().inGuest("extra", "ls /var/marker 2>&1; true")).toContain("No such file");
    expect(await fleet().inGuest("extra", facts)).toBe(system);
    expect(await fleet().pending()).toBe("");
  });

  test("declare: purge removes the entry too, and no other VM was touched (T-55, T-59)", async () => {
    const vm = await extra();
    await fleet().answer("purge", "extra", "--yes");
    expect(fs.existsSync(vm.persistPath ?? "")).toBe(false);
    expect(StackFile.open(fleet().stackFile).has(["nixvm:fleet", "extra"])).toBe(false);
    expect(await bystanders()).toEqual(others);
    expect(await fleet().pending()).toBe("");
  });
}

function withInput(project: CliProject, args: string[], input: string): Promise<Said> {
  const child = project.spawn("node", [path.resolve("bin", "cli", "nixvm.js"), ...args]);
  let stdout = "";
  let stderr = "";
  child.stdout?.on("data", (part: Buffer) => (stdout += part.toString()));
  child.stderr?.on("data", (part: Buffer) => (stderr += part.toString()));
  child.stdin?.end(input);
  return new Promise((resolve) => child.on("close", (code) => resolve({ code: code ?? 1, stdout, stderr })));
}
