import { z } from "zod";

/** Status record of a guest, `/run/nixvm/status.json` (design section 4). Unknown keys are kept: guests may be newer. */
const record = z.looseObject({
  schema: z.literal(1),
  imageId: z.string(),
  imageVersion: z.string().default(""),
  bootId: z.string().default(""),
  bootedAt: z.string().default(""),
  machineId: z.string().default(""),
  healthy: z.boolean(),
  reasons: z.array(z.string()).default([]),
  persist: z
    .looseObject({ state: z.string(), sizeBytes: z.number().default(0), reason: z.string().default("") })
    .optional(),
  seed: z.looseObject({ state: z.string(), digest: z.string().default(""), reason: z.string().default("") }).optional(),
  update: z.looseObject({ state: z.string(), staged: z.string().default("") }).optional(),
  sshHostKey: z.string().default(""),
  rebootPending: z.boolean().default(false),
});

export type StatusRecord = z.infer<typeof record>;

/** The record, or why the text is none. */
export function parseStatus(text: string): { record: StatusRecord } | { problem: string } {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return { problem: `/run/nixvm/status.json is not JSON: ${text.slice(0, 200)}` };
  }
  const result = record.safeParse(json);
  if (result.success) return { record: result.data };
  const issues = result.error.issues.map((issue) => `${issue.path.join(".") || "record"}: ${issue.message}`);
  return { problem: `/run/nixvm/status.json does not follow schema 1: ${issues.join("; ")}` };
}
