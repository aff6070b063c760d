import { memberName } from "../components/plan/layers";
import { type Context } from "./context";
import { type StackFile } from "./stackFile";

/** The group of each VM that is a member of one, as the stack file says it now. */
export function groupsOf(file: Pick<StackFile, "keys" | "get">): Map<string, string> {
  const members = file.keys(["nixvm:groups"]).flatMap((group) => {
    const count = file.get(["nixvm:groups", group, "count"]);
    // The planner refuses more, and names them all.
    const known = typeof count === "number" && count >= 1 && count <= 1000 ? Math.floor(count) : 0;
    return Array.from({ length: known }, (_, i) => [memberName(group, i + 1), group] as const);
  });
  return new Map(members);
}

/** The same; a stack file that cannot be read is no reason not to show what runs. */
export async function groupsIn(context: Context): Promise<Map<string, string>> {
  try {
    return groupsOf(await context.stackFile());
  } catch (error) {
    context.note(`groups are not known: ${(error as Error).message}`);
    return new Map();
  }
}
