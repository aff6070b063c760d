import * as fs from "node:fs";
import * as path from "node:path";
import type { Command } from "commander";
import { EXIT } from "../../cli/errors";
import { nixvm } from "../../cli/nixvm";

const page = fs.readFileSync(path.resolve(__dirname, "../../docs/verbs.md"), "utf8");

/** Every verb that does something, by what is typed. */
function verbs(command: Command, before: string[] = []): [string, Command][] {
  return command.commands.flatMap((one): [string, Command][] => {
    const words = [...before, one.name()];
    return one.commands.length > 0 ? verbs(one, words) : [[words.join(" "), one]];
  });
}

const all = verbs(nixvm()).filter(([, command]) => !(command as unknown as { _hidden?: boolean })._hidden);

test.each(all)("%s has a line on the page, a description, --json and --stack (G-14)", (name, command) => {
  const line = page.split("\n").find((text) => text.startsWith(`| \`${name}\``) || text.startsWith(`| \`${name} `));
  expect(line).toBeDefined();
  expect(command.description()).not.toBe("");
  const options = command.options.map(({ long }) => long);
  // What completion prints is a script of a shell, and belongs to no stack.
  if (!name.startsWith("completion")) expect(options).toEqual(expect.arrayContaining(["--json", "--stack"]));
});

test("the page names no verb that there is not", () => {
  const named = [...page.matchAll(/^\| `([a-z -]+?)(?: [<[(].*?)?` \|/gm)].map(([, name]) => name);
  expect(named.length).toBeGreaterThan(20);
  expect(named.filter((name) => !all.some(([verb]) => verb === name))).toEqual([]);
});

test("the page has every exit code", () => {
  for (const code of Object.values(EXIT)) expect(page).toContain(`| ${code} |`);
});
