import { Command } from "commander";
import { addBackup, addBackups, addRestoreBackup } from "./verbs/backup";
import { addClone } from "./verbs/clone";
import { addCompletion } from "./verbs/completion";
import { addConsole } from "./verbs/console";
import { addCreate } from "./verbs/create";
import { addDestroy, addPurge } from "./verbs/destroy";
import { addDoctor } from "./verbs/doctor";
import { addExec } from "./verbs/exec";
import { addExportMachine } from "./verbs/exportMachine";
import { addExportSsh } from "./verbs/exportSsh";
import { addGraph } from "./verbs/graph";
import { addImage } from "./verbs/image";
import { addImport } from "./verbs/import";
import { addKeys } from "./verbs/keys";
import { addList } from "./verbs/list";
import { addListMachines } from "./verbs/listMachines";
import { addLogs } from "./verbs/logs";
import { addMetrics } from "./verbs/metrics";
import { addNetwork } from "./verbs/network";
import { addPasswd } from "./verbs/passwd";
import { addPlan } from "./verbs/plan";
import { addPower } from "./verbs/power";
import { addRecreate } from "./verbs/recreate";
import { addResize } from "./verbs/resize";
import { addRestart } from "./verbs/restart";
import { addSnapshot } from "./verbs/snapshot";
import { addSsh } from "./verbs/ssh";
import { addStatus } from "./verbs/status";

const VERBS = [
  addBackup,
  addBackups,
  addClone,
  addCompletion,
  addConsole,
  addCreate,
  addDestroy,
  addDoctor,
  addExec,
  addExportMachine,
  addExportSsh,
  addGraph,
  addImage,
  addImport,
  addKeys,
  addList,
  addListMachines,
  addLogs,
  addMetrics,
  addNetwork,
  addPasswd,
  addPlan,
  addPower,
  addPurge,
  addRecreate,
  addResize,
  addRestart,
  addRestoreBackup,
  addSnapshot,
  addSsh,
  addStatus,
];

/** All verbs. Each file of `verbs/` adds its own. */
export function nixvm(): Command {
  const program = new Command("nixvm")
    .description("Day-two work on the VMs of a stack")
    .showHelpAfterError("(nixvm --help shows what there is)")
    // Usage errors are mistakes of input; help that was asked for is none.
    .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2));
  for (const add of VERBS) add(program);
  return program;
}

if (require.main === module) void nixvm().parseAsync();
