// The tasks of the npm scripts: what each needs set up, and the command it then runs.
import { spawn } from "node:child_process";
import { dirname } from "node:path";
import { constants } from "node:os";
import { fileURLToPath } from "node:url";
import { exportLines, readEnvironment, taskEnvironment } from "./env.mjs";
import { UserError } from "./errors.mjs";
import { setup, unready } from "./setup.mjs";

const everything = ["packages", "modules", "build", "toolchain", "host", "images"];

/** `build: "tolerate"` leaves a type error to the task, which reports it better than a failed set-up would. */
export const TASKS = {
  setup: { needs: everything, options: ["--from-source", "--official"] },
  demo: { needs: everything, command: ["bin/cli/demo.js"] },
  "demo:down": { needs: everything.filter((need) => need !== "images"), command: ["bin/cli/demo.js", "down"] },
  test: { needs: [...everything, "testPackages"], build: "tolerate", command: ["tools/test.mjs"] },
  lint: { needs: ["packages", "modules"], command: ["tools/test.mjs", "--lint"] },
  "test:unit": { needs: ["packages", "testPackages", "modules"], command: ["tools/test.mjs", "--unit"] },
  faults: { needs: everything, command: ["test/faults/run.mjs"] },
  build: { needs: ["modules", "build"] },
  sdk: { needs: ["packages", "modules", "toolchain"], command: ["tools/sdk.mjs"] },
  // Verbs are quick and many: what was set up once is only looked at, and nothing is said about it.
  nixvm: { needs: ["modules", "build"], quiet: true, chosen: true, command: ["bin/cli/nixvm.js"] },
  env: {},
};

/** Runs one task and ends the process with its exit code. */
export async function main([name, ...args]) {
  const root = dirname(dirname(fileURLToPath(import.meta.url)));
  try {
    process.exitCode = await runTask(root, name, args);
  } catch (err) {
    if (!(err instanceof UserError)) throw err;
    console.error(err.message);
    process.exitCode = err.exitCode;
  }
}

async function runTask(root, name, args) {
  const task = TASKS[name];
  if (!task) {
    throw new UserError(`nixvm: no task "${name ?? ""}": allowed are ${Object.keys(TASKS).join(", ")}.`, 2);
  }
  if (name === "env") return printEnvironment(root);
  if (task.options) {
    const unknown = args.filter((arg) => !task.options.includes(arg));
    if (unknown.length > 0 || args.length > 1) {
      throw new UserError(
        `nixvm: ${name} takes at most one of ${task.options.join(", ")}, not "${args.join(" ")}".`,
        2,
      );
    }
  }
  const force = task.options ? args[0]?.replace(/^--(from-)?/, "") : undefined;
  if (name === "nixvm") requireSetup(root);
  const { build, quiet } = task;
  await setup({ root, needs: needsOf(root, task), build, quiet, force, thorough: name === "setup" });
  if (!task.command) return 0;
  return runCommand(root, [...task.command, ...args], task.chosen);
}

/** The private libvirtd does not come back by itself when the machine was restarted. */
function needsOf(root, { needs, quiet }) {
  return quiet && readEnvironment(root).notes.length > 0 ? [...needs, "host"] : needs;
}

function requireSetup(root) {
  const missing = unready(root);
  if (missing.length > 0) {
    throw new UserError(`nixvm: not set up yet (${missing.join(", ")}): run "npm run setup" first.`, 2);
  }
}

/** Prints nothing on stdout but what `eval` may run. */
function printEnvironment(root) {
  requireSetup(root);
  const environment = readEnvironment(root);
  for (const note of environment.notes) console.error(note);
  console.log(exportLines(environment));
  return 0;
}

function runCommand(root, argv, chosen) {
  const env = taskEnvironment(root, process.env, { chosen });
  const child = spawn(process.execPath, argv, { cwd: root, stdio: "inherit", env });
  // Ctrl-C reaches the child by itself (same terminal); what is sent to us alone is passed on. Either way the child
  // decides when it is done, and we wait for it.
  process.on("SIGINT", () => {});
  for (const signal of ["SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal));
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("exit", (code, signal) => resolve(code ?? 128 + constants.signals[signal]));
  });
}
