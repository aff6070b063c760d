import { createHash } from "node:crypto";
import * as fs from "node:fs";
import * as path from "node:path";
import { parse } from "yaml";

/**
 * Names of the VMs of a stack file, for shells that complete: nothing but the file is read, and Pulumi is not started. A file that
 * is wrong has no names.
 */
export function vmNames(root: string, stack: string, env: NodeJS.ProcessEnv = process.env): string[] {
  try {
    const name = stack || env.PULUMI_STACK || selectedStack(root, env) || onlyStack(root);
    const file = path.join(root, "stacks", `Pulumi.${path.basename(name)}.yaml`);
    const { config = {} } = (parse(fs.readFileSync(file, "utf8")) ?? {}) as { config?: Record<string, unknown> };
    const singles = Object.keys(config["nixvm:fleet"] ?? {});
    const groups = Object.entries((config["nixvm:groups"] ?? {}) as Record<string, { count?: unknown } | null>);
    const members = groups.flatMap(([group, value]) =>
      Array.from({ length: Math.min(1000, Number(value?.count) || 0) }, (_, index) => `${group}-${index + 1}`),
    );
    return [...singles, ...members].sort();
  } catch {
    // A shell has no use for an error in the midst of a line.
    return [];
  }
}

/** What `pulumi stack select` has written. */
function selectedStack(root: string, env: NodeJS.ProcessEnv): string {
  const home = env.PULUMI_HOME ?? path.join(env.HOME ?? "", ".pulumi");
  const project = path.join(root, "Pulumi.yaml");
  for (const file of new Set([project, fs.realpathSync(project)])) {
    const hash = createHash("sha1").update(file).digest("hex");
    const workspace = path.join(home, "workspaces", `nixvm-${hash}-workspace.json`);
    if (!fs.existsSync(workspace)) continue;
    const { stack } = JSON.parse(fs.readFileSync(workspace, "utf8")) as { stack?: string };
    if (stack) return path.basename(stack);
  }
  return "";
}

function onlyStack(root: string): string {
  const found = fs
    .readdirSync(path.join(root, "stacks"))
    .flatMap((name) => /^Pulumi\.(.+)\.yaml$/.exec(name)?.[1] ?? []);
  const own = found.filter((name) => name !== "example" && name !== "demo");
  return own.length === 1 ? (own[0] ?? "") : "";
}

if (require.main === module) {
  const root = process.env.NIXVM_PROJECT ?? path.resolve(__dirname, "..", "..");
  process.stdout.write(`${vmNames(root, process.argv[2] ?? "").join(" ")}\n`);
}
