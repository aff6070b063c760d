import * as fs from "node:fs";
import * as path from "node:path";
import { parseDocument } from "yaml";
import type { VmSummary } from "../components/VirtualMachine";
import { LiveVm } from "./guests";
import { pulumiMust, pulumiOutput } from "./pulumi";

export const STACK = "demo";
const STACK_FILE = path.join("stacks", "Pulumi.demo.yaml");

/** Run-time files of the demo; git does not see them. */
export const WORK = path.join(".nixvm", "demo");
const ORIGINAL = path.join(WORK, "Pulumi.demo.yaml");

/** The stack file as it was before the demo first changed it, so that `demo:down` can put it back. */
export function keepOriginal(): void {
  fs.mkdirSync(WORK, { recursive: true });
  if (!fs.existsSync(ORIGINAL)) {
    fs.copyFileSync(STACK_FILE, ORIGINAL);
  }
}

export function restoreOriginal(): void {
  if (fs.existsSync(ORIGINAL)) {
    fs.copyFileSync(ORIGINAL, STACK_FILE);
    fs.rmSync(ORIGINAL);
  }
}

/** Changes the stack file as a person would with an editor: comments and order stay. */
function edit(changes: [path: string[], value: unknown][]): void {
  const document = parseDocument(fs.readFileSync(STACK_FILE, "utf8"));
  for (const [where, value] of changes) {
    document.setIn(where, value);
  }
  fs.writeFileSync(STACK_FILE, document.toString({ lineWidth: 0 }));
}

/** Sets the image of the fleet. */
export function setImage(version: "v1" | "v2"): void {
  edit([[["config", "nixvm:images", "reference", "path"], `.nixvm/images/reference-${version}.qcow2`]]);
}

/** Says that the persistent volumes may go. */
export function allowRemoval(): void {
  const persist = ["config", "nixvm:defaults", "persist"];
  edit([
    [[...persist, "protect"], false],
    [[...persist, "retain"], false],
  ]);
}

export async function stackExists(): Promise<boolean> {
  const { code, stdout, stderr } = await pulumiOutput(["stack", "ls", "--json"]);
  if (code !== 0) {
    throw new Error(`pulumi stack ls: ${stderr.trim()}`);
  }
  return (JSON.parse(stdout) as { name: string }[]).some((s) => s.name === STACK || s.name.endsWith(`/${STACK}`));
}

export async function selectStack(json: boolean): Promise<void> {
  await pulumiMust(["stack", "select", "--create", STACK], json);
}

export async function liveVms(): Promise<LiveVm[]> {
  const { code, stdout, stderr } = await pulumiOutput(["stack", "output", "vms", "--json", "--stack", STACK]);
  if (code !== 0) {
    throw new Error(`pulumi stack output: ${stderr.trim()}`);
  }
  const vms = JSON.parse(stdout) as Record<string, VmSummary>;
  return Object.entries(vms).map(([name, vm]) => new LiveVm(name, vm));
}
