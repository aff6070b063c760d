// Generates sdks/libvirt again from the provider itself: npm run sdk [-- --check]
//
// With --check nothing is written, and a difference is an error: what is checked in must be what is generated.
import { cpSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { UserError } from "./errors.mjs";
import { logged } from "./exec.mjs";
import { filesBelow } from "./files.mjs";
import { LIBVIRT, OPENTOFU_ADDRESS } from "./parts.mjs";
import { progress } from "./progress.mjs";
import { goEnvironment, removeCaches, requireGo } from "./source.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const target = join(root, "sdks/libvirt");
/** What is not generated: compiled output, and the mark that keeps these files out of reviews. */
const KEPT = ["bin", "node_modules", ".gitattributes"];

async function schema(file, log) {
  const args = ["package", "get-schema", "terraform-provider", OPENTOFU_ADDRESS, LIBVIRT];
  const toFile = ["-c", 'out=$1; shift; exec pulumi "$@" > "$out"', "sh", file, ...args];
  await logged({ log, cwd: root, sweep: true }, "sh", toFile);
}

/** Paths that differ between the generated files and those in the checkout. */
function differences(generated) {
  const current = filesBelow(target).filter((file) => !KEPT.includes(file.split("/")[0]));
  const all = new Set([...current, ...filesBelow(generated)]);
  const read = (dir, file) => (existsSync(join(dir, file)) ? readFileSync(join(dir, file), "utf8") : undefined);
  return [...all].filter((file) => read(target, file) !== read(generated, file)).sort();
}

async function main(check) {
  const work = mkdtempSync(join(tmpdir(), "nixvm-sdk-"));
  const { step, line } = progress(process.stderr, "sdk: ");
  try {
    const [schemaFile, generator, out] = ["schema.json", "gensdk", "out"].map((name) => join(work, name));
    const options = { log: join(root, ".nixvm/log/sdk.log"), cwd: join(root, "tools/src/pulumi") };
    await step("schema", () => schema(schemaFile, options.log));
    const go = requireGo();
    const build = ["build", "-o", generator, "./gensdk"];
    await step("generator", (detail) => logged({ ...options, env: goEnvironment(root, go), detail }, go, build));
    await step("files", (detail) => logged({ ...options, detail }, generator, [schemaFile, out]));
    const changed = differences(out);
    if (check) {
      if (changed.length > 0)
        throw new UserError(`nixvm: sdks/libvirt is not what is generated: ${changed.join(", ")}`);
    } else {
      for (const name of readdirSync(target)) {
        if (!KEPT.includes(name)) rmSync(join(target, name), { recursive: true });
      }
      cpSync(out, target, { recursive: true });
    }
    removeCaches(root);
    line(changed.length > 0 ? `changed: ${changed.join(", ")}` : "no difference");
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

try {
  await main(process.argv.includes("--check"));
} catch (err) {
  if (!(err instanceof UserError)) throw err;
  console.error(err.message);
  process.exitCode = err.exitCode;
}
