import * as pulumi from "@pulumi/pulumi";
import { clearDomain, clearPool } from "../provider/halfMade";
import { run } from "../provider/run";
import { isOwnWorld } from "../provider/testDriver";
import type { HostPlan } from "./plan";

/** Takes what a broken-off create has left of a host's pool away before the pool is made. */
export function beforePool(name: string, host: HostPlan): pulumi.ResourceHook {
  return new pulumi.ResourceHook(name, async () => {
    if (!isOwnWorld(host.uri)) await clearPool(host.uri, host.pool.name, host.pool.path, run);
  });
}

/** The same for the domains of a host: one hook for all, which finds the UUID in the stylesheet. */
export function beforeDomain(name: string, host: HostPlan): pulumi.ResourceHook {
  return new pulumi.ResourceHook(name, async ({ newInputs }) => {
    const xml = await known((newInputs as { xml?: pulumi.Input<{ xslt?: string }> } | undefined)?.xml);
    const uuid = /<uuid>([0-9a-f-]{36})<\/uuid>/.exec(xml?.xslt ?? "")?.[1];
    if (uuid !== undefined && !isOwnWorld(host.uri)) await clearDomain(host.uri, uuid, run);
  });
}

/** A value of a hook; secrets come as outputs. */
function known<T>(value: pulumi.Input<T>): Promise<pulumi.Unwrap<T>> {
  return new Promise((resolve) => void pulumi.output(value).apply(resolve));
}
