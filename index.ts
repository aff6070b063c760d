import * as pulumi from "@pulumi/pulumi";
import { Fleet } from "./components/Fleet";
import { readKeyFiles } from "./components/keyFiles";
import { parsedValue } from "./components/machine";
import * as plan from "./components/plan";
import { prepare, type Prepared, Refused } from "./components/prepare";
import { withoutDebugLines } from "./components/quiet";

const NAMESPACE = "nixvm:";

/** All of the stack file's part that is ours, also keys that nobody knows: those are mistakes to report. */
function readConfig(): Record<string, unknown> {
  const config: Record<string, unknown> = {};
  for (const [key, text] of Object.entries(pulumi.runtime.allConfig())) {
    if (key.startsWith(NAMESPACE)) {
      config[key.slice(NAMESPACE.length)] = parsedValue(text);
    }
  }
  return config;
}

/** The stack's own output of the last run that went well: the images that the whole fleet was healthy on. */
async function formerImages(): Promise<plan.KnownImage[]> {
  const self = new pulumi.StackReference(`${pulumi.getOrganization()}/${pulumi.getProject()}/${pulumi.getStack()}`);
  return plan.readHistory((await self.getOutputDetails("images")).value);
}

async function prepared(): Promise<Prepared> {
  const projectDir = pulumi.runtime.getRootDirectory?.() ?? process.cwd();
  const { config, problems } = await readKeyFiles(readConfig(), projectDir);
  try {
    return await prepare(config as Record<string, unknown>, {
      project: pulumi.getProject(),
      stack: pulumi.getStack(),
      projectDir,
      problems,
      former: formerImages,
    });
  } catch (error) {
    // RunError shows its text without a stack trace of this program, which would say nothing to the reader.
    throw error instanceof Refused ? new pulumi.RunError(error.message) : error;
  }
}

/** The program: the stack file in, a fleet out. Nothing is registered before all of the stack file is found good. */
export = async (): Promise<Record<string, unknown>> => {
  withoutDebugLines();
  const { plan: fleetPlan, images, history, warnings } = await prepared();
  for (const line of plan.formatWaves(fleetPlan)) {
    await pulumi.log.info(line);
  }
  for (const warning of warnings) {
    await pulumi.log.warn(plan.formatProblem(warning));
  }

  // Capturing a stack trace for each promise of each resource is half of the time of a large preview. Errors of this
  // program keep theirs: the limit is back before anything can fail.
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = 0;
  try {
    const fleet = new Fleet("fleet", { plan: fleetPlan, images, history });
    return { vms: fleet.vms, images: history };
  } finally {
    Error.stackTraceLimit = limit;
  }
};
