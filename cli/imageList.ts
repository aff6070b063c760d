import * as fs from "node:fs";
import type * as plan from "../components/plan";
import { filesOf, type ImageSource, type ResolvedImage, resolveImages } from "../components/images";
import { cacheDirOf, imageSources } from "../components/prepare";
import type { Context } from "./context";
import type { FleetVm } from "./fleet";
import type { HostImages } from "./hostImages";

/** An image, wherever it is known from. */
export interface ImageView {
  /** First 12 digits; empty for one of the stack file whose content is not known yet. */
  digest: string;
  /** Names in the stack file. */
  names: string[];
  id?: string;
  version?: string;
  /** Where it is, and what it takes up there. */
  hosts: { host: string; bytes: number }[];
  /** VMs that boot from it, by the last run. */
  usedBy: string[];
  /** In the stack file, kept by rollout.keepImages, or only on hosts. */
  status: "declared" | "kept" | "left";
  /** VMs on which it failed. */
  quarantined: string[];
  /** What is to be known of it: it is not there, or its source has changed. */
  remarks: string[];
}

/** Images of the stack file, as far as they are on this machine: a list downloads and builds nothing. */
export async function declaredImages(
  context: Context,
  config: Record<string, unknown>,
  history: readonly plan.KnownImage[],
): Promise<{ images: Record<string, ResolvedImage>; remarks: Record<string, string[]> }> {
  const options = { projectDir: context.root, cacheDir: cacheDirOf(context.root) };
  const remarks: Record<string, string[]> = {};
  const there: Record<string, ImageSource> = {};
  for (const [name, source] of Object.entries(imageSources(config))) {
    const { given } = source.url ? await filesOf(source, options) : {};
    if (source.url && !(given && fs.existsSync(given))) remarks[name] = ["is not downloaded yet"];
    else there[name] = source;
  }
  const { images, problems, warnings } = await resolveImages(there, { ...options, history });
  for (const { path, message } of [...problems, ...warnings]) {
    const name = path.split(".")[1] ?? "";
    remarks[name] = [...(remarks[name] ?? []), message];
  }
  return { images, remarks };
}

/** All that is known, together by digest; images of the stack file first, then kept ones. */
export function imageViews(known: {
  declared: Awaited<ReturnType<typeof declaredImages>>;
  history: readonly plan.KnownImage[];
  hosts: readonly HostImages[];
  vms: readonly FleetVm[];
}): ImageView[] {
  const { declared, history, hosts, vms } = known;
  const views = new Map<string, ImageView>();
  const nameless: ImageView[] = [];
  const at = (digest: string, status: ImageView["status"]): ImageView => {
    const short = digest.slice(0, 12);
    const made: ImageView = views.get(short) ?? {
      ...{ digest: short, names: [], hosts: [], usedBy: [], status, quarantined: [], remarks: [] },
    };
    views.set(short, made);
    return made;
  };
  const describe = (view: ImageView, { id, version }: { id?: string; version?: string }): void => {
    view.id ??= id;
    view.version ??= version;
  };
  for (const [name, image] of Object.entries(declared.images)) {
    const view = at(image.digest, "declared");
    view.names.push(name);
    view.remarks.push(...(declared.remarks[name] ?? []));
    describe(view, image);
  }
  for (const [name, remarks] of Object.entries(declared.remarks)) {
    if (declared.images[name]) continue;
    nameless.push({
      ...{ digest: "", names: [name], hosts: [], usedBy: [], status: "declared", quarantined: [] },
      remarks,
    });
  }
  for (const image of history) describe(at(image.digest, "kept"), image);
  for (const { host, bases } of hosts)
    for (const { digest, bytes } of bases) at(digest, "left").hosts.push({ host, bytes });
  for (const vm of vms) {
    const view = at(vm.imageDigest, "left");
    view.usedBy.push(vm.name);
    describe(view, {
      ...(vm.imageId ? { id: vm.imageId } : {}),
      ...(vm.imageVersion ? { version: vm.imageVersion } : {}),
    });
    for (const digest of vm.quarantined) at(digest, "left").quarantined.push(vm.name);
  }
  return [...views.values(), ...nameless];
}
