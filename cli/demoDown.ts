import * as fs from "node:fs";
import * as readline from "node:readline/promises";
import { allowRemoval, restoreOriginal, stackExists, STACK, WORK } from "./demoStack";
import { pulumiMust, pulumiOutput } from "./pulumi";

interface StateResource {
  urn: string;
  type: string;
  id?: string;
  protect?: boolean;
  retainOnDelete?: boolean;
}

/** Volumes with data: those that Pulumi refuses to delete, or would leave on the host. */
async function dataVolumes(): Promise<StateResource[]> {
  const { code, stdout, stderr } = await pulumiOutput(["stack", "export", "--stack", STACK]);
  if (code !== 0) {
    throw new Error(`pulumi stack export: ${stderr.trim()}`);
  }
  const state = JSON.parse(stdout) as { deployment: { resources?: StateResource[] } };
  return (state.deployment.resources ?? []).filter(
    (r) => r.type === "libvirt:index/volume:Volume" && (r.protect === true || r.retainOnDelete === true),
  );
}

async function confirmed(volumes: StateResource[]): Promise<boolean> {
  const list = volumes.map((v) => `  ${v.id ?? v.urn}\n`).join("");
  process.stderr.write(`This removes the demo's VMs and their data for good:\n${list}`);
  if (!process.stdin.isTTY) {
    process.stderr.write("Nobody is there to ask. To remove it all: npm run demo:down -- --yes\n");
    return false;
  }
  const prompt = readline.createInterface({ input: process.stdin, output: process.stderr });
  try {
    return /^y(es)?$/i.test((await prompt.question("Remove them? [y/N] ")).trim());
  } finally {
    prompt.close();
  }
}

/** Removes the demo's stack with all it made. Safe to break off and to run again. */
export async function down(yes: boolean): Promise<boolean> {
  if (await stackExists()) {
    const volumes = await dataVolumes();
    if (volumes.length > 0) {
      if (!yes && !(await confirmed(volumes))) {
        return false;
      }
      // The way to remove data on purpose, as the documentation tells it: say so in the stack file, then destroy. Only the
      // volumes are touched, so that it works on a fleet that is not healthy.
      allowRemoval();
      // The pool goes with its volumes. The key comes along for a stack that lost it to a destroy that was broken off: every
      // identity is derived of it.
      const targets = [...volumes.map((v) => v.urn), "**::pool-*", "**::fleet-key"].flatMap((urn) => ["--target", urn]);
      await pulumiMust(["up", "--yes", "--skip-preview", "--stack", STACK, ...targets], false);
    }
    await pulumiMust(["destroy", "--yes", "--skip-preview", "--stack", STACK], false);
    await pulumiMust(["stack", "rm", STACK, "--yes", "--preserve-config"], false);
    process.stderr.write("The demo is gone.\n");
  } else {
    process.stderr.write("There is no demo to remove.\n");
  }
  restoreOriginal();
  fs.rmSync(WORK, { recursive: true, force: true });
  return true;
}
