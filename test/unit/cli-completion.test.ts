import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { Argument, Command, Option } from "commander";
import { completionScript, nodesOf, quoted, type Shell, SHELLS } from "../../cli/completion";
import { nixvm } from "../../cli/nixvm";
import { vmNames } from "../../cli/vmNames";

// Many short processes, and a machine may be busy.
jest.setTimeout(60_000);

const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm completion "));
afterAll(() => fs.rmSync(dir, { recursive: true, force: true }));

const namesFile = path.join(dir, "names");
fs.writeFileSync(namesFile, '#!/bin/sh\necho "db web-1 web-2 ${1:+stack-$1}"\n', { mode: 0o755 });
const hasShell = (shell: string): boolean => spawnSync(shell, ["--version"]).status === 0;

/** Verbs of every form that there is: with a group, choices, values, names of VMs, files, nothing. */
function program(): Command {
  const made = new Command("nixvm");
  made.command("start <vm...>").description("Start VMs, it's easy").option("--stack <name>").option("--json");
  made.command("list").option("--json", "print JSON");
  made
    .command("graph")
    .addOption(new Option("--format <format>", "form").choices(["dot", "json"]))
    .addArgument(new Argument("<of>").choices(["vms", "disks"]));
  const group = made.command("image");
  group.command("profiles").alias("list-profiles");
  group.command("diff <from> <to>");
  made.command("internal", { hidden: true });
  return made;
}

/** What bash offers at the end of a line. */
function bash(line: string, of = program(), cwd = dir): string[] {
  const words = line.split(" ");
  const script = [
    completionScript("bash", of, [namesFile]),
    'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _nixvm; printf "%s\\n" "${COMPREPLY[@]}"',
  ].join("\n");
  const done = spawnSync("bash", ["--norc", "-c", script, "bash", ...words], { encoding: "utf8", cwd });
  expect(done.stderr).toBe("");
  return done.stdout.split("\n").filter((word) => word !== "");
}

test("bash offers verbs, what is below a group, options, choices and names of VMs", () => {
  expect(bash("nixvm ")).toEqual(["start", "list", "graph", "image"]);
  expect(bash("nixvm st")).toEqual(["start"]);
  expect(bash("nixvm image ")).toEqual(["profiles", "list-profiles", "diff"]);
  expect(bash("nixvm start --")).toEqual(["--stack", "--json", "--help"]);
  expect(bash("nixvm graph --format ")).toEqual(["dot", "json"]);
  expect(bash("nixvm graph --format = j")).toEqual(["json"]);
  expect(bash("nixvm graph d")).toEqual(["disks"]);
  expect(bash("nixvm start ")).toEqual(["db", "web-1", "web-2"]);
  expect(bash("nixvm start db we")).toEqual(["web-1", "web-2"]);
  expect(bash("nixvm start --json w")).toEqual(["web-1", "web-2"]);
  // The value of an option is no verb, and the stack that is named is the one that is read.
  expect(bash("nixvm start --stack list s")).toEqual(["stack-list"]);
  expect(bash("nixvm list ")).toEqual([]);
});

test("bash offers files as they are, also with a space in them", () => {
  const folder = path.join(dir, "some files");
  fs.mkdirSync(folder);
  fs.writeFileSync(path.join(folder, "my image.qcow2"), "");
  expect(bash("nixvm image diff my", program(), folder)).toEqual(["my image.qcow2"]);
});

test("a hidden verb is not offered, an alias is", () => {
  const paths = nodesOf(program()).map(({ path }) => path.join(" "));
  expect(paths).toContain("image list-profiles");
  expect(paths).not.toContain("internal");
});

test.each(SHELLS)(
  "the script for %s has every verb of the program and is one that the shell can read (G-14)",
  (shell) => {
    const script = completionScript(shell, nixvm(), ["/path with space/node", namesFile]);
    const nodes = nodesOf(nixvm());
    expect(nodes.length).toBeGreaterThan(5);
    for (const node of nodes) {
      expect(script).toContain(node.path.join(" "));
      for (const { flags } of node.options) for (const flag of flags) expect(script).toContain(flag.replace(/^-+/, ""));
    }
    expect(script).toContain("'/path with space/node'");
    const check: Record<Shell, string[]> = { bash: ["-n"], zsh: ["-n"], fish: ["--no-execute"] };
    if (!hasShell(shell)) {
      // Loud, as the rest of this test has not seen the shell itself.
      console.warn(`${shell} is not installed: its script was read as text only`);
      expect((script.replaceAll("\\'", "").match(/'/g) ?? []).length % 2).toBe(0);
      return;
    }
    const file = path.join(dir, `script.${shell}`);
    fs.writeFileSync(file, script);
    const done = spawnSync(shell, [...check[shell], file], { encoding: "utf8" });
    expect([done.status, done.stderr]).toEqual([0, ""]);
  },
);

test("bash offers all verbs of the real program, and of each its options", () => {
  const of = nixvm();
  for (const { path, children, options } of nodesOf(of)) {
    const line = ["nixvm", ...path].join(" ");
    expect(bash(`${line} --`, of).sort()).toEqual(
      options.flatMap(({ flags }) => flags.filter((flag) => flag.startsWith("--"))).sort(),
    );
    if (children.length > 0) expect(bash(`${line} `, of).sort()).toEqual(children.map(({ name }) => name).sort());
  }
});

test("a word is quoted so that a shell reads the same word", () => {
  for (const word of ["", "plain", "two words", "it's", "$HOME `x` \\", "a;b"]) {
    const done = spawnSync("bash", ["-c", `printf %s ${quoted(word)}`], { encoding: "utf8" });
    expect(done.stdout).toBe(word);
  }
});

describe("names of VMs", () => {
  const root = path.join(dir, "project");
  const write = (stack: string, text: string): void => {
    fs.mkdirSync(path.join(root, "stacks"), { recursive: true });
    fs.writeFileSync(path.join(root, `stacks/Pulumi.${stack}.yaml`), text);
  };
  const empty = { HOME: dir };

  test("are those of the fleet and of groups, by their number, from the stack file only", () => {
    write("prod", "config:\n  nixvm:fleet:\n    web: {}\n    db:\n  nixvm:groups:\n    app: { count: 2 }\n    none:\n");
    expect(vmNames(root, "prod", empty)).toEqual(["app-1", "app-2", "db", "web"]);
    expect(vmNames(root, "", { ...empty, PULUMI_STACK: "prod" })).toEqual(["app-1", "app-2", "db", "web"]);
    expect(vmNames(root, "", empty)).toEqual([]);
  });

  test("are of the stack that is selected", () => {
    write("other", "config:\n  nixvm:fleet:\n    mail: {}\n");
    fs.writeFileSync(path.join(root, "Pulumi.yaml"), "name: nixvm\n");
    const home = path.join(dir, "pulumi");
    // As `pulumi stack select` names it.
    const hash = createHash("sha1").update(path.join(root, "Pulumi.yaml")).digest("hex");
    fs.mkdirSync(path.join(home, "workspaces"), { recursive: true });
    fs.writeFileSync(
      path.join(home, "workspaces", `nixvm-${hash}-workspace.json`),
      '{"stack":"organization/nixvm/other"}',
    );
    expect(vmNames(root, "", { ...empty, PULUMI_HOME: home })).toEqual(["mail"]);
  });

  test("are none of a file that is wrong or missing, without an error in the midst of a line", () => {
    write("bad", "config: [");
    expect([vmNames(root, "bad", empty), vmNames(root, "gone", empty), vmNames(root, "../../x", empty)]).toEqual([
      [],
      [],
      [],
    ]);
  });
});
