import { execFileSync } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import * as path from "node:path";
import { CliProject } from "../../helpers/cliProject";
import { IMAGES, virsh } from "../../helpers/liveStack";

const run = (command: string, ...args: string[]): string => execFileSync(command, args, { encoding: "utf8" });

/** What a backup could leave in a domain or beside its volume. */
async function leftOf(project: CliProject, name: string): Promise<string[]> {
  const vm = (await project.vms()).find((one) => one.name === name);
  const volume = vm?.persistPath ?? "";
  const files = fs.readdirSync(path.dirname(volume)).filter((file) => /\.nixvm-(backup|restore|before)/.test(file));
  let job: string[] = [];
  try {
    job = [virsh("backup-dumpxml", vm?.uuid ?? "")];
  } catch {
    // There is none.
  }
  const frozen = virsh("qemu-agent-command", vm?.uuid ?? "", '{"execute":"guest-fsfreeze-status"}');
  return [...files, ...job, ...(frozen.includes("thawed") ? [] : [frozen]), virsh("domstate", vm?.uuid ?? "").trim()];
}

/** The data of an archive, mounted nowhere: as a raw file that e2fsprogs read. */
function dataOf(image: string, raw: string): string {
  run("qemu-img", "convert", "-O", "raw", image, raw);
  return raw;
}

/** `nixvm backup` and `restore-backup` on a running VM, and into another stack. */
export function backupSteps(fleet: () => CliProject): void {
  let archive = "";

  test("backup: of a running VM, with members that are whole and private (T-70 to T-74, T-78, T-79)", async () => {
    // Enough for the copy to take longer than it takes to break it off.
    await fleet().inGuest(
      "web",
      "echo kept > /var/lib/precious; dd if=/dev/urandom of=/var/lib/bulk bs=1M count=100; sync",
    );
    const made = await fleet().answer("backup", "web");
    archive = made.archive;
    expect(path.dirname(archive)).toBe(path.join(fleet().dir, "output", "backups"));
    expect(path.basename(archive)).toMatch(/^web-\d{8}-\d{6}\.tar\.zst$/);
    expect(made.quiesced).toBe("agent");
    expect(fs.statSync(archive).mode & 0o777).toBe(0o600);
    expect(fs.statSync(path.dirname(archive)).mode & 0o777).toBe(0o700);
    run("zstd", "-q", "-t", archive);
    const names = ["manifest.json", "var.qcow2", "boot.qcow2", "OVMF_VARS.qcow2", "checksums.json"];
    expect(run("tar", "--zstd", "-tf", archive).trim().split("\n")).toEqual(names);
    expect(await leftOf(fleet(), "web")).toEqual(["running"]);

    const out = fs.mkdtempSync(path.join(fleet().dir, "unpacked "));
    run("tar", "--zstd", "-xf", archive, "-C", out);
    expect(fs.statSync(path.join(out, "boot.qcow2")).size).toBeLessThan(2 ** 20);
    run("qemu-img", "check", path.join(out, "boot.qcow2"));
    const raw = dataOf(path.join(out, "var.qcow2"), path.join(out, "var.raw"));
    // A frozen file system is clean: nothing has to be repaired.
    run("e2fsck", "-f", "-n", raw);
    expect(run("debugfs", "-R", "cat /lib/precious", raw)).toBe("kept\n");
    fs.rmSync(out, { recursive: true });
  });

  test("backup: broken off by Ctrl-C in the midst of the copy, nothing is left in the VM (T-78)", async () => {
    const vm = (await fleet().vms()).find(({ name }) => name === "web");
    const folder = path.dirname(vm?.persistPath ?? "");
    const child = fleet().spawn("node", [
      path.join(__dirname, "..", "..", "..", "bin", "cli", "nixvm.js"),
      "backup",
      "web",
    ]);
    const ended = once(child, "close");
    while (child.exitCode === null && !fs.readdirSync(folder).some((name) => name.includes(".nixvm-backup-"))) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    child.kill("SIGINT");
    expect((await ended)[0]).toBe(130);
    expect(await leftOf(fleet(), "web")).toEqual(["running"]);
    expect(fs.readdirSync(path.dirname(archive))).toEqual([path.basename(archive)]);
  });

  test("restore-backup: what was lost is back, the system is the stack's, and a preview finds nothing to do (T-76)", async () => {
    await fleet().inGuest("web", "rm /var/lib/precious /var/lib/bulk; echo later > /var/lib/later; sync");
    const refused = await fleet().nixvm("restore-backup", "web", path.basename(archive));
    expect(refused.code).toBe(2);
    expect(refused.stderr).toMatch(/data of web written after .*--yes/);
    const overlay = (await fleet().vms()).find(({ name }) => name === "web")?.overlayPath;
    expect(await fleet().answer("restore-backup", "web", path.basename(archive), "--yes")).toMatchObject({
      running: true,
      firmware: true,
    });
    expect(await fleet().inGuest("web", "cat /var/lib/precious; ls /var/lib/later 2>&1 || true")).toMatch(
      /^kept\n.*No such file/,
    );
    expect((await fleet().vms()).find(({ name }) => name === "web")?.overlayPath).toBe(overlay);
    expect(await leftOf(fleet(), "web")).toEqual(["running"]);
    expect(await fleet().pending()).toBe("");
    await fleet().inGuest("web", "rm /var/lib/precious /var/lib/bulk");
  });

  test("restore-backup: into another stack, another pool and a larger volume (T-77)", async () => {
    const other = await CliProject.make("verbs-elsewhere", (dir) => ({
      hosts: { local: { pool: { path: path.join(dir, "another pool") } } },
      images: { reference: { path: path.join(IMAGES, "reference-v1.qcow2") } },
      defaults: { image: "reference", memory: 256, network: "user", persist: { size: "2GiB" }, running: false },
      fleet: { copy: { network: { mode: "user", sshPort: 23409 } } },
    }));
    try {
      await other.up();
      const said = await other.nixvm("restore-backup", "copy", archive, "--yes");
      expect(said).toMatchObject({ code: 0 });
      expect(said.stderr).toContain("gets data of another VM: web of the stack verbs");
      const volume = (await other.vms())[0]?.persistPath ?? "";
      expect(volume).toContain("another pool");
      expect(JSON.parse(run("qemu-img", "info", "--output=json", volume))["virtual-size"]).toBe(2 * 2 ** 30);
      expect(run("debugfs", "-R", "cat /lib/precious", dataOf(volume, path.join(other.dir, "raw")))).toBe("kept\n");
      expect(await other.pending()).toBe("");
    } finally {
      await other.remove();
      fs.rmSync(archive);
    }
  });
}
