import { existsSync, readdirSync } from "node:fs";
import * as path from "node:path";
import type { HostFacts, PlanContext } from "./plan";

const NET = "/sys/class/net";

/** A value of the config: objects arrive as JSON; a plain word is itself. */
export function parsedValue(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Values that `npm run env` exports: what setup found on this machine (D8). */
export function machineDefaults(): NonNullable<PlanContext["defaults"]> {
  const { LIBVIRT_DEFAULT_URI, NIXVM_ACCELERATOR, NIXVM_POOL_ROOT, NIXVM_CONSOLE_DIR, NIXVM_NETWORK } = process.env;
  return {
    ...(LIBVIRT_DEFAULT_URI ? { uri: LIBVIRT_DEFAULT_URI } : {}),
    ...(NIXVM_ACCELERATOR === "kvm" || NIXVM_ACCELERATOR === "tcg" ? { accelerator: NIXVM_ACCELERATOR } : {}),
    ...(NIXVM_POOL_ROOT ? { poolRoot: NIXVM_POOL_ROOT } : {}),
    ...(NIXVM_CONSOLE_DIR ? { consoleDir: NIXVM_CONSOLE_DIR } : {}),
    ...(NIXVM_NETWORK === "user" ? { network: NIXVM_NETWORK } : {}),
  };
}

/** Bridges of this machine. */
export function bridges(net = NET): string[] {
  return existsSync(net) ? readdirSync(net).filter((nic) => existsSync(path.join(net, nic, "bridge"))) : [];
}

/** Bridges of this machine, for the hosts of the stack file that are this machine: a bridge that is missing is refused (T-120). */
export function hostFacts(config: Record<string, unknown>): Record<string, HostFacts> {
  const named = (config.hosts ?? { local: {} }) as Record<string, { uri?: unknown } | null>;
  const here = Object.entries(named).filter(([, host]) => {
    const uri = host?.uri ?? process.env.LIBVIRT_DEFAULT_URI ?? "qemu:///system";
    return typeof uri === "string" && /^qemu:\/\/\//.test(uri);
  });
  return Object.fromEntries(here.map(([name]) => [name, { bridges: bridges() }]));
}
