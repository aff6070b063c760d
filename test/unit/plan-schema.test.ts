import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { z } from "zod";
import { formatProblem, planFleet, SCHEMA_COMMENT, stackSchema, stackSchemaText } from "../../components/plan";
import { context, one, problemsOf } from "./plan-support";

const stacks = join(__dirname, "..", "..", "stacks");
const example = readFileSync(join(stacks, "Pulumi.example.yaml"), "utf8");
const validator = z.fromJSONSchema(stackSchema());

/** Config of a stack file without the namespace, as the program hands it to the planner. */
function sectionsOf(text: string): Record<string, unknown> {
  const { config } = parse(text) as { config: Record<string, unknown> };
  return Object.fromEntries(Object.entries(config).map(([key, value]) => [key.replace(/^nixvm:/, ""), value]));
}

const fileOf = (sections: Record<string, unknown>) => ({
  config: Object.fromEntries(Object.entries(sections).map(([key, value]) => [`nixvm:${key}`, value])),
});

interface Node {
  properties?: Record<string, Node>;
  additionalProperties?: Node | boolean;
  items?: Node;
  anyOf?: Node[];
  description?: string;
}

/** Every key of the model as a path with `*` for names and list items. */
function keysOf(node: Node, path: string[] = []): { path: string; node: Node }[] {
  const inner = (node.anyOf ?? []).flatMap((branch) => keysOf(branch, path));
  const named = Object.entries(node.properties ?? {}).flatMap(([key, child]) => {
    if (key === "secure") return [];
    const at = [...path, key];
    return [{ path: at.join("."), node: child }, ...keysOf(child, at)];
  });
  const rest = [node.additionalProperties, node.items].flatMap((child) =>
    typeof child === "object" ? keysOf(child, [...path, "*"]) : [],
  );
  return [...inner, ...named, ...rest];
}

const keys = keysOf((stackSchema() as Node).properties?.config ?? {});

test("the committed schema is the generated one: after a change of the model, build and run bin/components/plan/write-schema.js", () => {
  expect(readFileSync(join(stacks, "nixvm.schema.json"), "utf8")).toBe(stackSchemaText());
});

test("every key says what it means, for the editor", () => {
  expect(keys.length).toBeGreaterThan(100);
  expect(keys.filter(({ node }) => !node.description).map(({ path }) => path)).toEqual([]);
});

describe("stacks/Pulumi.example.yaml", () => {
  test("names the schema in its first line", () => expect(example.split("\n")[0]).toBe(SCHEMA_COMMENT));

  test("is accepted by the planner and by the schema", () => {
    const result = planFleet(sectionsOf(example), { project: "nixvm", stack: "example" });
    expect(result.ok ? [] : result.problems.map(formatProblem)).toEqual([]);
    expect(validator.safeParse(parse(example)).success).toBe(true);
  });

  test("shows every field of the model", () => {
    const written = new Set<string>();
    const walk = (value: unknown): void => {
      if (Array.isArray(value)) return value.forEach(walk);
      if (typeof value !== "object" || value === null) return;
      for (const [key, child] of Object.entries(value)) {
        written.add(key);
        walk(child);
      }
    };
    const config = (parse(example) as { config: Record<string, Record<string, unknown>> }).config;
    walk(config);
    // Fields of a VM have to be shown on a VM, not only under the same word elsewhere.
    const vms = config["nixvm:fleet"] ?? {};
    const shown = new Set(Object.values(vms).flatMap((vm) => Object.keys(vm ?? {})));
    const fields = keys.map(({ path }) => path.split("."));
    const missing = fields.filter((path) => {
      const key = path.at(-1) ?? "";
      const ofVm = path.length === 3 && path[0] === "nixvm:fleet";
      return ofVm && !["adminKeys", "userKeys"].includes(key)
        ? !shown.has(key) && key !== "vmDiskSize"
        : !written.has(key);
    });
    expect(missing.map((path) => path.join("."))).toEqual([]);
  });
});

describe("the schema and the planner agree", () => {
  test.each<[string, Record<string, unknown>]>([
    ["an unknown key", one({ memroy: 1 })],
    ["a decimal unit", one({ persist: { size: "2GB" } })],
    ["an unknown preset", one({ preset: "x" })],
    ["a port out of range", one({ tcpPorts: [0] })],
    ["a bad VM name", { fleet: { Web: {} } }],
    ["an unknown network mode", one({ network: "brige" })],
    ["a group without count", { groups: { w: {} } }],
    ["a scalar as VM", one(5)],
    ["a fraction of a CPU", one({ vcpus: 1.5 })],
    ["a bad role", one({ accounts: [{ name: "a", role: "x" }] })],
  ])("both refuse %s", (_what, config) => {
    expect(problemsOf(config)).not.toEqual([]);
    expect(validator.safeParse(fileOf(config)).success).toBe(false);
  });

  test("both take an empty section and an empty entry", () => {
    const config = {
      images: { os: { path: "a.qcow2" } },
      defaults: { image: "os" },
      fleet: { web: null },
      groups: null,
    };
    expect(problemsOf(config)).toEqual([]);
    expect(validator.safeParse(fileOf(config)).success).toBe(true);
  });

  test("an encrypted value may stand where a secret may, and nowhere else (G-5)", () => {
    const secure = { secure: "v1:abc" };
    const accepts = (vm: unknown) => validator.safeParse(fileOf(one(vm))).success;
    expect(accepts({ rootPasswordHash: secure })).toBe(true);
    expect(accepts({ accounts: [{ name: "a", role: "user", passwordHash: secure }] })).toBe(true);
    expect(accepts({ hostname: secure })).toBe(false);
  });

  test("other namespaces and Pulumi's own keys are none of its business", () => {
    expect(validator.safeParse({ encryptionsalt: "v1:x", config: { "libvirt:uri": "x" } }).success).toBe(true);
    expect(problemsOf({}, context)).toEqual([]);
  });
});
