import { formatDuration, parseDuration } from "./duration";
import type { LayeredVm } from "./layers";
import type { CheckConfig, HealthConfig } from "./model-health";
import type { Scope } from "./scope";
import type { HealthCheck, VmPlan } from "./types";

const KINDS = ["command", "tcp", "http"] as const;

/** Waits under KVM, in seconds; see planVm for the factor. */
const TIMEOUT_SECONDS = 10;
const WITHIN_SECONDS = 60;

const kindsOf = (check: CheckConfig) => KINDS.filter((kind) => check[kind] !== undefined);

/** Checks of one name are merged like all maps, unless they are of different kinds. */
export function mergeHealth(own: HealthConfig, lower: HealthConfig): HealthConfig {
  const merged = { ...lower, ...own };
  for (const [name, check] of Object.entries(own)) {
    const below = Object.hasOwn(lower, name) ? lower[name] : undefined;
    if (!check || !below || kindsOf(check).some((kind) => below[kind] === undefined)) continue;
    merged[name] = { ...below, ...check, ...(check.http ? { http: { ...below.http, ...check.http } } : {}) };
  }
  return merged;
}

/** `factor` is how much longer than under KVM things take. */
export function planHealth(health: HealthConfig, gateSeconds: number, factor: number): HealthCheck[] {
  const written = Object.entries(health).flatMap(([name, check]) => (check ? [{ name, check }] : []));
  // By name, so that another order in the stack file is no change.
  written.sort((a, b) => (a.name < b.name ? -1 : 1));
  return written.map(({ name, check }) => {
    const timeout = parseDuration(check.timeout);
    const usual = Math.min(Math.max(WITHIN_SECONDS * factor, timeout ?? 0), gateSeconds);
    const withinSeconds = parseDuration(check.within) ?? usual;
    const timeoutSeconds = timeout ?? Math.min(TIMEOUT_SECONDS * factor, withinSeconds);
    const limits = { name, timeoutSeconds, withinSeconds };
    const address = check.address ?? "127.0.0.1";
    if (check.tcp !== undefined) return { ...limits, kind: "tcp", address, port: check.tcp };
    if (check.http === undefined) return { ...limits, kind: "command", command: check.command ?? "" };
    const { port = 80, path = "/", status, contains } = check.http;
    return {
      ...limits,
      kind: "http",
      address,
      port,
      path,
      ...(status === undefined ? {} : { status }),
      ...(contains === undefined ? {} : { contains }),
    };
  });
}

/** What is wrong with a check after its layers are merged. */
export function checkHealth(vm: LayeredVm, plan: VmPlan, scope: Scope): void {
  if (vm.bad("health")) return;
  for (const { name, timeoutSeconds, withinSeconds } of plan.health) {
    const check = vm.fields.health?.[name] ?? {};
    const refuse = (field: readonly string[], value: unknown, message: string, allowed: string): void => {
      const path = vm.where("health", name, ...field);
      scope.problems.add(path, value, `${message}${vm.remark(path)}`, allowed);
    };
    const kinds = kindsOf(check);
    if (kinds.length === 0) refuse([], undefined, "asks for nothing", "one of command, tcp and http");
    if (kinds.length > 1) {
      refuse([], undefined, `asks for ${kinds.join(" and ")} at once`, "one of them, and a check of its own for each");
    }
    if (check.command !== undefined && check.address !== undefined) {
      refuse(["address"], check.address, "is for tcp and http, and this is a command", "the address in the command");
    }
    if (timeoutSeconds > withinSeconds) {
      const total = formatDuration(withinSeconds);
      const message = `is longer than the check may take in total (${total})`;
      refuse(["timeout"], check.timeout, message, `at most ${total}, or a longer within`);
    }
    if (withinSeconds > plan.gateTimeoutSeconds && !vm.bad("gateTimeout")) {
      const gate = formatDuration(plan.gateTimeoutSeconds);
      refuse(
        ["within"],
        check.within,
        `is longer than gateTimeout (${gate})`,
        `at most ${gate}, or a longer gateTimeout`,
      );
    }
  }
}
