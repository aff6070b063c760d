import { spawn } from "node:child_process";
import * as fs from "node:fs";
import { parse } from "yaml";
import type { Context } from "./context";
import { cipherOf } from "./editedPlan";
import { CliError, wrongState } from "./errors";
import { withCopy } from "./letGo";
import type { StackFile } from "./stackFile";

const KEY = "nixvm:encrypted";

/**
 * Encrypts a value as Pulumi does for this stack, for a stack file that is edited in place: Pulumi itself would write the file anew,
 * without its comments. The value goes through a pipe, and never lies anywhere in clear.
 */
export async function encrypted(context: Context, file: StackFile, value: string): Promise<{ secure: string }> {
  const stack = await context.stack();
  return withCopy(file, async (copy) => {
    const args = ["config", "set", "--secret", KEY, "--config-file", copy.file, "--stack", stack, "--non-interactive"];
    await pulumiWithInput(args, context.root, value);
    const made = parse(fs.readFileSync(copy.file, "utf8")) as {
      config?: Record<string, unknown>;
      encryptionsalt?: string;
    };
    const before = parse(file.text()) as { encryptionsalt?: string } | null;
    if (made.encryptionsalt !== before?.encryptionsalt) {
      throw wrongState('the stack has no key for its secrets yet: "pulumi up" or "pulumi stack init" makes one first');
    }
    const secure = cipherOf(made.config?.[KEY]);
    if (secure === undefined) throw new CliError("pulumi config set --secret wrote no secret");
    return { secure };
  });
}

function pulumiWithInput(args: string[], cwd: string, input: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn("pulumi", args, { cwd, env: process.env, stdio: ["pipe", "ignore", "pipe"] });
    let stderr = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    child.on("error", reject);
    child.on("close", (code) => {
      if (code === 0) resolve();
      else reject(new CliError(`pulumi config set --secret: ${stderr.trim()}`));
    });
    child.stdin.on("error", () => undefined);
    child.stdin.end(input);
  });
}
