import { Gauge, Registry } from "prom-client";
import { type Pending } from "./pending";
import { type StatusRow } from "./statusRow";
import { isOn, type VmFacts } from "./vmFacts";

/** What metrics are made of. */
export interface Scrape {
  stack: string;
  facts: readonly VmFacts[];
  rows: readonly StatusRow[];
  pending: Pending;
  /** Epoch milliseconds. */
  at: number;
}

type Value = number | boolean | undefined;

interface Metric {
  name: string;
  help: string;
  /** Labels beyond `stack`, `vm`, `group` and `host`. */
  labels?: readonly string[];
  /** Undefined: not known, so there is no sample of this VM. */
  of: (row: StatusRow, facts: VmFacts) => Value | { value: number; labels: Record<string, string> };
}

const VM_METRICS: readonly Metric[] = [
  {
    name: "nixvm_vm_up",
    help: "Whether the domain runs",
    of: ({ state }) => (state === undefined ? undefined : isOn(state)),
  },
  { name: "nixvm_vm_declared_up", help: "Whether it is declared to run", of: (_row, { vm }) => vm.running },
  {
    name: "nixvm_vm_healthy",
    help: "Whether the guest says that it is healthy; none of a VM that is off as declared",
    of: ({ health }) => health.healthy,
  },
  {
    name: "nixvm_vm_image_info",
    help: "The image that it boots; always 1",
    labels: ["digest", "version"],
    of: ({ image }) => image && { value: 1, labels: { digest: image.digest, version: image.version ?? "" } },
  },
  {
    name: "nixvm_vm_image_since_seconds",
    help: "When it was given that image, as seconds since 1970",
    of: ({ image }) => (image?.since === undefined ? undefined : Date.parse(image.since) / 1000),
  },
  { name: "nixvm_vm_drift", help: "How many facts differ from the state", of: ({ drift }) => drift?.length },
  {
    name: "nixvm_vm_persist_size_bytes",
    help: "Size of the file system on its persistent volume",
    of: ({ disk }) => persistent(disk)?.sizeBytes,
  },
  {
    name: "nixvm_vm_persist_used_bytes",
    help: "What is used of that",
    of: ({ disk }) => persistent(disk)?.usedBytes,
  },
  { name: "nixvm_vm_memory_bytes", help: "Memory that libvirt gives it", of: ({ memory }) => memory?.bytes },
  {
    name: "nixvm_vm_memory_used_bytes",
    help: "Memory that is not available in it",
    of: ({ memory }) => memory?.usedBytes,
  },
  {
    name: "nixvm_vm_boot_time_seconds",
    help: "When its kernel started, as seconds since 1970",
    of: ({ uptimeSeconds }, { at }) =>
      uptimeSeconds === undefined ? undefined : Math.round(at / 1000 - uptimeSeconds),
  },
  {
    name: "nixvm_vm_reboot_required",
    help: "Whether something waits for its restart",
    of: ({ rebootRequired }) => rebootRequired,
  },
  {
    name: "nixvm_vm_quarantined_images",
    help: "Images that failed on it and are not tried again",
    of: ({ quarantined }) => quarantined.length,
  },
];

const persistent = (disk: StatusRow["disk"]): StatusRow["disk"] => (disk?.mount === "/" ? undefined : disk);

const HOST_ERROR = {
  name: "nixvm_scrape_error",
  help: "Whether some VM of a host could not be asked",
  labelNames: ["host"],
};
const KNOWN = { name: "nixvm_rollout_known", help: "Whether it could be told what the next run would change" };
const PENDING = {
  name: "nixvm_rollout_pending_vms",
  help: "VMs that the next run makes (new) or brings to another image (image)",
  labelNames: ["kind"],
};
const TIME = { name: "nixvm_scrape_time_seconds", help: "When this was looked up, as seconds since 1970" };

/** All names there are. */
export const METRIC_NAMES: readonly string[] = [
  ...VM_METRICS.map(({ name }) => name),
  ...[HOST_ERROR, KNOWN, PENDING, TIME].map(({ name }) => name),
];

/** The metrics in Prometheus' text form. What is not known has no sample, so that no alert and no graph takes it for a value. */
export function metricsText({ stack, facts, rows, pending, at }: Scrape): Promise<string> {
  // One of its own: the default registry is for whoever is a service.
  const registry = new Registry();
  // Two stacks on one machine may have VMs of the same names.
  registry.setDefaultLabels({ stack });
  const registers = [registry];
  for (const { name, help, labels = [], of } of VM_METRICS) {
    const gauge = new Gauge({ name, help, labelNames: ["vm", "group", "host", ...labels], registers });
    for (const [index, row] of rows.entries()) {
      const one = facts[index];
      const said = one && of(row, one);
      if (said === undefined) continue;
      const { value, labels: more } = typeof said === "object" ? said : { value: Number(said), labels: {} };
      gauge.set({ vm: row.name, group: row.group ?? "", host: row.host, ...more }, value);
    }
  }
  const errors = new Gauge({ ...HOST_ERROR, registers });
  for (const { vm } of facts) errors.set({ host: vm.host }, 0);
  for (const { vm, hostProblem } of facts) if (hostProblem !== undefined) errors.set({ host: vm.host }, 1);
  const known = "waves" in pending;
  new Gauge({ ...KNOWN, registers }).set(Number(known));
  const waiting = new Gauge({ ...PENDING, registers });
  if (known) {
    const count = (isNew: boolean) =>
      pending.waves.filter(({ kind }) => (kind === "new") === isNew).reduce((sum, { vms }) => sum + vms.length, 0);
    waiting.set({ kind: "new" }, count(true));
    waiting.set({ kind: "image" }, count(false));
  }
  new Gauge({ ...TIME, registers }).set(Math.floor(at / 1000));
  return registry.metrics();
}
