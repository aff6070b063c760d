import * as fs from "node:fs";
import * as path from "node:path";
import { parse } from "yaml";
import { METRIC_NAMES, metricsText } from "../../cli/metricsText";
import { rowOf } from "../../cli/statusRow";
import { type VmFacts } from "../../cli/vmFacts";
import { AT, DIGEST, factsOf, guestOf, sampleFacts, stateVm } from "../helpers/sampleFleet";

const text = (facts: readonly VmFacts[], pending: Parameters<typeof metricsText>[0]["pending"] = { waves: [] }) =>
  metricsText({ stack: "prod", facts, rows: facts.map((one) => rowOf(one)), pending, at: AT });

/** Value of a sample, by its name and labels. */
async function valueOf(of: Promise<string>, name: string, labels: Record<string, string>): Promise<number | undefined> {
  for (const line of (await of).split("\n")) {
    const [, found, inner = "", value] = /^(\w+)\{(.*)\} (\S+)$/.exec(line) ?? [];
    const pairs = [...inner.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, label]) => [key, label]);
    const said = Object.fromEntries(pairs) as Record<string, string>;
    if (found === name && Object.entries(labels).every(([key, label]) => said[key] === label)) return Number(value);
  }
  return undefined;
}

describe("metrics", () => {
  const all = text(sampleFacts());
  const of = (name: string, vm: string) => valueOf(all, name, { vm, stack: "prod" });

  test("have a sample of what is known of each VM", async () => {
    expect(await of("nixvm_vm_up", "web-1")).toBe(1);
    expect(await of("nixvm_vm_healthy", "web-1")).toBe(1);
    expect(await of("nixvm_vm_healthy", "worker-2")).toBe(0);
    expect(await of("nixvm_vm_healthy", "worker-3")).toBe(0);
    expect(await of("nixvm_vm_drift", "db")).toBe(1);
    expect(await of("nixvm_vm_drift", "web-1")).toBe(0);
    expect(await of("nixvm_vm_reboot_required", "git")).toBe(1);
    expect(await of("nixvm_vm_quarantined_images", "db")).toBe(1);
    expect(await of("nixvm_vm_persist_size_bytes", "web-1")).toBe(8000 * 2 ** 20);
    expect(await of("nixvm_vm_persist_used_bytes", "web-1")).toBe(1330 * 2 ** 20);
    expect(await of("nixvm_vm_memory_bytes", "db")).toBe(3072 * 2 ** 20);
    expect(await of("nixvm_vm_boot_time_seconds", "db")).toBe(AT / 1000 - 283_000);
    const labels = { vm: "worker-1", group: "worker", host: "rack-2", digest: DIGEST.v1, version: "25.11.1" };
    expect(await valueOf(all, "nixvm_vm_image_info", labels)).toBe(1);
  });

  test("have none of what nobody could say", async () => {
    for (const name of METRIC_NAMES.filter((one) => one.startsWith("nixvm_vm_"))) {
      const known = ["nixvm_vm_declared_up", "nixvm_vm_quarantined_images"].includes(name);
      expect([name, (await of(name, "backup")) !== undefined]).toEqual([name, known]);
    }
    expect(await of("nixvm_vm_up", "mail")).toBe(0);
    expect(await of("nixvm_vm_declared_up", "mail")).toBe(0);
    expect(await of("nixvm_vm_healthy", "mail")).toBeUndefined();
    expect(await of("nixvm_vm_persist_used_bytes", "worker-3")).toBeUndefined();
    expect(await valueOf(all, "nixvm_scrape_error", { host: "attic" })).toBe(1);
    expect(await valueOf(all, "nixvm_scrape_error", { host: "rack-1" })).toBe(0);
  });

  test("have the root's fill of no image: it is no persistent volume", async () => {
    const vm = stateVm("cloud", { contract: "none" });
    const guest = { ...guestOf(vm) };
    delete guest.status;
    expect(await valueOf(text([factsOf(vm, { guest })]), "nixvm_vm_persist_used_bytes", {})).toBeUndefined();
  });

  test("count the VMs that a run would change, or say that it cannot be told", async () => {
    const waves = [
      { kind: "new" as const, vms: ["a", "b"], lanes: 2 },
      { kind: "canary" as const, vms: ["c"], lanes: 1 },
      { kind: "batch" as const, vms: ["d", "e"], lanes: 1 },
    ];
    const some = text([], { waves });
    expect(await valueOf(some, "nixvm_rollout_pending_vms", { kind: "new" })).toBe(2);
    expect(await valueOf(some, "nixvm_rollout_pending_vms", { kind: "image" })).toBe(3);
    expect(await valueOf(some, "nixvm_rollout_known", {})).toBe(1);
    const none = text([], { unknown: "image x is not downloaded yet" });
    expect(await valueOf(none, "nixvm_rollout_known", {})).toBe(0);
    expect(await none).not.toMatch(/^nixvm_rollout_pending_vms\{/m);
  });

  test("are one line a sample, whatever a guest calls its image", async () => {
    const vm = stateVm("web");
    const nasty = 'v"2\\\n{evil="1"} 9';
    const guest = guestOf(vm, {}, { imageVersion: nasty });
    const lines = (await text([factsOf(vm, { guest })]))
      .split("\n")
      .filter((line) => line !== "" && !line.startsWith("#"));
    expect(lines.filter((line) => !/^nixvm_\w+\{(?:\w+="(?:[^"\\]|\\.)*",?)*\} \d+(\.\d+)?$/.test(line))).toEqual([]);
    expect(lines.join("\n")).toContain(String.raw`version="v\"2\\\n{evil=\"1\"} 9"`);
  });

  test("are named once, each with its help", async () => {
    const helps = [...(await all).matchAll(/^# HELP (\w+) \S/gm)].map(([, name]) => name);
    expect(helps).toEqual([...METRIC_NAMES]);
    expect(new Set(METRIC_NAMES).size).toBe(METRIC_NAMES.length);
  });
});

describe("the example of alert rules", () => {
  const rules = parse(fs.readFileSync(path.resolve(__dirname, "../../docs/alerts.yml"), "utf8")) as {
    groups: { name: string; rules: Record<string, unknown>[] }[];
  };
  const all = rules.groups.flatMap((group) => group.rules);

  test("is of the form that Prometheus wants", () => {
    expect(Object.keys(rules)).toEqual(["groups"]);
    for (const rule of all) {
      expect(rule).toMatchObject({ alert: expect.stringMatching(/^Nixvm[A-Za-z]+$/), expr: expect.any(String) });
      expect(rule).toMatchObject({
        labels: { severity: expect.any(String) },
        annotations: { summary: expect.any(String) },
      });
      if ("for" in rule) expect(rule["for"]).toMatch(/^\d+[smhdw]$/);
      expect(
        Object.keys(rule).filter((key) => !["alert", "expr", "for", "labels", "annotations"].includes(key)),
      ).toEqual([]);
    }
    expect(new Set(all.map(({ alert }) => alert)).size).toBe(all.length);
  });

  test("names only metrics that there are", () => {
    const named = all.map(({ expr }) => String(expr).match(/\bnixvm_\w+/g) ?? []);
    expect(named.filter((names) => names.length === 0)).toEqual([]);
    expect([...new Set(named.flat())].filter((name) => !METRIC_NAMES.includes(name))).toEqual([]);
  });
});
