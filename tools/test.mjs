// Every check of the project, one summary line each; the last line of stdout is `N passed, N failed`.
//
//   node tools/test.mjs [--unit | --lint] [arguments for jest]
//
// --unit leaves out what needs an engine or a guest, --lint leaves out jest.
// With arguments for jest only jest runs: who looks for one test does not want to wait for the linters.
import { execFile, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { updateCoverage } from "./coverage.mjs";
import { which } from "./exec.mjs";
import { filesBelow, readJson } from "./files.mjs";
import { elapsed } from "./progress.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const exec = promisify(execFile);
const local = (path) => join(root, "node_modules", path);

/** Folders that hold nothing of ours to check. */
const SKIPPED = new Set([".git", ".nixvm", "node_modules", "bin", "sdks", "coverage"]);

function projectFiles() {
  return readdirSync(root, { withFileTypes: true }).flatMap((entry) => {
    if (SKIPPED.has(entry.name)) return [];
    if (!entry.isDirectory()) return [entry.name];
    return filesBelow(join(root, entry.name)).map((file) => join(entry.name, file));
  });
}

/** A shell script says so in its name or in its first line. */
function isShell(file) {
  if (file.endsWith(".sh")) return true;
  const first = readFileSync(join(root, file)).subarray(0, 64).toString("latin1").split("\n")[0];
  return /^#!.*\b(sh|bash|dash)\b/.test(first);
}

/** Every check but jest. `files` is what a check reads: without any there is nothing to run. */
function lints() {
  const files = projectFiles();
  const node = (script, ...args) => [process.execPath, [local(script), ...args]];
  const shell = files.filter(isShell);
  const nix = files.filter((file) => file.endsWith(".nix"));
  const tests = files.filter((file) => file.startsWith("test/") && file.endsWith(".ts"));
  // Below a warning shellcheck only remarks on style, and marks every single-quoted program for another shell.
  return [
    { name: "prettier", run: node("prettier/bin/prettier.cjs", "--check", "--log-level", "warn", ".") },
    { name: "eslint", run: node("eslint/bin/eslint.js", ".") },
    { name: "types of the program", run: node("typescript/bin/tsc", "--noEmit", "-p", ".") },
    { name: "types of the tests", files: tests, run: node("typescript/bin/tsc", "--noEmit", "-p", "test") },
    { name: "shellcheck", files: shell, run: ["shellcheck", ["-x", "-P", "SCRIPTDIR", "-S", "warning", ...shell]] },
    { name: "nix syntax", files: nix, run: ["nix-instantiate", ["--parse", ...nix]], quiet: true },
  ];
}

async function runLint({ name, files, run: [command, args], quiet }) {
  if (files?.length === 0) {
    console.log(`${name}: nothing to check, there are no such files`);
    return "empty";
  }
  if (!which(command)) {
    console.log(`${name}: FAILED, ${command} is not installed ("npm run setup" installs it)`);
    return "failed";
  }
  const start = Date.now();
  const said = await exec(command, args, { cwd: root, maxBuffer: 1 << 28 }).catch((failure) => failure);
  const ok = !(said instanceof Error);
  // A parser prints what it has read: only its complaints matter.
  if (!ok) process.stdout.write(`${quiet ? "" : said.stdout}${said.stderr}`);
  const of = files ? `, ${files.length} files` : "";
  console.log(`${name}: ${ok ? "ok" : "FAILED"} (${elapsed(Date.now() - start)}${of})`);
  return ok ? "passed" : "failed";
}

/** Counts and tests of one jest run; a file that could not even be loaded counts as one failure. */
function countsOf(report) {
  return {
    passed: report.numPassedTests,
    failed: report.numFailedTests + report.numRuntimeErrorTestSuites,
    skipped: report.numPendingTests + report.numTodoTests,
    files: report.numTotalTestSuites,
    tests: report.testResults.flatMap(({ name, assertionResults }) =>
      assertionResults.map(({ ancestorTitles, title, status }) => ({
        file: relative(root, name),
        name: [...ancestorTitles, title].join(" › "),
        passed: status === "passed",
      })),
    ),
  };
}

/** Runs the projects in one jest process. `extra` is what the user gave. */
function runJest(projects, workers, extra) {
  const out = mkdtempSync(join(tmpdir(), "nixvm-test-"));
  const file = join(out, "report.json");
  const start = Date.now();
  const name = projects.join(" and ");
  try {
    const args = ["--selectProjects", ...projects, "--json", `--outputFile=${file}`, "--passWithNoTests", ...workers];
    // jest --json prints the report on stdout too, which the file makes useless.
    const result = spawnSync(process.execPath, [local("jest/bin/jest.js"), ...args, ...extra], {
      cwd: root,
      stdio: ["ignore", "ignore", "inherit"],
    });
    const report = readJson(file);
    if (!report) {
      console.log(`${name}: FAILED, jest ended with ${result.signal ?? `exit code ${result.status}`} and no report`);
      return { passed: 0, failed: 1, skipped: 0, files: 0, tests: [] };
    }
    const counts = countsOf(report);
    // For example a limit on coverage, or something left open: no test failed, and yet it is a failure.
    if (result.status !== 0 && counts.failed === 0) counts.failed = 1;
    const skipped = counts.skipped > 0 ? `, ${counts.skipped} skipped` : "";
    const words = counts.files === 0 ? "no test files" : `${counts.passed} passed, ${counts.failed} failed${skipped}`;
    console.log(`${name} tests: ${words} (${elapsed(Date.now() - start)})`);
    return counts;
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}

async function main(args) {
  const unit = args[0] === "--unit";
  const lint = args[0] === "--lint";
  const extra = unit || lint ? args.slice(1) : args;
  const all = extra.length === 0;
  let passed = 0;
  let failed = 0;
  if (all || lint) {
    for (const outcome of await Promise.all(lints().map(runLint))) {
      if (outcome === "passed") passed++;
      if (outcome === "failed") failed++;
    }
  }
  const runs = lint ? [] : [runJest(["unit", "mocks", "rollout"], all ? ["--maxWorkers=100%"] : [], extra)];
  // A guest that starts leaves one of two processors idle: two files at a time, on however large a machine.
  if (!unit && !lint)
    runs.push(runJest(["engine", "live"], ["--verbose", all ? "--maxWorkers=2" : "--runInBand"], extra));
  for (const counts of runs) {
    passed += counts.passed;
    failed += counts.failed;
  }
  // A part of the tests says nothing about the rows that the others show.
  if (!unit && !lint && all) {
    const { ok, line } = updateCoverage(
      root,
      runs.flatMap(({ tests }) => tests),
    );
    console.log(`coverage: ${line}`);
    if (ok) passed++;
    else failed++;
  }
  if (!all && !lint && runs.every((counts) => counts.files === 0)) {
    console.log(`no test file matches: ${extra.join(" ")}`);
    failed++;
  }
  console.log(`${passed} passed, ${failed} failed`);
  return failed === 0 && passed > 0 ? 0 : 1;
}

if (!existsSync(local("jest"))) {
  console.error('nixvm: node_modules is missing: run "npm test", which sets it up.');
  process.exitCode = 2;
} else process.exitCode = await main(process.argv.slice(2));
