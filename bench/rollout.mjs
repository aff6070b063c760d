// What an upgrade costs each VM, against a plain stop and start of the same guest, and what two at a time save.
//
//   node bench/rollout.mjs [number of VMs, default 4]
//
// Real guests. It makes a stack and a pool of its own in a temporary folder, and removes them again.
import { createRequire } from "node:module";
import { join } from "node:path";
import { BenchStack, median, root } from "./stack.mjs";

const require = createRequire(import.meta.url);
const { LiveVm } = require("../bin/cli/guests.js");
const { downSpans, EventLog } = require("../bin/cli/eventLog.js");

const count = Number(process.argv[2] ?? 4);

function stackFile(protect, image = "v1", maxUnavailable = 1) {
  const vms = Array.from(
    { length: count },
    (_, i) => `    vm-${i + 1}: { network: { mode: user, sshPort: ${24200 + i} } }`,
  );
  return `config:
  nixvm:images: { os: { path: ${JSON.stringify(join(root, `.nixvm/images/reference-${image}.qcow2`))} } }
  nixvm:rollout: { canary: 0, maxUnavailable: ${maxUnavailable} }
  nixvm:defaults:
    image: os
    memory: 384MiB
    vcpus: 1
    persist: { size: 128MiB, protect: ${protect}, retain: ${protect} }
  nixvm:fleet:
${vms.join("\n")}
`;
}

const stack = new BenchStack((protect) => stackFile(protect, "v2", 2));
// Without it Pulumi has no --event-log.
stack.env.PULUMI_DEBUG_COMMANDS = "true";

/** One upgrade: seconds of the whole, and of each VM from the begin of its step to the end of its gate. */
async function upgrade(image, maxUnavailable) {
  stack.configure(stackFile(true, image, maxUnavailable));
  const file = join(stack.dir, `events-${image}-${maxUnavailable}.json`);
  const log = new EventLog(file);
  const { seconds } = await stack.up("--event-log", file);
  log.close();
  const down = [...downSpans(log.steps).values()].map(({ from, to }) => (to - from) / 1000);
  return { seconds, down };
}

try {
  await stack.init();
  stack.configure(stackFile(true));
  const made = await stack.up();
  const outputs = JSON.parse((await stack.run("pulumi", ["stack", "output", "--json", "--stack", "bench"])).out);
  const plain = [];
  for (const [name, vm] of Object.entries(outputs.vms)) {
    const live = new LiveVm(name, vm);
    plain.push(await live.restartPlainly());
    await live.settled();
  }
  const one = await upgrade("v2", 1);
  const two = await upgrade("v1", 2);
  console.log(
    JSON.stringify({
      vms: count,
      seconds: {
        firstUp: made.seconds,
        plainRestart: plain,
        downtime: one.down,
        oneAtATime: one.seconds,
        twoAtATime: two.seconds,
      },
      ratio: { downtime: median(one.down) / median(plain), twoAtATime: two.seconds / one.seconds },
    }),
  );
} finally {
  await stack.remove();
}
