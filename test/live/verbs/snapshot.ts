import { execFileSync } from "node:child_process";
import { StackFile } from "../../../cli/stackFile";
import type { FleetVm } from "../../../cli/fleet";
import type { CliProject } from "../../helpers/cliProject";

/** A UEFI variable of a vendor that no firmware knows. */
const VARIABLE = "/sys/firmware/efi/efivars/NixvmTest-5f1c1a3e-9d1b-4d7e-8a55-6e69787676d1";
const IDENTITY = "cat /etc/machine-id /var/lib/identity/ssh_host_ed25519_key.pub; hostname";

/** Snapshots of `web`, while it runs, and a clone of it that is gone at the end. */
export function snapshotSteps(fleet: () => CliProject): void {
  const web = (script: string): Promise<string> => fleet().inGuest("web", script);
  const write = (data: string): Promise<string> =>
    web(
      `echo ${data} > /var/marker; chattr -i ${VARIABLE} 2>/dev/null; printf '\\007\\000\\000\\000%s' ${data} | dd of=${VARIABLE} bs=64 2>/dev/null; sync`,
    );
  const read = async (): Promise<string[]> =>
    (await web(`cat /var/marker; cat ${VARIABLE} | tail -c +5`)).trim().split("\n");
  const facts = async (name: string): Promise<FleetVm> => (await fleet().vms()).find((vm) => vm.name === name)!;
  const inside = (file: string): string =>
    execFileSync("qemu-img", ["snapshot", "-U", "-l", file], { encoding: "utf8" });

  test("snapshot: data and UEFI variables of a running VM are kept, its root is not, and nothing is left to do (T-17, T-63, T-64, T-65, T-66, T-69)", async () => {
    await write("old1");
    const taken = await fleet().answer("snapshot", "web", "before-change");
    expect(taken).toMatchObject({ vm: "web", name: "before-change", by: "hand", uefi: true, how: "frozen" });
    const vm = await facts("web");
    expect(inside(vm.persistPath!)).toMatch(/ before-change /);
    expect(inside(vm.overlayPath)).toBe("");
    await write("new2");
    expect(await read()).toEqual(["new2", "new2"]);
    expect(await fleet().answer("snapshots", "web")).toMatchObject([{ name: "before-change", image: vm.imageDigest }]);
    expect(await fleet().pending()).toBe("");
    expect((await fleet().nixvm("snapshot", "web", "before-change")).code).toBe(2);
  });

  test("restore-snapshot: the old content and the old UEFI variable are back, what was there is kept, and nothing is left to do (T-64, T-65, T-67, T-69)", async () => {
    expect((await fleet().nixvm("restore-snapshot", "web", "before-change")).code).toBe(2);
    const { kept } = await fleet().answer("restore-snapshot", "web", "before-change", "--yes");
    expect(await read()).toEqual(["old1", "old1"]);
    expect(await fleet().answer("snapshots", "web")).toMatchObject([
      { name: "before-change" },
      { name: kept, uefi: true },
    ]);
    for (const name of ["before-change", kept]) await fleet().answer("delete-snapshot", "web", name, "--yes");
    expect(await fleet().answer("snapshots", "web")).toEqual([]);
    expect(inside((await facts("web")).persistPath!)).toBe("");
    expect(await fleet().pending()).toBe("");
  });

  test("clone: the new VM has the data and an identity of its own, and its source runs on untouched", async () => {
    const [identity, boot] = [await web(IDENTITY), await web("cat /proc/sys/kernel/random/boot_id")];
    expect(await fleet().answer("clone", "web", "copy")).toEqual({ vm: "copy", source: "web", running: true });
    const other = (await fleet().inGuest("copy", IDENTITY)).trim().split("\n");
    expect(
      identity
        .trim()
        .split("\n")
        .filter((line) => other.includes(line)),
    ).toEqual([]);
    expect(other.at(-1)).toBe("copy");
    expect((await fleet().inGuest("copy", "cat /var/marker")).trim()).toBe("old1");
    expect([await web(IDENTITY), await web("cat /proc/sys/kernel/random/boot_id")]).toEqual([identity, boot]);
    expect(await fleet().answer("snapshots", "web")).toEqual([]);
    expect(await fleet().pending()).toBe("");

    const file = StackFile.open(fleet().stackFile);
    file.set(["nixvm:fleet", "copy", "persist"], { protect: false, retain: false });
    file.save();
    await fleet().up();
    file.delete(["nixvm:fleet", "copy"]);
    file.save();
    await fleet().up();
    await web(`rm /var/marker; chattr -i ${VARIABLE}; rm ${VARIABLE}`);
  });
}
