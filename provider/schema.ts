import { z } from "zod";
import { guestInputs, seedInputs, seedSecrets } from "./inputs";

type Outputs = Record<string, "string" | "boolean" | "number" | "array">;

/** What the guest reports; `imageId` and `persistBytes` share the name of the input that asks for them. */
const reported: Outputs = {
  state: "string",
  healthy: "boolean",
  imageId: "string",
  imageVersion: "string",
  bootId: "string",
  bootedAt: "string",
  machineId: "string",
  sshHostKey: "string",
  ip: "string",
  persistBytes: "number",
  dataSnapshots: "array",
};

/** What is known of a medium that was written. */
const written: Outputs = { volumeId: "string", digest: "string", bytes: "number" };

/** The package's Pulumi schema, made from the very checks that inputs pass. */
export function pulumiSchema(version: string): string {
  return JSON.stringify({
    name: "nixvm",
    version,
    resources: {
      "nixvm:index:Guest": resource(guestInputs, reported),
      "nixvm:index:SeedVolume": resource(seedInputs, written, seedSecrets),
    },
  });
}

function resource(schema: z.ZodObject, outputs: Outputs, secrets: readonly string[] = []): object {
  const json = z.toJSONSchema(schema, { io: "input" });
  const inputs: Record<string, object> = {};
  for (const [name, property] of Object.entries(json.properties ?? {})) {
    const type = (typeof property === "object" ? property.type : undefined) ?? "string";
    // What is inside of a nested value the provider checks itself.
    const described = type === "object" || type === "array" ? { $ref: "pulumi.json#/Any" } : { type };
    inputs[name] = { ...described, ...(secrets.includes(name) ? { secret: true } : {}) };
  }
  const typed = (type: string) => (type === "array" ? { type, items: { type: "string" } } : { type });
  const types = Object.fromEntries(Object.entries(outputs).map(([name, type]) => [name, typed(type)]));
  const kept = Object.fromEntries(Object.entries(inputs).filter(([name]) => !secrets.includes(name)));
  const required = json.required ?? [];
  return {
    inputProperties: inputs,
    requiredInputs: required,
    properties: { ...kept, ...types },
    required: required.filter((name) => name in kept),
  };
}
