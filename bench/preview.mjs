// How long a look at an unchanged fleet takes, side by side with the least that any tool would have to ask libvirt for.
//
//   node bench/preview.mjs [number of VMs, default 100]
//
// The VMs are real domains with real disks, but are not running, so that the size of the fleet is not a matter of memory.
// It makes a stack and a pool of its own in a temporary folder, and removes them again.
import { join } from "node:path";
import { BenchStack, median, root } from "./stack.mjs";

const count = Number(process.argv[2] ?? 100);
async function three(work) {
  const runs = [];
  for (let i = 0; i < 3; i++) runs.push((await work()).seconds);
  return median(runs);
}

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

const stack = new BenchStack(stackFile);
try {
  await stack.init();
  console.log(`making ${count} VMs ...`);
  const made = await stack.up();
  const resources = JSON.parse((await stack.run("pulumi", ["stack", "export", "--stack", "bench"])).out).deployment
    .resources;
  const ofVms = resources.filter(({ urn }) => urn.includes("nixvm:index:VirtualMachine"));
  const look = ["preview", "--expect-no-changes", "--stack", "bench"];
  const preview = await three(() => stack.run("pulumi", look));
  // The least: each domain and each of its volumes asked for once, by one virsh that stays connected.
  const virsh = ["-q", "-c", stack.uri];
  const names = (await stack.run("virsh", [...virsh, "list", "--all", "--name"])).out
    .split("\n")
    .filter((name) => name.startsWith("nixvm-bench-"));
  const volumes = (await stack.run("virsh", [...virsh, "vol-list", "nixvm-bench"])).out
    .trim()
    .split("\n")
    .map((line) => line.trim().split(/\s+/)[0]);
  const script = [
    ...names.map((name) => `dumpxml ${name}`),
    ...volumes.map((volume) => `vol-dumpxml ${volume} nixvm-bench`),
  ];
  const least = await three(() => stack.run("virsh", virsh, `${script.join("\n")}\nquit\n`));
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
  await stack.remove();
}
