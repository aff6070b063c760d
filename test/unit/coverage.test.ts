import * as fs from "node:fs";
import * as path from "node:path";
import fc from "fast-check";
import { hasTests, titlesOf } from "../helpers/titles";
import { evaluate, plant, root, scratch } from "./tools-support";

// Ids of rows stand in no title of this file, and first in no list: they would count as shown.
interface Rows {
  ids: string[];
  problems: string[];
}
interface Row {
  id: string;
  layer: string;
  kind: string;
  verify: string[];
  about: string;
}
interface Test {
  file: string;
  name: string;
  passed: boolean;
}
const rowsIn = (texts: string[]): Rows[] => evaluate("coverage", "input.map(m.rowsIn)", texts);
const read = (file: string): string => fs.readFileSync(path.join(root, file), "utf8");

describe("rows in a name", () => {
  const names = [
    ["one", "the pool has its properties (Z-16)", "Z-16"],
    ["a range", "the pool (Z-16 to Z-18)", "Z-16 Z-17 Z-18"],
    ["a range with its prefix once", "the pool (Z-16 to 18)", "Z-16 Z-17 Z-18"],
    ["a range with a dash", "the pool (Z-16–Z-18)", "Z-16 Z-17 Z-18"],
    ["a list", "mounts (T-7, T-9 and T-11)", "T-7 T-9 T-11"],
    ["a list with its prefix once", "mounts (T-7, 9 and 11)", "T-7 T-9 T-11"],
    ["lists and ranges of several prefixes", "a (T-96, T-109 to T-111, V-7, G-5)", "T-96 T-109 T-110 T-111 V-7 G-5"],
    ["a row named twice", "V-3: all else is gone (V-3)", "V-3"],
    ["rows in two places", "zvm (V-2) › / is a tmpfs (V-3, V-4)", "V-2 V-3 V-4"],
    ["a number that counts something else", "an upgrade (T-62, 3 VMs) and (E-1 and 10 others)", "T-62 E-1"],
    ["decisions and sections", "order of an upgrade (D4, 8.2)", ""],
    ["words that look alike", "UTF-8, SHA-256, RT-5, T-1000, P-256-key, E-5x", ""],
    ["no word at all", "", ""],
  ] as const;
  test("are found in each of the ways in which they are written, and in nothing else", () => {
    const found = rowsIn(names.map(([, text]) => text));
    expect(names.map(([what], i) => [what, found[i]?.ids.join(" "), found[i]?.problems])).toEqual(
      names.map(([what, , ids]) => [what, ids, []]),
    );
  });

  test("ranges backwards, of one row and from one section to another are said to be none", () => {
    const found = rowsIn("(Z-18 to Z-16)/(Z-16 to Z-16)/(Z-93 to V-2)".split("/"));
    for (const { problems } of found) expect(problems).toEqual([expect.stringContaining("is not a range of rows")]);
    expect(found).toHaveLength(3);
  });

  test("any list reads back, however it is written", () => {
    const item = fc.record({
      prefix: fc.constantFrom("Z", "V", "P", "E", "T", "G"),
      from: fc.integer({ min: 1, max: 120 }),
      more: fc.nat(5),
      short: fc.boolean(),
      joined: fc.constantFrom(", ", " and ", ", and "),
    });
    const lists = fc.sample(fc.array(item, { minLength: 1, maxLength: 6 }), 500);
    const texts = lists.map((list) => {
      let [text, before] = ["", ""];
      for (const { prefix, from, more, short, joined } of list) {
        const first = short && prefix === before ? `${from}` : `${prefix}-${from}`;
        const range = more > 0 ? ` to ${short ? "" : `${prefix}-`}${from + more}` : "";
        text += `${text === "" ? "" : joined}${first}${range}`;
        before = prefix;
      }
      return `a promise holds (${text})`;
    });
    const wanted = lists.map((list) => [
      ...new Set(
        list.flatMap(({ prefix, from, more }) => Array.from({ length: more + 1 }, (_, i) => `${prefix}-${from + i}`)),
      ),
    ]);
    expect(rowsIn(texts)).toEqual(wanted.map((ids) => ({ ids, problems: [] })));
  });
});

describe("what a test is proof of", () => {
  test("is told by its folder, its file and the level in its name", () => {
    const table = [
      ["test/live/fleet.test.ts", "the root", "L"],
      ["test/unit/guest-seed.test.ts", "the seed", "S"],
      ["test/unit/nix-lib.test.ts", "a list", "N0+"],
      ["test/unit/nix-modules.test.ts", "N1: zvm › mounts", "N1"],
      ["test/unit/guest-nix.test.ts", "N0: every file parses", "N0"],
      ["test/unit/nix-lib.test.ts", "N0+ pure functions", "N0+"],
      ["test/unit/docs.test.ts", "a page", "D"],
      ["test/unit/allowlist.test.ts", "both renderings (N0+)", "N0+"],
      ["test/unit/plan-seed.test.ts", "the seed", "U"],
      ["test/mocks/fleet.test.ts", "a volume", "U"],
      ["test/engine/provider-engine.test.ts", "a guest", "U"],
    ];
    const codes = evaluate<string[]>("coverage", "input.map(([file, name]) => m.codeOf(file, name))", table);
    expect(table.map(([file, name], i) => [file, name, codes[i]])).toEqual(table);
  });

  test("is enough for a row that asks for it, and a plan shows nothing inside a guest", () => {
    const table = [
      ["a live test for what only a guest can show", "GS", "L", "L", true],
      ["a script without a guest for that", "GS", "L", "S", false],
      ["a script where one is asked for", "GS", "S L", "S", true],
      ["a plan for what happens in a guest", "GS", "U L", "U", false],
      ["a plan for a component", "PC", "U L", "U", true],
      ["a plan for what only a guest can show", "PC", "L", "U", false],
      ["a jest test of a verb", "OP", "S", "U", true],
      ["a pure function for a module", "NM", "N1", "N0+", true],
      ["parsing for a module", "NM", "N1", "N0", false],
      ["parsing where it is asked for", "NM", "N0 N1", "N0", true],
      ["a module for a whole system", "NM", "N2", "N1", false],
      ["a whole system for a module", "NM", "N1", "N2", true],
      ["a live test for what only nix can show", "NM", "N1", "L", false],
      ["a page for a module", "NM", "D", "D", false],
      ["a page for a page", "DOC", "D S", "D", true],
    ];
    const expression = 'input.map(([, layer, verify, code]) => m.counts({ layer, verify: verify.split(" ") }, code))';
    const enough = evaluate<boolean[]>("coverage", expression, table);
    expect(table.map((row, i) => [...row.slice(0, 4), enough[i]])).toEqual(table);
  });
});

describe("the page of a complete run", () => {
  const live = "test/live/a.test.ts";
  const nix = "test/unit/nix-a.test.ts";
  let dir: string;
  beforeEach(() => {
    dir = scratch();
    const must = "Z-1;NM;stated;N1 L;a | b with <name>/Z-2;GS;derived;S;second/T-3;NM;stated;N1;third";
    plant(dir, {
      "test/rows.json": JSON.stringify({ last: { Z: 2, T: 3 }, must: must.split("/").map((row) => row.split(";")) }),
      "test/coverage-reasons.json": JSON.stringify([{ rows: "Z-2", reason: "not built yet" }]),
      [nix]: 'if (nixpkgs) test("modules (N1, T-3)")',
    });
  });
  const update = (...tests: Test[]): { ok: boolean; line: string } => updateWith("", ...tests);
  const updateWith = (nixpkgs: string, ...tests: Test[]): { ok: boolean; line: string } => {
    const env = { ...process.env, NIXPKGS: nixpkgs };
    return evaluate("coverage", "m.updateCoverage(input.dir, input.tests)", { dir, tests }, { env });
  };
  const page = (): string => fs.readFileSync(path.join(dir, "docs/coverage.md"), "utf8");
  const ran = (file: string, name: string, passed = true): Test => ({ file, name, passed });
  const good = [ran(live, "holds | for `it` (Z-1)"), ran(nix, "modules (N1, T-3)"), ran(nix, "other")];

  test("names the tests that passed, counts, and gives the reasons of the rest", () => {
    expect(update(...good, ran("test/unit/guest-a.test.ts", "fails (Z-2)", false), ran(live, "b (Z-2)"))).toEqual({
      ok: true,
      line: "ok, docs/coverage.md was not current and is written anew: commit it (2 of 3 must rows shown)",
    });
    expect(page()).toContain(
      "| Z-1 | NM | a \\| b with \\<name\\> | N1 L | yes | L test/live/a.test.ts: `holds \\| for 'it' (Z-1)` |",
    );
    expect(page()).toContain(
      "| Z-2 | GS | second | S | no | not built yet<br>of another kind: L test/live/a.test.ts: `b (Z-2)` |",
    );
    expect(page()).toContain("| NM and GS | 3 | 2 | 1 | 2 of 2 |");
  });

  test("is the same text whatever the order in which the files ended, and then stays as it is", () => {
    update(...good, ran(live, "again (Z-1)"));
    const text = page();
    expect(text).toContain("`again (Z-1)` and 1 more |");
    expect(update(ran(live, "again (Z-1)"), ...[...good].reverse()).line).toBe(
      "ok, docs/coverage.md is current (2 of 3 must rows shown)",
    );
    expect(page()).toBe(text);
  });

  test("stays as it is, and fails the run, when a row it has is no longer shown", () => {
    update(...good);
    const text = page();
    const { ok, line } = update(ran(live, "holds (Z-1)", false), ...good.slice(1));
    expect(ok).toBe(false);
    expect(line).toMatch(/no test that passed now shows them \(no test passed in mocks, engine, live\): Z-1$/);
    expect(page()).toBe(text);
  });

  test("loses a row that has got a reason", () => {
    update(...good);
    plant(dir, { "test/coverage-reasons.json": JSON.stringify([{ rows: "Z-1, 2", reason: "given up" }]) });
    expect(update(...good.slice(1)).ok).toBe(true);
    expect(page()).toMatch(/^\| Z-1 .* \| no \| given up \|$/m);
  });

  describe("where no nixpkgs is given", () => {
    test("keeps what an earlier run has shown of the modules", () => {
      update(...good, ran(nix, "second (N1, T-3)"));
      const text = page();
      expect(update(good[0]!, good[2]!).line).toMatch(/is current/);
      expect(page()).toBe(text);
    });

    test("but not where one is: what did not run there is gone", () => {
      update(...good);
      expect(updateWith("/nixpkgs", good[0]!, good[2]!).line).toMatch(/T-3$/);
    });

    test.each([
      ["a test of that file failed", [ran(nix, "other", false)], undefined],
      ["the file did not run", [], undefined],
      ["the file no longer names the row", [ran(nix, "other")], "nothing"],
    ])("but not when %s", (_what, rest, source) => {
      update(...good);
      if (source !== undefined) plant(dir, { [nix]: source });
      expect(update(good[0]!, ...rest)).toEqual({ ok: false, line: expect.stringMatching(/T-3$/) });
    });
  });

  test.each([
    ["missing rows", { "test/rows.json": "" }, /test\/rows\.json is missing or is no JSON/],
    [
      "a reason given twice",
      { "test/coverage-reasons.json": '[{"rows":"Z-1"},{"rows":"Z-1"}]' },
      /Z-1 has two reasons/,
    ],
  ])("is not written from %s", (_what, files, line) => {
    plant(dir, files);
    expect(update(...good)).toEqual({ ok: false, line: expect.stringMatching(line) });
    expect(fs.existsSync(path.join(dir, "docs/coverage.md"))).toBe(false);
  });
});

describe("this repository", () => {
  const here = JSON.stringify(root);
  const { last, rows } = evaluate<{ last: Record<string, number>; rows: Row[] }>("coverage", `m.readRows(${here})`);
  /** Tests as they are written, whether they run on this machine or not. */
  const written = fs
    .readdirSync(path.join(root, "test"), { recursive: true, encoding: "utf8" })
    .map((file) => `test/${file}`)
    .filter(hasTests)
    .flatMap((file) =>
      titlesOf(read(file)).map(({ groups, title }) => ({
        // jest names the file that takes in the steps of the verbs.
        file: file.replace(/^(test\/live\/verbs)\/.*$/, "$1.test.ts"),
        name: [...groups, title].join(" › "),
        passed: true,
      })),
    )
    .filter(({ name }) => /[A-Z]-\d/.test(name));

  test("the must rows are those of the requirements: in order, each once, as many as they count", () => {
    const sections = "ZVPET";
    const place = ({ id }: Row): number => sections.indexOf(id.charAt(0)) * 1000 + Number(id.slice(2));
    expect(rows.map(place)).toEqual([...new Set(rows.map(place))].sort((a, b) => a - b));
    const count = [...sections].map((prefix) => rows.filter(({ id }) => id.startsWith(`${prefix}-`)).length);
    expect(count).toEqual([61, 35, 25, 29, 92]);
    for (const { id, layer, kind, verify, about } of rows) {
      expect([id, layer, kind]).toEqual([
        id,
        expect.stringMatching(/^(NM|GS|PC|OP|DOC)$/),
        expect.stringMatching(/^(stated|derived|fix)$/),
      ]);
      expect(verify.every((code) => /^([ULSD]|N[012])$/.test(code))).toBe(true);
      expect(about.length).toBeLessThanOrEqual(90);
    }
  });

  test("every row that a test names is one of the requirements", () => {
    const found = rowsIn(written.map(({ name }) => name));
    const wrong = found.flatMap(({ ids, problems }, i) => {
      const unknown = ids.filter((id) => Number(id.slice(2)) > (last[id.charAt(0)] ?? Infinity));
      return [...problems, ...unknown].map((problem) => `${written[i]?.file}: ${problem}`);
    });
    expect(written.length).toBeGreaterThan(20);
    expect(wrong).toEqual([]);
  });

  test("every must row has either a test that shows it or a reason in test/coverage-reasons.json, not both", () => {
    const [shown, reasons] = evaluate<[string[], string[]]>(
      "coverage",
      `[[...m.proofsOf(m.readRows(${here}).rows, input).keys()], [...m.readReasons(${here}).keys()]]`,
      written,
    );
    const neither = rows.map(({ id }) => id).filter((id) => !shown.includes(id) && !reasons.includes(id));
    const stale = reasons.filter((id) => shown.includes(id) || !rows.some((row) => row.id === id));
    expect({ neither, stale }).toEqual({ neither: [], stale: [] });
  });
});
