import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join, resolve } from "node:path";
import * as pulumi from "@pulumi/pulumi";
import { EngineEvent, LocalWorkspace, Stack } from "@pulumi/pulumi/automation";
import type { Check } from "../../provider/checkScript";
import { Guest, GuestArgs } from "../../provider/guest";
import { domainXml } from "../unit/provider-fake";

// The real engine and the real provider process, on a virsh that simulates domains in files: what is proven here is how
// the two speak with each other, which no fake of either could show.

const root = resolve(__dirname, "..", "..");
const simTools = join(__dirname, "provider-sim");
const uuid = "11111111-2222-4333-8444-555555555555";

interface Wish {
  image: string;
  medium?: string;
  createTimeout?: string;
  /** Another one is another chassis. */
  placeholder?: string;
  guest?: Partial<GuestArgs>;
}

class SimDomain extends pulumi.CustomResource {
  constructor(name: string, args: { uuid: string; name: string; xml: string; medium: string }) {
    super("simdomain:index:Domain", name, args);
  }
}

const digestOf = (image: string): string => createHash("sha256").update(image).digest("hex").slice(0, 12);

let home: string;
let sim: string;
let stack: Stack;
let wish: Wish;

async function program(): Promise<Record<string, unknown>> {
  const { image, medium = "seed-1", createTimeout = "20s", guest = {} } = wish;
  const domain = new SimDomain("web-domain", {
    uuid,
    name: "fleet-web",
    xml: domainXml(wish.placeholder ?? "/pool/no-overlay-yet"),
    medium,
  });
  const args: GuestArgs = {
    uri: "qemu:///system",
    vm: "web",
    domain: "fleet-web",
    uuid,
    domainId: domain.id,
    imageId: image,
    imageDigest: digestOf(image),
    overlayPath: `/pool/fleet-web-${digestOf(image)}-01-${image}.qcow2`,
    memoryMiB: 512,
    vcpus: 1,
    network: "user",
    accelerator: "tcg",
    seedDigest: medium,
    persistPath: "/pool/web.qcow2",
    persistBytes: 2 ** 30,
    running: true,
    contract: "nixvm",
    stopTimeoutSeconds: 5,
    consoleLog: join(sim, "serial.log"),
    ...guest,
  };
  const web = new Guest("web-guest", args, {
    customTimeouts: { create: createTimeout, update: createTimeout },
  });
  return { imageId: web.imageId, ip: web.ip, healthy: web.healthy };
}

/** One operation with its events; `error` instead of a rejection, since half of the tests want one. */
async function run(operation: (onEvent: (event: EngineEvent) => void) => Promise<unknown>): Promise<Outcome> {
  const events: EngineEvent[] = [];
  let error = "";
  try {
    await operation((event) => void events.push(event));
  } catch (caught) {
    error = (caught as Error).message;
  }
  // The SDK's debug lines are no messages to people (and hold secrets in clear).
  const messages = events.flatMap(({ diagnosticEvent: event }) =>
    event && String(event.severity) !== "debug" ? [event] : [],
  );
  const of = (ephemeral: boolean) => messages.filter((message) => (message.ephemeral ?? false) === ephemeral);
  const text = (list: typeof messages) => list.map((message) => message.message.trim());
  const steps = events.flatMap((event) => {
    const metadata = event.resourcePreEvent?.metadata;
    return metadata && metadata.op !== "same" ? [`${metadata.op} ${metadata.urn.split("::").at(-1)}`] : [];
  });
  return { error, steps, live: text(of(true)), lines: text(of(false)) };
}

interface Outcome {
  error: string;
  steps: string[];
  live: string[];
  lines: string[];
}

const up = (next?: Wish, signal?: AbortSignal) => {
  if (next) wish = next;
  return run((onEvent) => stack.up({ onEvent, signal }));
};

const virshLog = () => readFileSync(join(sim, "virsh.log"), "utf8");
/** What was done to the domain, in order. */
const changes = () => virshLog().match(/^(shutdown|destroy|define|start|#.*)/gm) ?? [];
/** The image of the overlay that the domain runs on. */
const runs = () => /-01-(.*)\.qcow2/.exec(readFileSync(join(sim, uuid, "live.xml"), "utf8"))?.[1];
const forgetLog = () => writeFileSync(join(sim, "virsh.log"), "");
const file = (name: string, text: string) => writeFileSync(join(sim, uuid, name), text);

beforeAll(async () => {
  if (!existsSync(join(root, "bin", "provider", "main.js"))) {
    throw new Error("the provider is not compiled: run npm run build first");
  }
  home = realpathSync(mkdtempSync(join(tmpdir(), "nixvm engine test ")));
  sim = join(home, "sim");
  for (const dir of [sim, join(home, "state"), join(home, "pulumi"), join(home, "work")]) mkdirSync(dir);
  writeFileSync(join(sim, "serial.log"), "\u001b[2J\u001b[1mboot\u001b[0m of the guest\r\n[FAILED] web server\r\n");
  forgetLog();
  for (const tool of ["virsh", "pulumi-resource-simdomain"]) chmodSync(join(simTools, tool), 0o755);
  wish = { image: "v1" };
  stack = await LocalWorkspace.createOrSelectStack(
    { stackName: "test", projectName: "provider-engine", program },
    {
      workDir: join(home, "work"),
      pulumiHome: join(home, "pulumi"),
      projectSettings: {
        name: "provider-engine",
        runtime: "nodejs",
      },
      envVars: {
        PATH: [simTools, join(root, "provider"), join(root, ".nixvm", "bin"), process.env["PATH"]].join(delimiter),
        // Not that of the user, where a run that did not end well would be looked after before each other one.
        PULUMI_BACKEND_URL: `file://${join(home, "state")}`,
        PULUMI_CONFIG_PASSPHRASE: "test",
        PULUMI_SKIP_UPDATE_CHECK: "true",
        PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION: "true",
        PULUMI_DISABLE_REGISTRY_RESOLVE: "true",
        PULUMI_AUTOMATION_API_SKIP_VERSION_CHECK: "true",
        NIXVM_SIM: sim,
        NIXVM_SIM_PROVIDER: join(simTools, "simdomain.js"),
      },
    },
  );
}, 60_000);

afterAll(async () => {
  await stack?.destroy().catch(() => undefined);
  if (home) rmSync(home, { recursive: true, force: true });
}, 60_000);

// The tests are one story: each starts where the one before ended.
jest.setTimeout(60_000);

describe("Guest under the real engine", () => {
  it("waits for the guest and shows live progress", async () => {
    const outcome = await up({ image: "v1" });
    expect(outcome.error).toBe("");
    expect(outcome.live).toContain("web: healthy, image v1");
    const outputs = await stack.outputs();
    expect(outputs["imageId"]?.value).toBe("v1");
    expect(outputs["ip"]?.value).toBe("10.0.2.15");
    expect(outputs["healthy"]?.value).toBe(true);
  });

  it("has no changes afterwards", async () => {
    const outcome = await run((onEvent) => stack.preview({ onEvent, expectNoChanges: true }));
    expect(outcome).toMatchObject({ error: "", steps: [] });
  });

  it("applies a new seed and a larger persistent disk to the running guest", async () => {
    forgetLog();
    const outcome = await up({ image: "v1", medium: "seed-2", guest: { persistBytes: 2 ** 31 } });
    expect(outcome.error).toBe("");
    expect(outcome.steps).toEqual(["update web-domain", "update web-guest"]);
    expect(outcome.lines).toContain("web: applies a new seed live, no restart");
    expect(outcome.lines).toContain("web: persist grows from 1 GiB to 2 GiB live");
    expect(virshLog()).toContain(`blockresize ${uuid} /pool/web.qcow2 ${2 ** 31}b`);
    expect(virshLog()).not.toMatch(/^(shutdown|destroy|start)/m);
  });

  it("refuses to shrink at preview, also when the image changes at the same time", async () => {
    forgetLog();
    for (const image of ["v1", "v2"]) {
      wish = { image, medium: "seed-2" };
      const outcome = await run((onEvent) => stack.preview({ onEvent }));
      expect(outcome.error).toContain("persist.size: cannot shrink from 2 GiB to 1 GiB; allowed: 2 GiB or more");
    }
    expect(virshLog()).toBe("");
  });

  const grown = { medium: "seed-2", guest: { persistBytes: 2 ** 31 } };

  it("fails on a bad image with reason, record and console, and keeps the guest in the state", async () => {
    forgetLog();
    const outcome = await up({ image: "bad-v2", ...grown, guest: { ...grown.guest, goBack: false } });
    expect(outcome.lines).toContain(
      `web: restarts, because the image changes from v1 (${digestOf("v1")}) to bad-v2 (${digestOf("bad-v2")})`,
    );
    const message = outcome.lines.find((line) => line.includes("not healthy")) ?? "";
    expect(message).toContain("web: says that it is not healthy (system running): web server failed");
    expect(message).toContain('last status record: {"schema":1,"imageId":"bad-v2"');
    expect(message).toContain("boot of the guest\n  [FAILED] web server");
    expect(outcome.steps).toEqual(["update web-guest"]);
    expect(changes()).toEqual(["shutdown", "define", "start"]);

    const retry = await run((onEvent) => stack.preview({ onEvent }));
    expect(retry.steps).toEqual(["update web-guest"]);
  });

  it("goes back to the former image, with a clean stop of the bad guest", async () => {
    forgetLog();
    const outcome = await up({ image: "v1", ...grown });
    expect(outcome.error).toBe("");
    expect(outcome.steps).toEqual(["update web-guest"]);
    expect(changes()).toEqual(["shutdown", "define", "start"]);
    expect((await run((onEvent) => stack.preview({ onEvent, expectNoChanges: true }))).error).toBe("");
  });

  it("brings a VM back to its former image by itself, and refuses the one that failed until it is asked for again", async () => {
    const back = { ...grown, guest: { ...grown.guest, goBack: true } };
    forgetLog();
    const outcome = await up({ image: "bad-v4", ...back });
    const message = outcome.lines.find((line) => line.includes("not healthy")) ?? "";
    expect(message).toMatch(new RegExp(`web: is back on image ${digestOf("v1")} and healthy there, \\d+ s after`));
    expect(runs()).toBe("v1");
    expect(virshLog()).not.toMatch(/^destroy/m);

    // What the state says then is what is really there: with the former image in the stack file there is nothing to do.
    wish = { image: "v1", ...back };
    const clean = await run((onEvent) => stack.preview({ onEvent, refresh: true, expectNoChanges: true }));
    expect(clean.error).toBe("");
    expect(clean.steps.filter((step) => !step.startsWith("refresh "))).toEqual([]);
    wish = { image: "bad-v4", ...back };

    forgetLog();
    for (const operation of [stack.preview.bind(stack), stack.up.bind(stack)]) {
      const refused = await run((onEvent) => operation({ onEvent }));
      const [why] = refused.lines.filter((line) => line.includes("quarantined"));
      expect(why).toMatch(
        new RegExp(`web: image ${digestOf("bad-v4")} is quarantined: .*not healthy.*rollout\\.retry`),
      );
      expect(refused.error).not.toBe("");
    }
    expect(virshLog()).not.toMatch(/^(shutdown|destroy|start|define)/m);

    const again = await up({ image: "bad-v4", ...back, guest: { ...back.guest, retry: true } });
    expect(again.error).not.toBe("");
    expect(changes()).toEqual(["shutdown", "define", "start", "shutdown", "define", "start"]);
    expect(runs()).toBe("v1");

    expect((await up({ image: "v5", ...grown })).error).toBe("");
    wish = { image: "bad-v4", ...back };
    const later = await run((onEvent) => stack.preview({ onEvent }));
    expect(later.lines.join("\n")).toContain(`image ${digestOf("bad-v4")} is quarantined`);
    expect((await up({ image: "v1", ...grown })).error).toBe("");
  });

  it("asks health checks, without a restart when only they change, and goes back when one fails on a new image", async () => {
    const limits = { timeoutSeconds: 5, withinSeconds: 1 };
    const checks: Check[] = [{ ...limits, name: "nginx", kind: "command", command: "systemctl is-active nginx" }];
    const asked = { ...grown, guest: { ...grown.guest, goBack: true, checks } };
    forgetLog();
    const live = await up({ image: "v1", ...asked });
    expect(live).toMatchObject({ error: "", steps: ["update web-guest"] });
    expect(live.lines).toContain("web: health checks change: asked again, no restart");
    expect(live.live).toContain("web: check nginx");
    expect(changes()).toEqual([]);
    expect(virshLog()).toContain("systemctl is-active nginx");

    const failed = await up({ image: "sick-v7", ...asked });
    const message = failed.lines.find((line) => line.includes("health check")) ?? "";
    expect(message).toMatch(/web: health check "nginx" failed: exit code 3: inactive \(\d+ (try|tries) in \d+ s\)/);
    expect(message).toContain('last status record: {"schema":1,"imageId":"sick-v7"');
    expect(message).toContain(`web: is back on image ${digestOf("v1")} and healthy there`);
    expect(failed.live).toContain("web: check nginx: exit code 3: inactive, try 1");
    expect(runs()).toBe("v1");

    wish = { image: "v1", ...asked };
    const clean = await run((onEvent) => stack.preview({ onEvent, refresh: true, expectNoChanges: true }));
    expect(clean.error).toBe("");
    expect((await up({ image: "v1", ...grown })).error).toBe("");
  });

  it("stops a guest before its domain is replaced, and the new one goes back to what the former was well on", async () => {
    forgetLog();
    const other = { ...grown, placeholder: "/pool/no-overlay-still", guest: { ...grown.guest, goBack: true } };
    const outcome = await up({ image: "bad-v6", ...other });
    expect(outcome.steps).toEqual([
      "delete-replaced web-guest",
      "delete-replaced web-domain",
      "replace web-domain",
      "create-replacement web-domain",
      "replace web-guest",
      "create-replacement web-guest",
    ]);
    expect(changes().slice(0, 3)).toEqual([
      "shutdown",
      "# domain deleted while shut off (shutdown)",
      "# domain created",
    ]);
    expect(runs()).toBe("v1");
    expect((await up({ image: "v1", ...grown })).error).toBe("");
  });

  const stays = { ...grown, guest: { ...grown.guest, goBack: false } };

  it("honours customTimeouts", async () => {
    const outcome = await up({ image: "mute-v3", ...stays, createTimeout: "2s" });
    expect(outcome.lines.join("\n")).toContain("web: not healthy within 2 s; at the end: booting");
    expect(outcome.live).toContain("web: booting (1 s)");
  });

  it("stops waiting at once when it is cancelled, and up succeeds afterwards", async () => {
    const controller = new AbortController();
    let cancelledAt = 0;
    wish = { image: "mute-v3", ...stays, createTimeout: "10m" };
    const outcome = await run((onEvent) =>
      stack.up({
        signal: controller.signal,
        onEvent: (event) => {
          onEvent(event);
          if (cancelledAt !== 0 || !event.diagnosticEvent?.message.includes("booting")) return;
          cancelledAt = Date.now();
          controller.abort();
        },
      }),
    );
    expect(outcome.lines.join("\n")).toContain('web: cancelled while it was waited for; run "pulumi up" again');
    expect(Date.now() - cancelledAt).toBeLessThan(10_000);
    await stack.cancel().catch(() => undefined);
    file("agent", "");
    expect((await up()).error).toBe("");
  });

  it("shows drift on refresh, and up heals it", async () => {
    file("state", "shut off (destroyed)\n");
    const drifted = await run((onEvent) => stack.preview({ onEvent, refresh: true }));
    expect(drifted.steps).toContain("update web-guest");
    expect(drifted.lines).toContain("web: is started again (it was shut off)");
    forgetLog();
    const healed = await run((onEvent) => stack.up({ onEvent, refresh: true }));
    expect(healed.error).toBe("");
    expect(virshLog()).toContain(`start ${uuid}`);
    expect((await stack.outputs())["healthy"]?.value).toBe(true);
  });

  it("drops a guest whose domain is gone, and says so when it is wanted again", async () => {
    rmSync(join(sim, uuid), { recursive: true });
    await stack.refresh();
    const left = (await stack.exportStack()).deployment.resources as Array<{ type: string }>;
    expect(left.map((resource) => resource.type)).not.toContain("nixvm:index:Guest");
    const outcome = await up();
    expect(outcome.lines.join("\n")).toContain(`web: libvirt at qemu:///system has no domain with UUID ${uuid}`);
  });
});

it("leaves nothing of a seed behind when it exits in the midst of it, as it does without its engine", () => {
  const tmp = join(home, "tmp");
  mkdirSync(tmp);
  const code = `
    const { withMedium } = require("./medium");
    const { run } = require("./run");
    const { readdirSync } = require("node:fs");
    withMedium({ userData: "u", metaData: "m", networkConfig: "n" }, run, ({ folder }) => {
      console.log(readdirSync(folder).sort().join(" "));
      process.exit(1);
    });`;
  const options = {
    cwd: join(root, "bin", "provider"),
    env: { ...process.env, TMPDIR: tmp },
    encoding: "utf8",
  } as const;
  const { status, stdout } = spawnSync(process.execPath, ["-e", code], options);
  expect([status, stdout]).toEqual([1, "meta-data network-config seed.iso user-data\n"]);
  expect(readdirSync(tmp)).toEqual([]);
});
