import * as path from "node:path";
import { CliProject } from "../helpers/cliProject";
import { newKey } from "../helpers/guest";
import { IMAGES } from "../helpers/liveStack";
import { accessSteps } from "./verbs/access";
import { declareSteps } from "./verbs/declare";
import { backupSteps } from "./verbs/backup";
import { importSteps } from "./verbs/import";
import { imageSteps } from "./verbs/image";
import { listSteps } from "./verbs/list";
import { viewSteps } from "./verbs/view";
import { snapshotSteps } from "./verbs/snapshot";

/** One fleet of two VMs for all verbs: a boot costs more than everything else. Each area leaves it as it found it. */
let project: CliProject | undefined;
const fleet = (): CliProject => {
  if (!project) throw new Error("the fleet did not come up");
  return project;
};

// A verb on a real guest may wait for a boot, which is slow without KVM.
jest.setTimeout(10 * 60_000);

beforeAll(async () => {
  project = await CliProject.make("verbs", (dir) => ({
    images: { reference: { path: path.join(IMAGES, "reference-v1.qcow2") } },
    rollout: { gateTimeout: "8m", stopTimeout: "2m" },
    defaults: {
      image: "reference",
      memory: 512,
      memoryMaximum: 768,
      vcpus: 1,
      persist: { size: "1GiB" },
      network: "user",
      adminKeys: [newKey(dir, "admin").publicKey],
      userKeys: [newKey(dir, "user").publicKey],
    },
    fleet: {
      db: { network: { mode: "user", sshPort: 23401 } },
      web: { network: { mode: "user", sshPort: 23402 } },
    },
  }));
  await project.up();
});

afterAll(() => project?.remove());

accessSteps(fleet);
backupSteps(fleet);
imageSteps(fleet);
listSteps(fleet);
declareSteps(fleet);
importSteps(fleet);
viewSteps(fleet);
snapshotSteps(fleet);
