import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { pathToFileURL } from "node:url";

export const root = path.resolve(__dirname, "../..");

const folders: string[] = [];
afterAll(() => folders.forEach((dir) => fs.rmSync(dir, { recursive: true, force: true })));

/** A folder whose name holds what shells and URLs stumble over; it goes when the file's tests are over. */
export function scratch(): string {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm tools' "));
  folders.push(dir);
  return dir;
}

/** Creates files below `dir`, with the folders they need. */
export function plant(dir: string, files: Record<string, string>, mode = 0o644): void {
  for (const [name, content] of Object.entries(files)) {
    const file = path.join(dir, name);
    fs.mkdirSync(path.dirname(file), { recursive: true });
    fs.writeFileSync(file, content, { mode });
  }
}

export interface Outcome {
  status: number | null;
  stdout: string;
  stderr: string;
}

/**
 * Runs `body` as a module that has imported everything of tools/<module>.mjs as `m`, and `input` as `input`.
 * The tools are ES modules for plain Node, which jest's own loader does not take.
 */
export function inNode(module: string, body: string, input: unknown = null, options: object = {}): Outcome {
  const url = pathToFileURL(path.join(root, "tools", `${module}.mjs`)).href;
  const code = `import * as m from ${JSON.stringify(url)};
const input = ${JSON.stringify(input)};
${body}`;
  const result = spawnSync(process.execPath, ["--input-type=module", "-e", code], { encoding: "utf8", ...options });
  return { status: result.status, stdout: result.stdout, stderr: result.stderr };
}

/** The JSON value that `expression` (which may await) has in such a module. */
export function evaluate<T>(module: string, expression: string, input: unknown = null, options: object = {}): T {
  const body = `console.log(JSON.stringify((await (${expression})) ?? null));`;
  const { status, stdout, stderr } = inNode(module, body, input, options);
  if (status !== 0) throw new Error(stderr);
  return JSON.parse(stdout.trim().split("\n").at(-1) ?? "null") as T;
}

/** What `expression` throws, as message and exit code of a UserError. */
export function thrown(module: string, expression: string, input: unknown = null, options: object = {}) {
  const caught = `(async () => { try { ${expression}; return { message: "nothing was thrown" }; } catch (err) {
    return { message: err.message, exitCode: err.exitCode }; } })()`;
  return evaluate<{ message: string; exitCode?: number }>(module, caught, input, options);
}
