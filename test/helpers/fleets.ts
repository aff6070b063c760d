import type { ResolvedImage } from "../../components/images";
import * as plan from "../../components/plan";

/** A key that looks like one. */
export const KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPt6p3rFp0Gz5u9u1G0PLc2V0yJw2e8X2gJd9f8mYJ0T test";

/** A resolved image with a digest of one repeated hexadecimal digit. */
export function image(digit: string, version = `v-${digit}`): ResolvedImage {
  return {
    file: `/images/${version}.qcow2`,
    digest: digit.repeat(64),
    format: "qcow2",
    id: `image-${version}`,
    version,
    rootModes: ["readonly"],
    bytes: 1024,
  };
}

/** Plans a config, or throws what a user would be shown. */
export function planned(config: Record<string, unknown>, context: Partial<plan.PlanContext> = {}): plan.Plan {
  const result = plan.planFleet(config, {
    project: "nixvm",
    stack: "test",
    defaults: { uri: "qemu:///system", accelerator: "tcg", poolRoot: "/pools", consoleDir: "/console" },
    ...context,
  });
  if (!result.ok) {
    throw new Error(plan.formatProblems(result.problems));
  }
  return result.plan;
}

/** A stack file with the named VMs on one image. */
export function config(vms: string[], more: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    images: { os: { path: "os.qcow2" } },
    defaults: { image: "os", memory: "512MiB", persist: { size: "1GiB" }, network: "user", adminKeys: [KEY] },
    fleet: Object.fromEntries(vms.map((vm) => [vm, {}])),
    ...more,
  };
}
