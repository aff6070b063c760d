// The processes of one `pulumi up`, by what they are.
import { readdirSync, readFileSync } from "node:fs";

/** How each is known by its command line. The engine is the process that was started. */
const ROLES = [
  ["program", /@pulumi\/pulumi\/cmd\/run/],
  ["language host", /language-host\/host\.cjs|pulumi-language-nodejs/],
  ["guest provider", /bin\/provider\/main\.js/],
  ["libvirt provider", /terraform-provider-libvirt/],
  ["bridge", /pulumi-resource-terraform-provider/],
  ["random provider", /pulumi-resource-random/],
];

function table() {
  const found = new Map();
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const stat = readFileSync(`/proc/${entry}/stat`, "utf8");
      const command = readFileSync(`/proc/${entry}/cmdline`, "utf8").replaceAll("\0", " ");
      found.set(Number(entry), { parent: Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]), command });
    } catch {
      // Gone meanwhile.
    }
  }
  return found;
}

/** Process ids below `root`, itself included, with their role. */
function family(root) {
  const all = table();
  const below = [{ pid: root, role: "engine" }];
  for (const { pid } of below) {
    for (const [child, { parent, command }] of all) {
      if (parent !== pid) continue;
      below.push({ pid: child, role: ROLES.find(([, pattern]) => pattern.test(command))?.[0] });
    }
  }
  return below;
}

/** Kills the processes of a role below `root`; false when there are none yet, or no more. */
export function killRole(root, role) {
  return killed(family(root).filter((one) => one.role === role));
}

/** Kills a process and all below it; false when it is gone already. */
export function killAll(root) {
  const [first, ...others] = family(root);
  return killed(others.length > 0 ? [first, ...others] : []);
}

function killed(found) {
  for (const { pid } of found) {
    try {
      process.kill(pid, "SIGKILL");
    } catch (error) {
      if (error.code !== "ESRCH") throw error;
    }
  }
  return found.length > 0;
}
