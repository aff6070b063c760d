import type { CliProject } from "../../helpers/cliProject";

/** `nixvm list` on two running VMs. */
export function listSteps(fleet: () => CliProject): void {
  test("list: all VMs are shown with their states (T-56)", async () => {
    expect(await fleet().answer("list")).toMatchObject([
      { name: "db", state: "running", declared: "running" },
      { name: "web", state: "running", declared: "running" },
    ]);
  });
}
