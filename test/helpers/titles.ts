import ts from "typescript";

/** A title in a test file, with the titles of the groups around it. */
export interface Title {
  groups: string[];
  title: string;
}

/** Whether a file below the project's root has tests in it: `live/verbs.test.ts` takes those of `live/verbs/`. */
export const hasTests = (file: string): boolean => /^test\/(.*\.test\.ts|live\/verbs\/[^/]+\.ts)$/.test(file);

/**
 * Titles of a test file: of calls of describe, test and it, and of rows, whose first text stands for `%s` in a title. What a title
 * gets from a variable is `%s` too.
 */
export function titlesOf(source: string): Title[] {
  const titles: Title[] = [];
  const textOf = (node: ts.Node | undefined): string | undefined => {
    if (node && ts.isTemplateExpression(node)) {
      return node.templateSpans.reduce((text, { literal }) => `${text}%s${literal.text}`, node.head.text);
    }
    return node && ts.isStringLiteralLike(node) ? node.text : undefined;
  };
  /** The first name of `test.each(rows)`, `describe.each<T>(rows)` and so on. */
  const rootOf = (node: ts.Expression): string => {
    if (ts.isIdentifier(node)) {
      return node.text;
    }
    return ts.isCallExpression(node) || ts.isPropertyAccessExpression(node) ? rootOf(node.expression) : "";
  };
  const visit = (node: ts.Node, groups: string[]): void => {
    const called = ts.isCallExpression(node) ? rootOf(node.expression) : "";
    const title =
      ts.isCallExpression(node) && /^(describe|test|it)$/.test(called)
        ? textOf(node.arguments[0])
        : ts.isArrayLiteralExpression(node)
          ? textOf(node.elements[0])
          : undefined;
    if (title !== undefined) {
      titles.push({ groups, title });
    }
    const inside = called === "describe" && title !== undefined ? [...groups, title] : groups;
    ts.forEachChild(node, (child) => visit(child, inside));
  };
  visit(ts.createSourceFile("test.ts", source, ts.ScriptTarget.ES2022), []);
  return titles;
}
