import * as path from "node:path";
import { type ImageSource, resolveImages } from "../components/images";
import { hostFacts, machineDefaults } from "../components/machine";
import * as plan from "../components/plan";
import type { Context } from "./context";
import { CliError, EXIT, wrongInput, wrongState } from "./errors";
import type { Machine, MachineFiles } from "./machineDir";
import { type EntryOptions, entryOf, type Imported } from "./machineEntry";

/** The VM as it will be, and all that has to be there before it. */
export interface ImportPlan extends Imported {
  vm: plan.VmPlan;
  host: plan.HostPlan;
  /** Names of resources that VMs share, without which the VM cannot be made. */
  shared: string[];
  /** Names of those without which its host has no pool. */
  forPool: string[];
  /** What the planner says of the VM, though it stands in nobody's way. */
  warnings: string[];
}

/** Plans the stack file with the VM in it; nothing is written. */
export async function planImport(
  context: Context,
  machine: Machine,
  files: MachineFiles,
  given: Omit<EntryOptions, "defaultNetwork" | "subnets" | "image"> & { image?: string },
): Promise<ImportPlan> {
  const config = await context.config();
  const image = given.image ?? onlyImage(config);
  const made = entryOf(machine, files, {
    ...given,
    ...(image === undefined ? {} : { image }),
    defaultNetwork: machineDefaults().network ?? "nat",
    subnets: subnetsOf(config),
  });
  const { rootPasswordHash } = made;
  const entry = { ...made.entry, ...(rootPasswordHash === undefined ? {} : { rootPasswordHash }) };
  const wanted = { ...config, fleet: { ...(config.fleet as object | undefined), [given.name]: entry } };
  const base = {
    project: "nixvm",
    stack: await context.stack(),
    defaults: machineDefaults(),
    hosts: hostFacts(wanted),
  };
  const first = planned(wanted, base);
  const vm = vmOf(first, given.name);
  const source = sourceOf(config, vm.image);
  const { images, problems } = await resolveImages(source === undefined ? {} : { [vm.image]: source }, {
    projectDir: context.root,
    cacheDir: path.join(context.root, ".nixvm", "cache"),
    history: [],
  });
  if (problems.length > 0) throw mistakes(problems);
  // The second time with what the image can do.
  const last = planned(wanted, { ...base, images });
  mustKeepVar(vm);
  const host = last.hosts.find(({ name }) => name === vm.host);
  if (host === undefined) throw new Error(`import: host ${vm.host} is not in the plan`);
  const network = vm.network.mode === "nat" ? vm.network.entry : null;
  const made12 = images[vm.image] === undefined ? undefined : plan.digest12(images[vm.image]!.digest);
  // The program cannot run to its end without the key.
  const forPool = ["fleet", "fleet-key", `host-${host.name}`, ...(host.pool.create ? [`pool-${host.name}`] : [])];
  const ours = `fleet.${given.name}`;
  return {
    ...made,
    vm,
    host,
    forPool,
    shared: [
      ...forPool,
      // One that is known by its digest only is on the host already.
      ...(made12 === undefined ? [] : [`base-${host.name}-${made12}`, `base-${host.name}-${made12}-volume`]),
      ...(network === null ? [] : [`network-${network}`, `network-${network}-network`]),
    ],
    warnings: last.warnings.filter((one) => one.path.startsWith(ours)).map(plan.formatProblem),
  };
}

function planned(config: unknown, context: plan.PlanContext): plan.Plan {
  const result = plan.planFleet(config, context);
  if (!result.ok) throw mistakes(result.problems);
  return result.plan;
}

const mistakes = (problems: readonly plan.Problem[]): CliError =>
  new CliError(plan.formatProblems(problems), EXIT.input, { field: problems[0]?.path ?? "" });

function vmOf({ vms }: plan.Plan, name: string): plan.VmPlan {
  const vm = vms.find((one) => one.name === name);
  if (vm === undefined) throw new Error(`import: ${name} is not in the plan`);
  return vm;
}

const section = (config: Record<string, unknown>, name: string): Record<string, Record<string, unknown> | null> =>
  (config[name] ?? {}) as Record<string, Record<string, unknown> | null>;

/** The image to boot where neither the user nor the stack says it: the only one there is. */
function onlyImage(config: Record<string, unknown>): string | undefined {
  if (section(config, "defaults").image !== undefined) return undefined;
  const names = Object.keys(section(config, "images"));
  if (names.length === 1) return names[0];
  throw wrongInput(
    "--image",
    undefined,
    "is needed: the stack has no default image",
    names.length === 0 ? "a name of nixvm:images, which is still empty" : names.join(", "),
  );
}

function sourceOf(config: Record<string, unknown>, image: string): ImageSource | undefined {
  const source = section(config, "images")[image] as ImageSource | undefined;
  return source?.digest === undefined ? source : undefined;
}

function subnetsOf(config: Record<string, unknown>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(section(config, "networks")).flatMap(([name, network]) =>
      typeof network?.subnet === "string" ? [[name, network.subnet]] : [],
    ),
  );
}

/** The stack's defaults may say otherwise; the data is a /var. */
function mustKeepVar({ name, persist, rootMode, home }: plan.VmPlan): void {
  const wrong =
    rootMode !== "readonly"
      ? `rootMode is ${rootMode}`
      : persist === null || persist.mount !== "/var" || persist.fs !== "ext4"
        ? `persist is ${persist === null ? "false" : `${persist.fs} at ${persist.mount}`}`
        : home.mode !== "persistent"
          ? `home is ${home.mode}`
          : undefined;
  if (wrong === undefined) return;
  throw wrongState(
    `nixvm:defaults: ${wrong}, and the data of ${name} is a /var of ext4 with /home in it; ` +
      "move that default to the VMs that it is for",
  );
}
