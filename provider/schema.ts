import { z } from "zod";
import { guestInputs } from "./inputs";

/** What the guest reports; `imageId` and `persistBytes` share the name of the input that asks for them. */
const reported: Record<string, "string" | "boolean" | "number"> = {
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
};

/** The package's Pulumi schema, made from the very checks that inputs pass. */
export function pulumiSchema(version: string): string {
  const json = z.toJSONSchema(guestInputs, { io: "input" });
  const inputs: Record<string, object> = {};
  for (const [name, property] of Object.entries(json.properties ?? {})) {
    const type = typeof property === "object" ? property.type : undefined;
    inputs[name] = { type: type ?? "string" };
  }
  const outputs = Object.fromEntries(Object.entries(reported).map(([name, type]) => [name, { type }]));
  return JSON.stringify({
    name: "nixvm",
    version,
    resources: {
      "nixvm:index:Guest": {
        inputProperties: inputs,
        requiredInputs: json.required ?? [],
        properties: { ...inputs, ...outputs },
        required: json.required ?? [],
      },
    },
  });
}
