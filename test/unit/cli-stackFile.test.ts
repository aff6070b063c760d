import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import * as fc from "fast-check";
import { StackFile } from "../../cli/stackFile";

let dir: string;
beforeEach(() => (dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm stack "))));
afterEach(() => fs.rmSync(dir, { recursive: true, force: true }));

function open(text: string): StackFile {
  const file = path.join(dir, "Pulumi.test.yaml");
  fs.writeFileSync(file, text, { mode: 0o640 });
  return StackFile.open(file);
}

const TEXT = `# ours
config:
  # the fleet
  nixvm:fleet:
    web: # the web server
      memory: 1GiB # enough
    db:
    plain: {}
`;

test("comments, order and mode stay where a value is changed or added", () => {
  const file = open(TEXT);
  file.set(["nixvm:fleet", "web", "memory"], "2GiB");
  file.set(["nixvm:fleet", "db", "running"], false);
  file.save();
  expect(fs.readFileSync(file.file, "utf8")).toBe(`# ours
config:
  # the fleet
  nixvm:fleet:
    web: # the web server
      memory: 2GiB # enough
    db:
      running: false
    plain: {}
`);
  expect(fs.statSync(file.file).mode & 0o777).toBe(0o640);
  expect(fs.readdirSync(dir)).toEqual(["Pulumi.test.yaml"]);
});

test("a stack file behind a link is written where it is", () => {
  const { file } = open(TEXT);
  const link = path.join(dir, "Pulumi.link.yaml");
  fs.symlinkSync(path.basename(file), link);
  const linked = StackFile.open(link);
  linked.set(["nixvm:fleet", "web", "memory"], "2GiB");
  linked.save();
  expect(fs.lstatSync(link).isSymbolicLink()).toBe(true);
  expect(fs.readFileSync(file, "utf8")).toContain("memory: 2GiB");
});

test("what is changed back after it was saved is saved too", () => {
  const file = open(TEXT);
  for (const memory of ["2GiB", "1GiB"]) {
    file.set(["nixvm:fleet", "web", "memory"], memory);
    file.save();
  }
  expect(fs.readFileSync(file.file, "utf8")).toBe(TEXT);
});

test("a section that is not there is made", () => {
  const file = open("config:\n  nixvm:fleet:\n    web:\n");
  file.set(["nixvm:groups", "worker", "members", "2", "running"], false);
  expect(file.get(["nixvm:groups", "worker", "members", "2"])).toEqual({ running: false });
  expect(file.keys(["nixvm:fleet"])).toEqual(["web"]);
});

test("all of a block that is added is as far in as its siblings; an empty map in braces is opened", () => {
  const file = open(TEXT);
  file.set(["nixvm:fleet", "web", "persist", "protect"], false);
  file.set(["nixvm:fleet", "plain", "vcpus"], 4);
  file.set(["nixvm:fleet", "new"], { memory: "1GiB", tcpPorts: [22, 80] });
  expect(file.text()).toBe(`# ours
config:
  # the fleet
  nixvm:fleet:
    web: # the web server
      memory: 1GiB # enough
      persist:
        protect: false
    db:
    plain:
      vcpus: 4
    new:
      memory: 1GiB
      tcpPorts:
        - 22
        - 80
`);
});

test("an entry goes with all its lines, and what stands around it stays", () => {
  const file = open(TEXT);
  file.delete(["nixvm:fleet", "web"]);
  file.delete(["nixvm:fleet", "plain"]);
  file.delete(["nixvm:fleet", "none"]);
  file.delete(["nixvm:groups", "none", "members", "2"]);
  expect(file.text()).toBe("# ours\nconfig:\n  # the fleet\n  nixvm:fleet:\n    db:\n");
});

test("whatever is set is read back, in every shape of file that an editor leaves", () => {
  const shapes = [
    TEXT,
    TEXT.replaceAll("\n", "\r\n"),
    "config: {}\n",
    "config:\n  nixvm:fleet: { web: { memory: 1GiB } }",
    "",
  ];
  const names = fc.constantFrom("web", "db", "plain", "new", "2");
  const values = fc.oneof(
    fc.boolean(),
    fc.integer(),
    fc.constantFrom("1GiB", "", "a: b", "# no", "yes", "2"),
    fc.constant([1]),
  );
  const edit = fc.tuple(names, fc.constantFrom("memory", "running", "tcpPorts"), values);
  fc.assert(
    fc.property(fc.constantFrom(...shapes), fc.array(edit, { maxLength: 6 }), (shape, edits) => {
      const file = open(shape);
      const wanted = new Map<string, unknown>();
      for (const [name, field, value] of edits) {
        file.set(["nixvm:fleet", name, field], value);
        wanted.set(`${name} ${field}`, value);
      }
      file.save();
      const again = StackFile.open(file.file);
      for (const [key, value] of wanted) expect(again.get(["nixvm:fleet", ...key.split(" ")])).toEqual(value);
    }),
  );
});

test("nothing is written when nothing is changed", () => {
  const odd = "config:\n    nixvm:fleet: {web: {memory:   1GiB}}\n";
  const file = open(odd);
  file.set(["nixvm:fleet", "web", "memory"], "1GiB");
  expect(file.changed).toBe(false);
  file.save();
  expect(fs.readFileSync(file.file, "utf8")).toBe(odd);
});

test("what was saved can be put back", () => {
  const file = open(TEXT);
  file.delete(["nixvm:fleet", "web"]);
  file.save();
  expect(fs.readFileSync(file.file, "utf8")).not.toContain("web");
  file.restore();
  expect(fs.readFileSync(file.file, "utf8")).toBe(TEXT);
});

test("a merge conflict is refused, with the line where it begins", () => {
  const conflict = "config:\n  nixvm:fleet:\n<<<<<<< HEAD\n    web:\n=======\n    db:\n>>>>>>> other\n";
  expect(() => open(conflict)).toThrow(/Pulumi\.test\.yaml:3: has a merge conflict in it; resolve it first/);
});

test("a file that is no YAML is refused, with the place", () => {
  expect(() => open("config:\n  a: [1\n")).toThrow(/Pulumi\.test\.yaml: .* line 3/s);
});

test("a stack without a file is refused, with the name", () => {
  expect(() => StackFile.open(path.join(dir, "Pulumi.none.yaml"))).toThrow(/"Pulumi.none.yaml" does not exist/);
});
