import * as fs from "node:fs";
import * as path from "node:path";
import { Virsh } from "../../../provider/virsh";
import type { CliProject } from "../../helpers/cliProject";

/** `nixvm status`, `graph` and `metrics` on two running VMs. */
export function viewSteps(fleet: () => CliProject): void {
  test("view: the status of all VMs has what libvirt and the guests say (T-57, G-13, G-14)", async () => {
    const row = {
      host: "local",
      state: "running",
      health: { state: "healthy", healthy: true, reasons: [] },
      image: { version: "v1", ageSeconds: expect.any(Number) },
      drift: [],
      disk: { mount: "/var", sizeBytes: expect.any(Number), usedBytes: expect.any(Number) },
      memory: { bytes: 512 * 2 ** 20, usedBytes: expect.any(Number) },
      uptimeSeconds: expect.any(Number),
      ip: "10.0.2.15",
      rebootRequired: false,
    };
    expect(await fleet().answer("status")).toMatchObject([
      { ...row, name: "db", address: "127.0.0.1:23401" },
      { ...row, name: "web", address: "127.0.0.1:23402" },
    ]);
  });

  test("view: one VM is shown in detail, with its IP address and whether it has to restart (T-57, V-36)", async () => {
    const { stdout } = await fleet().nixvm("status", "web");
    expect(stdout).toMatch(/^IP address +10\.0\.2\.15$/m);
    expect(stdout).toMatch(/^reboot required +no$/m);
    expect(stdout).toMatch(/^snapshots +\d+$/m);
  });

  test("view: memory that was changed behind its back is drift, until it is put right", async () => {
    const vm = (await fleet().vms()).find(({ name }) => name === "web");
    if (!vm) throw new Error("no VM web");
    const libvirt = new Virsh(vm.uri);
    const drift = async (): Promise<unknown> => (await fleet().answer("status", "web")).drift;
    try {
      await libvirt.setMemory(vm.uuid, 640);
      for (let left = 20; left > 0 && (await libvirt.memory(vm.uuid)) !== 640; left--) await pause();
      expect(await drift()).toEqual([{ kind: "memory", text: "has 640 MiB of memory, declared 512" }]);
    } finally {
      await libvirt.setMemory(vm.uuid, 512);
    }
    for (let left = 20; left > 0 && (await libvirt.memory(vm.uuid)) !== 512; left--) await pause();
    expect(await drift()).toEqual([]);
  });

  test("view: the page has the layers of both VMs, the base image once, and what is pending", async () => {
    const file = path.join(fleet().dir, "the graph.html");
    const before = fs.readFileSync(fleet().stackFile, "utf8");
    fs.writeFileSync(fleet().stackFile, before.replace("reference-v1.qcow2", "reference-v2.qcow2"));
    try {
      const said = await fleet().answer("graph", "-o", file);
      expect(said.bases).toMatchObject([{ version: "v1", usedBytes: expect.any(Number) }]);
      expect(said.vms).toMatchObject([
        { row: { name: "db" }, base: said.bases[0].path, overlay: { usedBytes: expect.any(Number) } },
        { row: { name: "web" }, persist: { diskBytes: 2 ** 30 }, seed: { usedBytes: expect.any(Number) } },
      ]);
      expect(said.pending).toMatchObject({
        waves: [
          { kind: "canary", vms: ["db"] },
          { kind: "batch", vms: ["web"] },
        ],
      });
      expect(fs.readFileSync(file, "utf8")).toContain("shared by 2 VMs");
    } finally {
      fs.writeFileSync(fleet().stackFile, before);
    }
  });

  test("view: metrics go into a file, all at once", async () => {
    const file = path.join(fleet().dir, "nixvm.prom");
    expect((await fleet().nixvm("metrics", "--textfile", file)).stdout).toBe("");
    const text = fs.readFileSync(file, "utf8");
    expect(text).toMatch(/^nixvm_vm_up\{vm="db",group="",host="local",stack="verbs"\} 1$/m);
    expect(text).toMatch(/^nixvm_rollout_pending_vms\{kind="image",stack="verbs"\} 0$/m);
    expect(text).toMatch(/^nixvm_scrape_error\{host="local",stack="verbs"\} 0$/m);
  });

  test("view: watching as JSON ends with code 0 when it is interrupted (G-14)", async () => {
    const cli = path.join(fleet().dir, "bin", "cli", "nixvm.js");
    const child = fleet().spawn("node", [cli, "status", "--watch", "1", "--json"]);
    let lines: string[] = [];
    child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      lines = [...lines, ...text.split("\n").filter((line) => line !== "")];
      if (lines.length === 2) child.kill("SIGINT");
    });
    const code = await new Promise((resolve) => child.on("close", resolve));
    expect(code).toBe(0);
    expect(lines.map((line) => JSON.parse(line).length)).toEqual([2, 2]);
  });
}

const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 500));
