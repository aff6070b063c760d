// Which rows of the requirements a passed test shows: docs/coverage.md is made of this, never typed.
//
// A test shows the rows that its name, or the name of a group around it, holds: "… (Z-16 to Z-20)", "… (T-7, T-9)".
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { pageOf, shownOn } from "./coverage-page.mjs";
import { readJson, writeAtomically } from "./files.mjs";

const PAGE = "docs/coverage.md";
const REASONS = "test/coverage-reasons.json";

const ID = "[A-Z]-\\d{1,3}(?![\\w-])";
// "(T-62, 3 VMs)" is about three VMs: a number alone is a row only where the list ends or goes on behind it.
const BARE = "\\d{1,3}(?=[,;:)\\]]|\\.?$| to | and |–)";
const LIST = new RegExp(`(?<![\\w-])${ID}(?:(?:,? and |, ?| to |–)(?:${ID}|${BARE}))*`, "g");
const PART = /(,? and |, ?| to |–|^)(?:([A-Z])-)?(\d+)/g;

/** Row ids in a text, each once, in the order of the text, and ranges that cannot be meant. */
export function rowsIn(text) {
  const ids = new Set();
  const problems = [];
  for (const [list] of text.matchAll(LIST)) {
    let prefix = "";
    let last = 0;
    for (const [part, separator, letter = prefix, digits] of list.matchAll(PART)) {
      const number = Number(digits);
      const range = separator === " to " || separator === "–";
      if (range && (letter !== prefix || number <= last)) {
        problems.push(`"${prefix}-${last}${part}" is not a range of rows; allowed are ranges such as A-1 to A-4`);
      }
      for (let n = range && letter === prefix ? last + 1 : number; n <= number; n++) ids.add(`${letter}-${n}`);
      [prefix, last] = [letter, number];
    }
  }
  return { ids: [...ids], problems };
}

function parsed(root, file) {
  const value = readJson(join(root, file));
  if (!value) throw new Error(`${file} is missing or is no JSON`);
  return value;
}

/** The must rows, and the number of the last row of each section, must or not. */
export function readRows(root) {
  const { last, must } = parsed(root, "test/rows.json");
  const rows = must.map(([id, layer, kind, verify, about]) => ({ id, layer, kind, verify: verify.split(" "), about }));
  return { last, rows };
}

/** Reasons by row; one reason may stand for many rows. */
export function readReasons(root) {
  const reasons = new Map();
  for (const { rows, reason } of parsed(root, REASONS)) {
    const { ids, problems } = rowsIn(rows);
    for (const id of ids) if (reasons.has(id)) problems.push(`${id} has two reasons`);
    if (problems.length > 0) throw new Error(`${REASONS}: ${problems.join("; ")}`);
    for (const id of ids) reasons.set(id, reason);
  }
  return reasons;
}

/**
 * What a test is proof of, in the codes of the requirements: L real guests, S the script itself without one, N0 to N2 the level of
 * nix that the name says (N0+, a pure function, in a file about nix that says none), D a page, U everything in TypeScript.
 */
export function codeOf(file, name) {
  const [, rung, base] = /^test\/(\w+)\/(.*)\.test\.ts$/.exec(file) ?? [];
  if (rung === "live") return "L";
  if (rung !== "unit") return "U";
  const [level] = /(?<![\w-])N(?:0\+|[012])(?![\w+])/.exec(name) ?? [];
  if (level || base === "guest-nix" || base.startsWith("nix-")) return level ?? "N0+";
  if (base.startsWith("guest-")) return "S";
  return /^docs\b/.test(base) ? "D" : "U";
}

const LEVELS = ["N0", "N0+", "N1", "N2"];
// A list that a pure function returns is the list of the module that uses it. Parsing shows less, and N2 is more than both.
const ENOUGH = { N0: "N0", N1: "N0+", N2: "N2" };

/** Whether a test of this code shows the row: the row asks for it, and a mere plan shows nothing of what happens in a guest. */
export function counts({ layer, verify }, code) {
  if (code.startsWith("N")) {
    return verify.some((want) => want in ENOUGH && LEVELS.indexOf(code) >= LEVELS.indexOf(ENOUGH[want]));
  }
  if (code === "L" || code === "S") return verify.includes(code);
  if (layer === "NM" || layer === "GS") return false;
  // Verbs and checks on the host are TypeScript: what the requirements call a script test of one is a jest test.
  return verify.includes(code) || (code === "U" && verify.includes("S"));
}

const STRONGEST_FIRST = ["L", "N2", "N1", "N0+", "N0", "S", "U", "D"];
const byStrength = (a, b) =>
  STRONGEST_FIRST.indexOf(a.code) - STRONGEST_FIRST.indexOf(b.code) || (a.file < b.file ? -1 : 1);

/**
 * Proofs by row id, strongest first, one a file and code: the cases of a table need not be told one by one.
 *
 * @param tests of a run: file relative to the root, name with the names of its groups, and whether it passed.
 * @param wanted whether a test of a code is a proof of a row.
 */
export function proofsOf(rows, tests, wanted = counts) {
  const known = new Map(rows.map((row) => [row.id, row]));
  const proofs = new Map();
  // By name, since jest reports files as they end.
  for (const { file, name, passed } of [...tests].sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const code = codeOf(file, name);
    for (const id of passed ? rowsIn(name).ids : []) {
      if (!known.has(id) || !wanted(known.get(id), code)) continue;
      const list = proofs.get(id) ?? [];
      const same = list.find((proof) => proof.code === code && proof.file === file);
      if (same) same.more++;
      else list.push({ code, file, name, more: 0 });
      proofs.set(id, list.sort(byStrength));
    }
  }
  return proofs;
}

/**
 * Adds proofs of an earlier run whose tests are there only where a nixpkgs is given: all tests of their file passed now, none of
 * them shows the row at that level, and the file still names it.
 */
function keepNix(proofs, earlier, tests, root) {
  for (const [id, list] of earlier) {
    for (const proof of list.filter(({ code }) => code.startsWith("N"))) {
      const ran = tests.filter(({ file }) => file === proof.file);
      const now = proofs.get(id) ?? [];
      if (ran.length === 0 || ran.some(({ passed }) => !passed)) continue;
      if (now.some(({ file, code }) => file === proof.file && code === proof.code)) continue;
      if (rowsIn(readFileSync(join(root, proof.file), "utf8")).ids.includes(id)) {
        proofs.set(id, [...now, proof].sort(byStrength));
      }
    }
  }
}

/**
 * After a complete run: writes the page anew, unless a row that it says is shown was not shown now and has no reason either. The
 * page then stays as it is, so that the next run fails too.
 *
 * @returns whether all is well, and the line that says so.
 */
export function updateCoverage(root, tests) {
  try {
    return update(root, tests);
  } catch (error) {
    return { ok: false, line: `FAILED, ${error.message}` };
  }
}

function update(root, tests) {
  const { rows } = readRows(root);
  const reasons = readReasons(root);
  const file = join(root, PAGE);
  const before = existsSync(file) ? readFileSync(file, "utf8") : "";
  const earlier = shownOn(before);
  const proofs = proofsOf(rows, tests);
  // With a whole nixpkgs nothing is left out, so what was not shown is not shown.
  if (!process.env.NIXPKGS) keepNix(proofs, earlier, tests, root);
  const lost = rows.map(({ id }) => id).filter((id) => earlier.has(id) && !proofs.has(id) && !reasons.has(id));
  if (lost.length > 0) {
    const silent = ["unit", "mocks", "engine", "live"].filter(
      (rung) => !tests.some((test) => test.passed && test.file.startsWith(`test/${rung}/`)),
    );
    const why = silent.length > 0 ? ` (no test passed in ${silent.join(", ")})` : "";
    const line = `FAILED, ${PAGE} says that these rows are shown, and no test that passed now shows them${why}: ${lost.join(", ")}`;
    return { ok: false, line };
  }
  // What nix shows depends on whether a nixpkgs is given: a page that told of it would change with the machine.
  const others = proofsOf(rows, tests, (row, code) => !code.startsWith("N") && !counts(row, code));
  const text = pageOf(rows, reasons, proofs, others);
  const count = `${proofs.size} of ${rows.length} must rows shown`;
  if (text === before) return { ok: true, line: `ok, ${PAGE} is current (${count})` };
  try {
    writeAtomically(file, text);
  } catch (error) {
    // A checkout that cannot be written to is no fault of the tests.
    return { ok: true, line: `ok, but ${PAGE} is not current and cannot be written: ${error.message}` };
  }
  return { ok: true, line: `ok, ${PAGE} was not current and is written anew: commit it (${count})` };
}
