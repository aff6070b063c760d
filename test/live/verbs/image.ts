import * as fs from "node:fs";
import * as path from "node:path";
import { parse } from "yaml";
import type { CliProject } from "../../helpers/cliProject";

/** Looks only: nothing is booted, and what is removed is a volume that these steps have made. */
export function imageSteps(fleet: () => CliProject): void {
  test("image list: the base of both VMs is on the host, in use, and not to be pruned (G-14)", async () => {
    const { images, silentHosts } = await fleet().answer("image", "list");
    expect(silentHosts).toEqual([]);
    const [used] = images.filter(({ names }: { names: string[] }) => names.includes("reference"));
    expect(used).toMatchObject({
      version: "v1",
      status: "declared",
      usedBy: ["db", "web"],
      hosts: [{ host: "local" }],
    });
    expect(used.hosts[0].bytes).toBeGreaterThan(2 ** 20);
    const { bases, kept } = await fleet().answer("image", "prune", "--dry-run");
    expect(bases).toEqual([]);
    expect(kept).toEqual([
      { base: expect.objectContaining({ digest: used.digest }), why: expect.stringMatching(/^used by/) },
    ]);
  });

  test("image prune takes a base that nothing knows, asks before, and leaves that of another stack", async () => {
    const [vm] = await fleet().vms();
    const { uri, overlayPath } = vm!;
    const pool = path.basename(path.dirname(overlayPath));
    const volume = (prefix: string): string => `${prefix}-base-0123456789ab.raw`;
    const [ours, theirs] = [volume(`nixvm-${fleet().stack}`), volume(`nixvm-${fleet().stack}-2`)];
    const virsh = (...args: string[]) => fleet().run("virsh", ["-q", "-c", uri, ...args]);
    for (const name of [ours, theirs]) await virsh("vol-create-as", pool, name, "1M", "--format", "raw");
    try {
      const asked = await fleet().nixvm("image", "prune");
      expect([asked.code, asked.stderr]).toEqual([2, expect.stringContaining("give --yes")]);
      const { removed } = await fleet().answer("image", "prune", "--yes");
      expect(removed).toEqual([expect.stringContaining(ours)]);
      const left = (await virsh("vol-list", pool)).stdout;
      expect([left.includes(ours), left.includes(theirs)]).toEqual([false, true]);
    } finally {
      for (const name of [ours, theirs]) await virsh("vol-delete", "--pool", pool, name);
    }
  });

  test("doctor finds nothing that is in the way of a fleet that runs (T-19)", async () => {
    const said = await fleet().nixvm("doctor", "--json");
    const { healthy, findings } = JSON.parse(said.stdout);
    expect(findings.filter(({ level }: { level: string }) => level === "fail")).toEqual([]);
    expect([said.code, healthy]).toEqual([0, true]);
    const names = findings.map(({ name }: { name: string }) => name);
    expect(names).toEqual(
      expect.arrayContaining(["host.local.pool", "vm.db.clock", "vm.web.clock", "preflight", "lock"]),
    );
  });

  test("plan says that nothing changes, then what an edit of the stack file will do, as the preview after it", async () => {
    expect(await fleet().answer("plan")).toMatchObject({ waves: [], removed: [], counts: { none: 2, restart: 0 } });
    const before = fs.readFileSync(fleet().stackFile, "utf8");
    try {
      const file = parse(before);
      file.config["nixvm:fleet"].web.memory = 640;
      file.config["nixvm:fleet"].db.dns = ["192.0.2.1"];
      file.config["nixvm:fleet"].more = { network: { mode: "user", sshPort: 23499 } };
      fs.writeFileSync(fleet().stackFile, JSON.stringify(file));
      const { waves } = await fleet().answer("plan");
      const vms = waves.flatMap((wave: any) =>
        wave.vms.map(({ name, action, reasons }: any) => [name, action, ...reasons]),
      );
      expect(vms.sort()).toEqual([
        ["db", "live", "applies a new seed live, no restart"],
        ["more", "new"],
        ["web", "live", "the memory changes from 512 MiB to 640 MiB live, no restart"],
      ]);
    } finally {
      fs.writeFileSync(fleet().stackFile, before);
    }
    const wrong = await fleet().nixvm("plan", "--stack", "nope");
    expect(wrong.code).not.toBe(0);
  });

  test("image diff tells the packages of two builds apart, and names a file that is missing", async () => {
    const image = path.join(fleet().dir, "other image.qcow2");
    expect((await fleet().nixvm("image", "diff", "reference", image)).code).toBe(2);
    fs.writeFileSync(image, "");
    expect((await fleet().nixvm("image", "diff", image, "reference")).code).toBe(3);
    const list = {
      schema: 1,
      kind: "dpkg",
      packages: [
        ["adduser", "1"],
        ["none-such", "2"],
      ],
    };
    fs.writeFileSync(path.join(fleet().dir, "other image.packages.json"), JSON.stringify(list));
    const diff = await fleet().answer("image", "diff", image, "reference");
    expect(diff.removed).toEqual([{ name: "none-such", versions: ["2"] }]);
    expect(diff.changed).toEqual([expect.objectContaining({ name: "adduser", from: ["1"] })]);
    expect(diff.added.length).toBeGreaterThan(50);
  });
}
