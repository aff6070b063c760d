import type { Command } from "commander";
import * as plan from "../../components/plan";
import { prepare, type Prepared, Refused } from "../../components/prepare";
import { changesOf } from "../changes";
import { type Context } from "../context";
import { CliError, EXIT } from "../errors";
import { resourcesOf, type StateResource } from "../fleet";
import { historyOf } from "../fleetLook";
import { missingVms, rolloutText, rolloutView } from "../rolloutPlan";
import { does, verb } from "../verb";

/** `nixvm plan`: what the next run does with which VM, when and why, before anything happens. */
export function addPlan(program: Command): void {
  does(
    verb(program, "plan", "what the next run does: waves, who restarts and why, windows; nothing is changed"),
    async (context) => {
      // With secrets: seeds, and by that who gets a new one, are made of the fleet's key.
      const resources = resourcesOf(await context.pulumi(["stack", "export", "--show-secrets"]));
      const found = await prepared(context, resources);
      const changes = changesOf(found.plan, found.images, resources);
      const view = rolloutView(found.plan, changes, Date.now());
      const warnings = [...found.warnings.map(plan.formatProblem), ...missingVms(found.there, changes)];
      return { json: { stack: await context.stack(), ...view, warnings }, text: rolloutText(view, warnings) };
    },
  );
}

async function prepared(context: Context, resources: readonly StateResource[]): Promise<Prepared> {
  try {
    return await prepare(await context.config(), {
      project: "nixvm",
      stack: await context.stack(),
      projectDir: context.root,
      problems: [],
      former: () => Promise.resolve(historyOf(resources)),
    });
  } catch (error) {
    throw error instanceof Refused ? new CliError(error.message, EXIT.input) : error;
  }
}
