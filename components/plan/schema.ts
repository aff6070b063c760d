import { z } from "zod";
import { secrets } from "./leaf";
import { configShape } from "./model";

/** The first line of a stack file that makes editors complete and check it. */
export const SCHEMA_COMMENT = "# yaml-language-server: $schema=./nixvm.schema.json";

/** What `pulumi config set --secret` writes in place of a value. */
const ENCRYPTED = {
  type: "object",
  description: "A value encrypted by `pulumi config set --secret`.",
  properties: { secure: { type: "string" } },
  required: ["secure"],
  additionalProperties: false,
};

/**
 * JSON Schema of a whole stack file (`Pulumi.<stack>.yaml`), from the same model that the planner reads by, so that an
 * editor and `pulumi preview` never disagree. Draft 7, which every YAML language server speaks.
 */
export function stackSchema(): Record<string, unknown> {
  const sections = Object.fromEntries(Object.entries(configShape).map(([name, schema]) => [`nixvm:${name}`, schema]));
  // Other namespaces, and Pulumi's own keys beside `config`, are none of our business.
  const file = z.looseObject({
    config: z.looseObject(sections).describe("Config of the stack. Keys of this project begin with nixvm:."),
  });
  const schema = z.toJSONSchema(file, {
    target: "draft-7",
    io: "input",
    override: ({ zodSchema, jsonSchema }) => {
      if (!secrets.has(zodSchema)) return;
      const plain = { ...jsonSchema };
      for (const key of Object.keys(jsonSchema)) delete jsonSchema[key as keyof typeof jsonSchema];
      jsonSchema.anyOf = [plain, ENCRYPTED as never];
    },
  });
  return { ...schema, title: "nixvm stack file" };
}

/** The text of `stacks/nixvm.schema.json`. */
export function stackSchemaText(): string {
  return `${JSON.stringify(stackSchema(), null, 2)}\n`;
}
