import * as fs from "node:fs";
import * as path from "node:path";
import { hasTests, titlesOf } from "../helpers/titles";

const ROOT = path.resolve(__dirname, "..", "..");
const TOP = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"];
const INDEX = "docs/INDEX.md";

const read = (file: string): string => fs.readFileSync(path.join(ROOT, file), "utf8");
const exists = (file: string): boolean => fs.existsSync(path.join(ROOT, file));

function filesBelow(folder: string): string[] {
  return fs
    .readdirSync(path.join(ROOT, folder), { recursive: true, encoding: "utf8" })
    .map((entry) => path.join(folder, entry))
    .filter((file) => fs.statSync(path.join(ROOT, file)).isFile());
}

const pages = filesBelow("docs").filter((file) => file.endsWith(".md"));
const documents = [...TOP, ...pages];

/** What is meant literally is not prose: no links there. */
function withoutCode(text: string): string {
  return text.replace(/^```[\s\S]*?^```/gm, "").replace(/`[^`\n]*`/g, "");
}

/** The anchors that a page offers, made of its headings the way code hosts do. */
function anchorsOf(text: string): string[] {
  const headings = [...text.replace(/^```[\s\S]*?^```/gm, "").matchAll(/^#+ +(.*)$/gm)].map(([, title]) => title ?? "");
  return headings.map((title) =>
    title
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, "")
      .replace(/ /g, "-"),
  );
}

function linksOf(text: string): string[] {
  return [...withoutCode(text).matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, target]) => target ?? "")
    .filter((target) => !/^[a-z]+:/.test(target));
}

/** Links of a document that lead nowhere. `text` is its content. */
function deadLinks(file: string, text: string): string[] {
  return linksOf(text).filter((link) => {
    const [target = "", anchor] = link.split("#");
    const to = target === "" ? file : path.normalize(path.join(path.dirname(file), target));
    if (!exists(to)) {
      return true;
    }
    return anchor !== undefined && !anchorsOf(to === file ? text : read(to)).includes(anchor);
  });
}

/** npm commands in a text that package.json does not have. */
function unknownCommands(text: string, scripts: ReadonlySet<string>): string[] {
  const run = [...text.matchAll(/\bnpm run (?:-s )?([a-z][a-z:-]*)/g)].map(([, name]) => name ?? "");
  const short = [...text.matchAll(/\bnpm (test|start)\b/g)].map(([, name]) => name ?? "");
  return [...run, ...short].filter((name) => !scripts.has(name));
}

const PROMISE = /^- \[[a-z -]+\] .*\.(?: \([^)]+\))? — test: "([^"]+)" "([^"]+)"$/;

/** Promises of a specification that no test stands for. `titles` tells the test titles of a file, undefined without one. */
function unprovenPromises(text: string, titles: (file: string) => string[] | undefined): string[] {
  return text
    .split("\n")
    .filter((line) => line.startsWith("- "))
    .flatMap((line) => {
      const [, file, name] = PROMISE.exec(line) ?? [];
      if (file === undefined || name === undefined) {
        return [`not of the form '- [area] promise. (rows) — test: "<file>" "<name>"': ${line}`];
      }
      const known = titles(file);
      if (known === undefined) {
        return [`no test file ${file}: ${line}`];
      }
      return known.some((title) => title.includes(name)) ? [] : [`no test "${name}" in ${file}: ${line}`];
    });
}

const scripts = new Set(Object.keys((JSON.parse(read("package.json")) as { scripts: object }).scripts));

describe("the specification", () => {
  const known = new Map<string, string[]>();
  const titles = (file: string): string[] | undefined => {
    if (!hasTests(file) || !exists(file)) {
      return undefined;
    }
    const found = known.get(file) ?? titlesOf(read(file)).map(({ title }) => title);
    known.set(file, found);
    return found;
  };

  test("every promise names a test that is there", () => {
    expect(unprovenPromises(read("docs/SPECIFICATION.md"), titles)).toEqual([]);
  });

  test("no promise is made twice", () => {
    const promises = read("docs/SPECIFICATION.md")
      .split("\n")
      .filter((line) => line.startsWith("- "))
      .map((line) => line.split(" — ")[0]);
    expect(promises.length).toBeGreaterThan(100);
    expect(promises.filter((line, index) => promises.indexOf(line) !== index)).toEqual([]);
  });

  test.each([
    ["- [a] It holds.", "not of the form"],
    ['- [a] It holds. — test: "test/unit/none.test.ts" "x"', "no test file"],
    ['- [a] It holds. (X-1) — test: "test/unit/event-log.test.ts" "flies to the moon"', "no test"],
    ['- [a] It holds. — test: "package.json" "name"', "no test file"],
  ])("a promise without proof is found: %s", (line, problem) => {
    expect(unprovenPromises(line, titles)).toEqual([expect.stringContaining(problem)]);
  });

  test("titles of tests, groups and rows are known, comments and other texts are not", () => {
    const found = titles("test/unit/docs.test.ts") ?? [];
    expect(found).toContain("the specification");
    expect(found).toContain("- [a] It holds.");
    expect(found).not.toContain("no test file");
  });
});

describe("documents", () => {
  test.each(documents)("%s: every link leads to something that is there", (file) => {
    expect(deadLinks(file, read(file))).toEqual([]);
  });

  test("dead links and missing anchors are found, code is left alone", () => {
    const text = "[a](none.md) [b](README.md#nowhere) [c](#here) [d](https://x.example) `[e](none)`\n\n## Here\n";
    expect(deadLinks("README.md", text)).toEqual(["none.md", "README.md#nowhere"]);
  });

  test("the index has every page, once", () => {
    const listed = linksOf(read(INDEX)).map((link) => path.normalize(path.join("docs", link)));
    expect(listed.filter((link) => link.startsWith("docs/")).sort()).toEqual(
      pages.filter((page) => page !== INDEX).sort(),
    );
  });

  test.each(documents)("%s: every npm command named is one of package.json", (file) => {
    expect(unknownCommands(read(file), scripts)).toEqual([]);
  });

  test("an unknown command is found", () => {
    expect(unknownCommands("`npm run nothing`, npm run -s env, npm start, npm test", scripts)).toEqual([
      "nothing",
      "start",
    ]);
  });

  test("pages that the code points to are there", () => {
    const sources = [
      ...["Pulumi.yaml", "jest.config.js", "index.ts"],
      ...["cli", "components", "images", "nix", "provider", "stacks", "test", "tools"].flatMap(filesBelow),
    ];
    const named = sources.flatMap((file) => read(file).match(/\bdocs\/[\w/-]+\.md\b/g) ?? []);
    expect(named).toContain("docs/testing.md");
    expect(named.filter((page) => !exists(page))).toEqual([]);
  });

  test("decision records have context, decision and consequences, in order, on one page", () => {
    const records = pages.filter((page) => page.startsWith("docs/decisions/")).sort();
    for (const [index, file] of records.entries()) {
      const text = read(file);
      const number = String(index + 1).padStart(4, "0");
      expect(path.basename(file)).toMatch(new RegExp(`^${number}-`));
      expect(text.split("\n")[0]).toMatch(new RegExp(`^# ${number} `));
      expect(text.match(/^## .*$/gm)).toEqual(["## Context", "## Decision", "## Consequences"]);
      expect(text.split("\n").length).toBeLessThan(42);
    }
  });
});
