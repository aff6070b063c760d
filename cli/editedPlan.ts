import { parse } from "yaml";
import { readKeyFiles } from "../components/keyFiles";
import { hostFacts, machineDefaults, parsedValue } from "../components/machine";
import * as plan from "../components/plan";
import type { Context } from "./context";
import { CliError, EXIT } from "./errors";
import type { StackFile } from "./stackFile";

const NAMESPACE = "nixvm:";

/** Text of each encrypted value of a stack file. */
export type Secrets = ReadonlyMap<string, string>;

/** Our part of a stack file as it is written, without the namespace. */
export function sectionsOf(text: string): Record<string, unknown> {
  const { config } = (parse(text) ?? {}) as { config?: Record<string, unknown> | null };
  const ours = Object.entries(config ?? {}).filter(([key]) => key.startsWith(NAMESPACE));
  return Object.fromEntries(ours.map(([key, value]) => [key.slice(NAMESPACE.length), value]));
}

/** `{ secure: … }`, as Pulumi writes a secret into a stack file. */
export function cipherOf(value: unknown): string | undefined {
  if (typeof value !== "object" || value === null || Object.keys(value).join() !== "secure") return undefined;
  const { secure } = value as { secure: unknown };
  return typeof secure === "string" ? secure : undefined;
}

/** What is behind the encrypted values, from the same tree written and in clear. */
export function secretsOf(
  written: unknown,
  clear: unknown,
  found: Map<string, string> = new Map<string, string>(),
): Map<string, string> {
  const cipher = cipherOf(written);
  if (cipher !== undefined) {
    if (typeof clear === "string") found.set(cipher, clear);
  } else if (typeof written === "object" && written !== null && typeof clear === "object" && clear !== null) {
    for (const [key, value] of Object.entries(written as Record<string, unknown>))
      secretsOf(value, (clear as Record<string, unknown>)[key], found);
  }
  return found;
}

/** The tree with its secrets in clear; one that is not known is left as it is, for the planner to refuse. */
export function cleared(written: unknown, secrets: Secrets): unknown {
  const cipher = cipherOf(written);
  if (cipher !== undefined) return secrets.get(cipher) ?? written;
  if (Array.isArray(written)) return written.map((one) => cleared(one, secrets));
  if (typeof written !== "object" || written === null) return written;
  return Object.fromEntries(Object.entries(written).map(([key, value]) => [key, cleared(value, secrets)]));
}

/** A stack file that is being edited, and what it declares at each moment. Nothing is written before it is found good. */
export class Edited {
  private readonly secrets: Map<string, string>;

  private constructor(
    private readonly context: Context,
    readonly file: StackFile,
    secrets: Map<string, string>,
  ) {
    this.secrets = secrets;
  }

  static async open(context: Context): Promise<Edited> {
    const file = await context.stackFile();
    const written = sectionsOf(file.text());
    const secret = JSON.stringify(written).includes('"secure"');
    return new Edited(
      context,
      file,
      secret ? secretsOf(written, await clearSections(context)) : new Map<string, string>(),
    );
  }

  /** Makes a secret known that was encrypted just now. */
  learn(cipher: string, clear: string): void {
    this.secrets.set(cipher, clear);
  }

  /** Our part of the file as it reads now, in clear, with key files still by name. */
  config(): Record<string, unknown> {
    return cleared(sectionsOf(this.file.text()), this.secrets) as Record<string, unknown>;
  }

  /** What the file declares as it reads now; its mistakes are an error, and nothing is written. */
  async plan(facts: Pick<plan.PlanContext, "images" | "current"> = {}): Promise<plan.Plan> {
    const { config, problems } = await readKeyFiles(this.config(), this.context.root);
    const result = plan.planFleet(config, {
      project: "nixvm",
      stack: await this.context.stack(),
      defaults: machineDefaults(),
      hosts: hostFacts(config as Record<string, unknown>),
      ...facts,
    });
    if (problems.length === 0 && result.ok) return result.plan;
    const all = [...problems, ...(result.ok ? [] : result.problems)];
    throw new CliError(plan.formatProblems(all), EXIT.input, { field: all[0]?.path, value: all[0]?.value });
  }
}

async function clearSections(context: Context): Promise<Record<string, unknown>> {
  const all = JSON.parse(await context.pulumi(["config", "--show-secrets", "--json"])) as Record<
    string,
    { value?: string; objectValue?: unknown }
  >;
  const ours = Object.entries(all).filter(([key]) => key.startsWith(NAMESPACE));
  return Object.fromEntries(
    ours.map(([key, one]) => [key.slice(NAMESPACE.length), one.objectValue ?? parsedValue(one.value ?? "")]),
  );
}

/** Warnings that an edit brings, as lines. */
export function newWarnings(before: plan.Plan, after: plan.Plan): string[] {
  const known = new Set(before.warnings.map(plan.formatProblem));
  return after.warnings.map(plan.formatProblem).filter((line) => !known.has(line));
}
