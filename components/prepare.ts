import { existsSync } from "node:fs";
import * as path from "node:path";
import { fleetFacts, type WantedVm } from "../provider/facts";
import { isTestDriver } from "../provider/testDriver";
import { poolWarnings } from "../provider/pool";
import { preflight, type PreflightHost } from "../provider/preflight";
import { type ImageSource, type ResolvedImage, resolveImages } from "./images";
import { hostFacts, machineDefaults } from "./machine";
import * as plan from "./plan";

/** What the program and `nixvm plan` find out before anything is registered. It must not need Pulumi: the CLI has none running. */
export interface Prepared {
  plan: plan.Plan;
  images: Record<string, ResolvedImage>;
  /** The images of this run, and those of former ones that are kept. */
  history: plan.KnownImage[];
  /** Allowed, but likely not what was meant. */
  warnings: plan.Problem[];
  /** Names of the VMs that their hosts have; all of those on libvirt's test driver, of which nothing is known. */
  there: string[];
}

/** Where the stack is, and what it says of its past. */
export interface Surroundings {
  project: string;
  stack: string;
  projectDir: string;
  /** Mistakes that reading the config has found already: they are reported with the others. */
  problems: readonly plan.Problem[];
  /** Images of the last run that went well; only asked for where they matter. */
  former: () => Promise<plan.KnownImage[]>;
}

/** The stack file, or the host, is not fit for it; nothing was touched. */
export class Refused extends Error {
  constructor(readonly problems: readonly plan.Problem[]) {
    super(plan.formatProblems(problems));
  }
}

/** Only maps go to the resolver; what else stands there is the planner's to report. */
export function imageSources(config: Record<string, unknown>): Record<string, ImageSource> {
  const { images } = config;
  if (typeof images !== "object" || images === null || Array.isArray(images)) {
    return {};
  }
  return Object.fromEntries(
    Object.entries(images as Record<string, ImageSource>).filter(
      ([, source]) =>
        typeof source?.path === "string" ||
        typeof source?.digest === "string" ||
        typeof source?.flake === "string" ||
        (typeof source?.url === "string" && typeof source.sha256 === "string"),
    ),
  );
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
    const volume = resolved && path.join(host.pool.path, plan.baseVolumeFile(fleet.prefix, resolved));
    if (resolved && volume && !existsSync(volume)) {
      files.set(volume, resolved.bytes);
    }
  }
  return [...files.values()].reduce((sum, bytes) => sum + bytes, 0);
}

/** The VMs of a plan, as far as it takes to find them on their hosts. */
export function wantedVms(fleet: plan.Plan, images: Record<string, ResolvedImage>): WantedVm[] {
  const uris = new Map(fleet.hosts.map(({ name, uri }) => [name, uri]));
  return fleet.vms.map(({ name, domainName, host, image }) => ({
    name,
    domain: domainName,
    uri: uris.get(host) ?? "",
    digest: images[image]?.digest ?? "",
  }));
}

/**
 * From the stack file to the final plan: the stack file is checked, images are found, hosts are looked at, and so are the VMs that
 * are there. @throws Refused with all mistakes of the first of these steps that finds any
 */
export async function prepare(config: Record<string, unknown>, around: Surroundings): Promise<Prepared> {
  const { project, stack, projectDir } = around;
  const context: plan.PlanContext = { project, stack, defaults: machineDefaults(), hosts: hostFacts(config) };

  // First the stack file alone: image files are not opened for a file that is wrong anyway.
  const first = plan.planFleet(config, context);
  if (!first.ok || around.problems.length > 0) {
    throw new Refused([...around.problems, ...(first.ok ? [] : first.problems)]);
  }
  const sources = imageSources(config);
  const named = Object.fromEntries(
    Object.entries(sources).flatMap(([name, { digest }]) => (digest ? [[name, digest]] : [])),
  );
  const former = first.plan.keepImages > 0 || Object.keys(named).length > 0 ? await around.former() : [];
  const { images, problems, warnings } = await resolveImages(sources, {
    projectDir,
    cacheDir: cacheDirOf(projectDir),
    history: former,
  });
  const result = plan.planFleet(config, { ...context, images });
  if (!result.ok || problems.length > 0) {
    throw new Refused([...problems, ...(result.ok ? [] : result.problems)]);
  }
  const nowhere = plan.missingOnHosts(result.plan, named, former);
  if (nowhere.length > 0) {
    throw new Refused(nowhere);
  }
  const history = plan.nextHistory(former, currentImages(result.plan, images), result.plan.keepImages);
  const hosts = preflightHosts(result.plan, images);
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
    throw new Refused(missing);
  }
  // Who is there already decides who waits for whom.
  const wanted = wantedVms(result.plan, images);
  const current = await fleetFacts(wanted);
  const final = plan.planFleet(config, { ...context, images, current });
  if (!final.ok) {
    throw new Refused(final.problems);
  }
  return {
    plan: final.plan,
    images,
    history,
    warnings: [...warnings, ...final.plan.warnings, ...(await poolWarnings(hosts))],
    there: wanted.filter(({ name, uri }) => name in current || isTestDriver(uri)).map(({ name }) => name),
  };
}

/** Downloads, what was unpacked and built, and digests: all of it can be made again. */
export function cacheDirOf(projectDir: string): string {
  return path.join(projectDir, ".nixvm", "cache");
}

/** What the preflight has to know of the hosts of a plan. */
export function preflightHosts(fleet: plan.Plan, images: Record<string, ResolvedImage>): PreflightHost[] {
  return fleet.hosts.map((host) => ({
    name: host.name,
    uri: host.uri,
    accelerator: host.accelerator,
    poolPath: host.pool.path,
    poolCreate: host.pool.create,
    needBytes: uploadBytes(fleet, host, images),
    scratch: fleet.vms.some((vm) => vm.host === host.name && vm.scratch !== null),
  }));
}
