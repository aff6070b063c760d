import {
  formatProblem,
  type Plan,
  type PlanContext,
  planFleet,
  type Problem,
  type VmPlan,
} from "../../components/plan";
import { hostKeyOf } from "../../components/plan/hostkey";

/** What every test of the planner starts from: one image, a key, a place for pools. */
export const context: PlanContext = { project: "nixvm", stack: "test", defaults: { poolRoot: "/pools" } };

export const sshKey = `${hostKeyOf("ab".repeat(16), "test").publicKey} test`;

export const base = {
  images: { os: { path: "images/os.qcow2" } },
  defaults: { image: "os", adminKeys: [sshKey] },
};

/** A config with one VM, `web`. */
export function one(vm: unknown, rest: object = {}): Record<string, unknown> {
  return { ...base, ...rest, fleet: { web: vm } };
}

export function planOf(config: unknown, extra: Partial<PlanContext> = {}): Plan {
  const result = planFleet(config, { ...context, ...extra });
  if (!result.ok) throw new Error(result.problems.map(formatProblem).join("\n"));
  return result.plan;
}

export function vmOf(config: unknown, name = "web", extra: Partial<PlanContext> = {}): VmPlan {
  const vm = planOf(config, extra).vms.find((candidate) => candidate.name === name);
  if (vm === undefined) throw new Error(`no VM ${name} in the plan`);
  return vm;
}

export function problemsOf(config: unknown, extra: Partial<PlanContext> = {}): readonly Problem[] {
  const result = planFleet(config, { ...context, ...extra });
  return result.ok ? [] : result.problems;
}

/** Problems as the user reads them, one text each. */
export function textsOf(config: unknown, extra: Partial<PlanContext> = {}): string[] {
  return problemsOf(config, extra).map(formatProblem);
}
