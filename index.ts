import { existsSync, readdirSync } from "node:fs";
import * as path from "node:path";
import * as pulumi from "@pulumi/pulumi";
import { baseVolumeFile, Fleet } from "./components/Fleet";
import { type ImageSource, type ResolvedImage, resolveImages } from "./components/images";
import { readKeyFiles } from "./components/keyFiles";
import * as plan from "./components/plan";
import { fleetFacts } from "./provider/facts";
import { poolWarnings } from "./provider/pool";
import { preflight } from "./provider/preflight";

const NAMESPACE = "nixvm:";
const NET = "/sys/class/net";

/** All of the stack file's part that is ours, also keys that nobody knows: those are mistakes to report. */
function readConfig(): Record<string, unknown> {
  const config: Record<string, unknown> = {};
  for (const [key, text] of Object.entries(pulumi.runtime.allConfig())) {
    if (key.startsWith(NAMESPACE)) {
      config[key.slice(NAMESPACE.length)] = parsed(text);
    }
  }
  return config;
}

/** Objects arrive as JSON; a plain word is itself. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Values that `npm run env` exports: what setup found on this machine (D8). */
function machineDefaults(): NonNullable<plan.PlanContext["defaults"]> {
  const { LIBVIRT_DEFAULT_URI, NIXVM_ACCELERATOR, NIXVM_POOL_ROOT, NIXVM_CONSOLE_DIR, NIXVM_NETWORK } = process.env;
  return {
    ...(LIBVIRT_DEFAULT_URI ? { uri: LIBVIRT_DEFAULT_URI } : {}),
    ...(NIXVM_ACCELERATOR === "kvm" || NIXVM_ACCELERATOR === "tcg" ? { accelerator: NIXVM_ACCELERATOR } : {}),
    ...(NIXVM_POOL_ROOT ? { poolRoot: NIXVM_POOL_ROOT } : {}),
    ...(NIXVM_CONSOLE_DIR ? { consoleDir: NIXVM_CONSOLE_DIR } : {}),
    ...(NIXVM_NETWORK === "user" ? { network: NIXVM_NETWORK } : {}),
  };
}

/** Bridges of this machine, for the hosts of the stack file that are this machine: a bridge that is missing is refused (T-120). */
function hostFacts(config: Record<string, unknown>): Record<string, plan.HostFacts> {
  const named = (config.hosts ?? { local: {} }) as Record<string, { uri?: unknown } | null>;
  const bridges = existsSync(NET) ? readdirSync(NET).filter((nic) => existsSync(path.join(NET, nic, "bridge"))) : [];
  const here = Object.entries(named).filter(([, host]) => {
    const uri = host?.uri ?? process.env.LIBVIRT_DEFAULT_URI ?? "qemu:///system";
    return typeof uri === "string" && /^qemu:\/\/\//.test(uri);
  });
  return Object.fromEntries(here.map(([name]) => [name, { bridges }]));
}

function refuse(problems: readonly plan.Problem[]): never {
  // RunError shows its text without a stack trace of this program, which would say nothing to the reader.
  throw new pulumi.RunError(plan.formatProblems(problems));
}

/** Only maps go to the resolver; what else stands there is the planner's to report. */
function imageSources(config: Record<string, unknown>): Record<string, ImageSource> {
  const { images } = config;
  if (typeof images !== "object" || images === null || Array.isArray(images)) {
    return {};
  }
  return Object.fromEntries(
    Object.entries(images as Record<string, ImageSource>).filter(
      ([, source]) =>
        typeof source?.path === "string" ||
        typeof source?.digest === "string" ||
        (typeof source?.url === "string" && typeof source.sha256 === "string"),
    ),
  );
}

/** The stack's own output of the last run that went well: the images that the whole fleet was healthy on. */
async function formerImages(): Promise<plan.KnownImage[]> {
  const self = new pulumi.StackReference(`${pulumi.getOrganization()}/${pulumi.getProject()}/${pulumi.getStack()}`);
  return plan.readHistory((await self.getOutputDetails("images")).value);
}

/** The images of this run, each once, with the hosts that get it. */
function currentImages(fleet: plan.Plan, images: Record<string, ResolvedImage>): plan.KnownImage[] {
  const found = new Map<string, plan.KnownImage>();
  for (const { name, host } of fleet.images) {
    const image = images[name];
    if (image === undefined) continue;
    const { file: _f, bytes: _b, ...facts } = image;
    const hosts = [...(found.get(image.digest)?.hosts ?? []), host];
    found.set(image.digest, { ...facts, hosts: [...new Set(hosts)] });
  }
  return [...found.values()];
}

/** What is sure to be written: images that are not there yet. Overlays and volumes are thin and start near nothing. */
function uploadBytes(fleet: plan.Plan, host: plan.HostPlan, images: Record<string, ResolvedImage>): number {
  const files = new Map<string, number>();
  for (const image of fleet.images.filter((one) => one.host === host.name)) {
    const resolved = images[image.name];
    const volume = resolved && path.join(host.pool.path, baseVolumeFile(fleet.prefix, resolved));
    if (resolved && volume && !existsSync(volume)) {
      files.set(volume, resolved.bytes);
    }
  }
  return [...files.values()].reduce((sum, bytes) => sum + bytes, 0);
}

/** What libvirt has of the fleet. */
async function currentVms(
  fleet: plan.Plan,
  images: Record<string, ResolvedImage>,
): Promise<Record<string, plan.CurrentVm>> {
  const uris = new Map(fleet.hosts.map(({ name, uri }) => [name, uri]));
  return fleetFacts(
    fleet.vms.map(({ name, domainName, host, image }) => ({
      name,
      domain: domainName,
      uri: uris.get(host) ?? "",
      digest: images[image]?.digest ?? "",
    })),
  );
}

/** The program: the stack file in, a fleet out. Nothing is registered before all of the stack file is found good. */
export = async (): Promise<Record<string, unknown>> => {
  const projectDir = pulumi.runtime.getRootDirectory?.() ?? process.cwd();
  const written = await readKeyFiles(readConfig(), projectDir);
  const config = written.config as Record<string, unknown>;
  const context: plan.PlanContext = {
    project: pulumi.getProject(),
    stack: pulumi.getStack(),
    defaults: machineDefaults(),
    hosts: hostFacts(config),
  };

  // First the stack file alone: image files are not opened for a file that is wrong anyway.
  const first = plan.planFleet(config, context);
  if (!first.ok || written.problems.length > 0) {
    refuse([...written.problems, ...(first.ok ? [] : first.problems)]);
  }
  const sources = imageSources(config);
  const named = Object.fromEntries(
    Object.entries(sources).flatMap(([name, { digest }]) => (digest ? [[name, digest]] : [])),
  );
  const former = first.plan.keepImages > 0 || Object.keys(named).length > 0 ? await formerImages() : [];
  const { images, problems } = await resolveImages(sources, {
    projectDir,
    cacheDir: path.join(projectDir, ".nixvm", "cache"),
    history: former,
  });
  const result = plan.planFleet(config, { ...context, images });
  if (!result.ok || problems.length > 0) {
    refuse([...problems, ...(result.ok ? [] : result.problems)]);
  }
  const nowhere = plan.missingOnHosts(result.plan, named, former);
  if (nowhere.length > 0) {
    refuse(nowhere);
  }
  const history = plan.nextHistory(former, currentImages(result.plan, images), result.plan.keepImages);
  const hosts = result.plan.hosts.map((host) => ({
    name: host.name,
    uri: host.uri,
    accelerator: host.accelerator,
    poolPath: host.pool.path,
    poolCreate: host.pool.create,
    needBytes: uploadBytes(result.plan, host, images),
    scratch: result.plan.vms.some((vm) => vm.host === host.name && vm.scratch !== null),
  }));
  const missing = await preflight(
    hosts,
    result.plan.vms.map((vm) => ({
      name: vm.name,
      domain: vm.domainName,
      host: vm.host,
      ...(vm.network.mode === "user" ? { sshPort: vm.network.sshPort } : {}),
    })),
  );
  if (missing.length > 0) {
    refuse(missing);
  }
  // Who is there already decides who waits for whom.
  const current = await currentVms(result.plan, images);
  const final = plan.planFleet(config, { ...context, images, current });
  if (!final.ok) {
    refuse(final.problems);
  }
  for (const line of plan.formatWaves(final.plan)) {
    await pulumi.log.info(line);
  }
  for (const warning of [...final.plan.warnings, ...(await poolWarnings(hosts))]) {
    await pulumi.log.warn(plan.formatProblem(warning));
  }

  // Capturing a stack trace for each promise of each resource is half of the time of a large preview. Errors of this
  // program keep theirs: the limit is back before anything can fail.
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = 0;
  try {
    const fleet = new Fleet("fleet", { plan: final.plan, images, history });
    return { vms: fleet.vms, images: history };
  } finally {
    Error.stackTraceLimit = limit;
  }
};
