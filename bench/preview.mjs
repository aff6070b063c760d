// How long a look at an unchanged fleet takes, side by side with the least that any tool would have to ask libvirt for.
//
//   node bench/preview.mjs [number of VMs, default 100]
//
// The VMs are real domains with real disks, but are not running, so that the size of the fleet is not a matter of memory.
// It makes a stack and a pool of its own in a temporary folder, and removes them again.
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { taskEnvironment } from "../tools/env.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const count = Number(process.argv[2] ?? 100);
const dir = mkdtempSync(join(tmpdir(), "nixvm-bench-"));
const env = {
  ...taskEnvironment(root),
  PULUMI_BACKEND_URL: `file://${join(dir, "state")}`,
  PULUMI_CONFIG_PASSPHRASE: "bench",
};
const uri = env.LIBVIRT_DEFAULT_URI;

function run(command, args, options = {}) {
  const began = performance.now();
  const result = spawnSync(command, args, { cwd: dir, env, encoding: "utf8", maxBuffer: 1 << 28, ...options });
  if (result.status !== 0) {
    throw new Error(`${command} ${args.join(" ")}: exit code ${result.status}\n${result.stdout}\n${result.stderr}`);
  }
  return { seconds: (performance.now() - began) / 1000, out: result.stdout };
}

const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
const three = (work) => median([1, 2, 3].map(() => work().seconds));

function stackFile(protect) {
  const vms = Array.from(
    { length: count },
    (_, i) => `    vm-${i + 1}: { network: { mode: user, sshPort: ${24000 + i} } }`,
  );
  return `config:
  nixvm:images: { os: { path: ${JSON.stringify(join(root, ".nixvm/images/reference-v1.qcow2"))} } }
  nixvm:rollout: { maxUnavailable: 4 }
  nixvm:defaults:
    image: os
    memory: 64MiB
    vcpus: 1
    running: false
    persist: { size: 64MiB, protect: ${protect}, retain: ${protect} }
  nixvm:fleet:
${vms.join("\n")}
`;
}

for (const part of ["bin", "node_modules", "provider", "Pulumi.yaml"]) symlinkSync(join(root, part), join(dir, part));
mkdirSync(join(dir, "state"));
mkdirSync(join(dir, "stacks"));
const file = join(dir, "stacks/Pulumi.bench.yaml");
writeFileSync(file, stackFile(true));
try {
  run("pulumi", ["stack", "init", "bench"]);
  console.log(`making ${count} VMs ...`);
  const made = run("pulumi", ["up", "--yes", "--skip-preview", "--stack", "bench"]);
  const resources = JSON.parse(run("pulumi", ["stack", "export", "--stack", "bench"]).out).deployment.resources;
  const ofVms = resources.filter(({ urn }) => urn.includes("nixvm:index:VirtualMachine"));
  const look = ["preview", "--expect-no-changes", "--stack", "bench"];
  const preview = three(() => run("pulumi", look));
  // The least: each domain and each of its volumes asked for once, by one virsh that stays connected.
  const names = execFileSync("virsh", ["-q", "-c", uri, "list", "--all", "--name"], { encoding: "utf8" })
    .split("\n")
    .filter((name) => name.startsWith("nixvm-bench-"));
  const volumes = run("virsh", ["-q", "-c", uri, "vol-list", "nixvm-bench"])
    .out.trim()
    .split("\n")
    .map((line) => line.trim().split(/\s+/)[0]);
  const script = [
    ...names.map((name) => `dumpxml ${name}`),
    ...volumes.map((volume) => `vol-dumpxml ${volume} nixvm-bench`),
  ];
  const least = three(() => run("virsh", ["-q", "-c", uri], { input: `${script.join("\n")}\nquit\n` }));
  console.log(
    JSON.stringify({
      vms: count,
      resources: resources.length,
      resourcesPerVm: ofVms.length / count,
      seconds: { up: made.seconds, preview, virshReadsAll: least },
      ratio: { preview: preview / least },
    }),
  );
} finally {
  writeFileSync(
    file,
    stackFile(false) +
      readFileSync(file, "utf8")
        .split("\n")
        .filter((line) => line.startsWith("encryptionsalt"))
        .join("\n"),
  );
  run("pulumi", [
    "up",
    "--yes",
    "--skip-preview",
    "--stack",
    "bench",
    "--target",
    "**PersistentVolume**",
    "--target",
    "**::pool-*",
  ]);
  run("pulumi", ["destroy", "--yes", "--skip-preview", "--stack", "bench"]);
  rmSync(dir, { recursive: true, force: true });
}
