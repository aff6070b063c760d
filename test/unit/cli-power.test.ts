import { getMaxListeners } from "node:events";
import * as fs from "node:fs";
import * as path from "node:path";
import { Context } from "../../cli/context";
import { placeOf } from "../../cli/place";
import { declaredRunning, declareRunning } from "../../cli/running";
import { StackFile } from "../../cli/stackFile";
import { FakeProject } from "./cli-fake";

const STACK = `config:
  nixvm:defaults:
    image: os
  nixvm:fleet:
    db: {}
    web: # the front
      memory: 1GiB
  nixvm:groups:
    worker:
      count: 2
      members:
        1:
          memory: 2GiB
`;

let fake: FakeProject;
beforeEach(() => {
  fake = new FakeProject(STACK);
  fake.state({ db: {}, web: {}, "worker-1": {}, "worker-2": {} });
  fake.domains({ db: "running", web: "running", "worker-1": "running", "worker-2": "running" });
});
afterEach(() => fake.remove());

const text = (): string => fs.readFileSync(fake.stackFile, "utf8");
const declared = (vm: string): boolean => {
  const file = StackFile.open(fake.stackFile);
  return declaredRunning(file, placeOf(file, vm)!.where);
};
const ups = (): string[][] => fake.calls("pulumi", "up");

test("stop declares it where the VM is written, has Pulumi do it to that VM alone, and start takes it back (T-38, T-39)", async () => {
  fake.afterUp({ web: "shut off" });
  expect(await fake.run("stop", "web")).toMatchObject({ code: 0, stdout: "web: is shut off\n" });
  expect(text()).toBe(STACK.replace("memory: 1GiB", "memory: 1GiB\n      running: false"));
  expect(ups()).toHaveLength(1);
  expect(ups()[0]).toEqual(expect.arrayContaining(["--yes", "--stack", "prod", "**nixvm:index:VirtualMachine::web"]));
  expect(ups()[0]).not.toContain("--refresh");
  expect(ups()[0]?.join(" ")).not.toMatch(/::db|worker/);
  // It is the guest that shuts itself down: nothing is done behind the engine's back.
  expect(fake.calls("virsh", "destroy", "shutdown")).toEqual([]);
  fake.state({ web: { running: false } });
  fake.afterUp({ web: "running" });
  expect(await fake.run("start", "web", "--json")).toMatchObject({ code: 0 });
  expect(declared("web")).toBe(true);
  expect(ups()).toHaveLength(2);
});

test("a member of a group is declared there, alone, whether its number is written already or not (T-39)", async () => {
  fake.afterUp({ "worker-1": "shut off", "worker-2": "shut off" });
  const { stdout } = await fake.run("stop", "worker-1", "worker-2", "--json");
  expect(JSON.parse(stdout)).toEqual([
    { name: "worker-1", before: "running", state: "shut off", changed: true },
    { name: "worker-2", before: "running", state: "shut off", changed: true },
  ]);
  const file = StackFile.open(fake.stackFile);
  expect(file.get(["nixvm:groups", "worker", "members"])).toEqual({
    1: { memory: "2GiB", running: false },
    2: { running: false },
  });
  expect(file.get(["nixvm:groups", "worker", "running"])).toBeUndefined();
  // A second time there is nothing to write: the quoted number is found again.
  const file2 = StackFile.open(fake.stackFile);
  expect(declareRunning(file2, placeOf(file2, "worker-2")!.where, false)).toBe(false);
  expect(declareRunning(file2, placeOf(file2, "worker-2")!.where, true)).toBe(true);
  expect(
    file2.get(["nixvm:groups", "worker", "members", "2"]) ?? file2.get(["nixvm:groups", "worker", "members", 2]),
  ).toEqual({
    running: true,
  });
});

test("what holds for a VM is written nearest to it: its own entry, its group, defaults", () => {
  fs.writeFileSync(
    fake.stackFile,
    `config:
  nixvm:defaults: { running: false }
  nixvm:fleet: { a: { running: true }, b: {} }
  nixvm:groups: { g: { count: 2, running: true, members: { "1": { running: false } } }, g-1: { count: 1 } }
`,
  );
  expect(["a", "b", "g-1", "g-2", "g-1-1"].map(declared)).toEqual([true, false, false, true, false]);
  const file = StackFile.open(fake.stackFile);
  expect(["g-3", "g-0", "g-01", "g", "c"].map((vm) => placeOf(file, vm))).toEqual(Array(5).fill(undefined));
});

test("a VM that is as it is asked to be is a success, in one line, and nothing is run or written (T-38, T-39)", async () => {
  expect(await fake.run("start", "web", "db")).toEqual({
    code: 0,
    stdout: "web: runs already\ndb: runs already\n",
    stderr: "",
  });
  fake.state({ web: { running: false } });
  fake.domains({ web: "shut off" });
  fs.writeFileSync(fake.stackFile, STACK.replace("memory: 1GiB", "running: false"));
  expect(await fake.run("stop", "web")).toMatchObject({ code: 0, stdout: "web: is off already\n" });
  expect(ups()).toEqual([]);
});

test("what somebody did behind the stack's back is noticed by a refresh (T-38)", async () => {
  fake.domains({ web: "shut off" });
  fake.afterUp({ web: "running" });
  expect(await fake.run("start", "web")).toMatchObject({ code: 0, stdout: "web: runs\n" });
  expect(ups()[0]).toContain("--refresh");
  expect(text()).toBe(STACK);
});

test("nothing is touched when one of the VMs is gone, unknown, or no longer declared", async () => {
  fake.domains({ web: "running" });
  const gone = await fake.run("stop", "web", "db");
  expect(gone).toMatchObject({ code: 3, stderr: expect.stringContaining('"pulumi up --refresh"') });
  expect(await fake.run("stop", "web", "wob")).toMatchObject({ code: 2 });
  fs.writeFileSync(fake.stackFile, "config:\n  nixvm:fleet:\n    db: {}\n");
  expect(await fake.run("stop", "web")).toMatchObject({ code: 3, stderr: expect.stringContaining("no longer in") });
  expect(ups()).toEqual([]);
});

test("a run that fails says what the stack file says now (T-39)", async () => {
  fake.write("up.code", "255");
  const { code, stderr } = await fake.run("stop", "web");
  expect(code).toBe(1);
  expect(stderr).toContain("the stack file declares running: false for web");
  expect(declared("web")).toBe(false);
});

test("force-stop asks first, then pulls the plug and declares it (T-40, G-14)", async () => {
  const refused = await fake.run("force-stop", "web");
  expect(refused).toMatchObject({ code: 2, stderr: expect.stringContaining("has not yet written to its disks") });
  expect(text()).toBe(STACK);
  expect(fake.calls("virsh", "destroy")).toEqual([]);
  const { code, stdout } = await fake.run("force-stop", "web", "--yes", "--json");
  expect(code).toBe(0);
  expect(JSON.parse(stdout)).toEqual([{ name: "web", before: "running", state: "shut off", changed: true }]);
  expect(fake.calls("virsh", "destroy")).toEqual([["-q", "-c", "qemu:///system", "destroy", "u-web"]]);
  expect(declared("web")).toBe(false);
  expect(ups()).toHaveLength(1);
});

test("a plug that cannot be pulled leaves a stack file that says so (T-40)", async () => {
  fake.write("failing.destroy", "");
  const { code, stderr } = await fake.run("force-stop", "web", "--yes");
  expect(code).toBe(1);
  expect(stderr).toMatch(/told to fail; the stack file declares running: false for web/);
});

test("suspend and resume declare nothing, and do nothing twice", async () => {
  expect(await fake.run("suspend", "web", "db")).toMatchObject({ code: 0 });
  expect((await fake.run("suspend", "web")).stdout).toBe("web: is suspended already\n");
  expect(fake.calls("virsh", "suspend").map((call) => call.at(-1))).toEqual(["u-web", "u-db"]);
  expect((await fake.run("resume", "web")).stdout).toBe("web: goes on\n");
  expect((await fake.run("resume", "web")).stdout).toBe("web: runs already\n");
  expect(fake.calls("virsh", "resume")).toHaveLength(1);
  expect(text()).toBe(STACK);
  expect(ups()).toEqual([]);
});

test("what needs a VM that runs says how to get there, and touches nothing", async () => {
  fake.domains({ web: "shut off", db: "running" });
  for (const verb of ["suspend", "resume", "restart"]) {
    const { code, stderr } = await fake.run(verb, "db", "web");
    expect([code, stderr]).toEqual([3, 'nixvm: web: is shut off; "nixvm start web" first\n']);
  }
  expect(fake.calls("virsh", "suspend", "resume", "shutdown")).toEqual([]);
});

test("a restart stops VMs cleanly and starts them, one after the other, and declares nothing", async () => {
  const uuid = "11111111-2222-4333-8444-555555555555";
  const facts = { domainId: uuid, overlayPath: "/o", memoryMiB: 512, vcpus: 1, accelerator: "tcg" };
  // A driver without guests: that it runs is all that there is to wait for.
  const more = { ...facts, uri: "test+unix:///x", contract: "nixvm", stopTimeoutSeconds: 5 };
  const other = uuid.replace("1", "2");
  fake.state({ web: { ...more, uuid }, db: { ...more, uuid: other } });
  for (const one of [uuid, other]) fake.write(`domains/${one}`, "running");
  const { code, stdout } = await fake.run("restart", "web", "db");
  expect([code, stdout]).toEqual([0, "web: was restarted and is healthy\ndb: was restarted and is healthy\n"]);
  const done = fake.calls("virsh", "shutdown", "start").map((call) => call.slice(3, 5));
  expect(done).toEqual([
    ["shutdown", uuid],
    ["start", uuid],
    ["shutdown", other],
    ["start", other],
  ]);
  expect([text(), ups()]).toEqual([STACK, []]);
});

test("Ctrl-C in a restart leaves no VM off", async () => {
  const uuid = "11111111-2222-4333-8444-555555555555";
  const facts = { domainId: uuid, overlayPath: "/o", memoryMiB: 512, vcpus: 1, accelerator: "tcg" };
  fake.state({ web: { ...facts, uuid, uri: "test+unix:///x", contract: "nixvm", stopTimeoutSeconds: 5 } });
  fake.write(`domains/${uuid}`, "running");
  const ending = fake.run("restart", "web");
  while (fake.calls("virsh", "shutdown").length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
  process.emit("SIGINT");
  const { code, stderr } = await ending;
  expect([code, stderr]).toEqual([130, expect.stringContaining("web: was started again, but its health was not")]);
  expect(fs.readFileSync(path.join(fake.dir, "domains", uuid), "utf8")).toBe("running\n");
});

test("a restart that fails says why, what its console showed last, and which VMs were not restarted", async () => {
  const consoleLog = path.join(fake.dir, "web.log");
  fs.writeFileSync(consoleLog, "GRUB\nKernel panic - not syncing: no root\n");
  const uuid = "11111111-2222-4333-8444-555555555555";
  const facts = { domainId: uuid, overlayPath: "/o", memoryMiB: 512, vcpus: 1, accelerator: "tcg" };
  const more = { ...facts, contract: "nixvm", stopTimeoutSeconds: 5, consoleLog };
  fake.state({ web: { ...more, uuid }, db: { ...more, uuid: uuid.replace("1", "2") } });
  fake.write(`domains/${uuid}`, "running");
  fake.write(`domains/${uuid.replace("1", "2")}`, "running");
  fake.write("failing.start", "");
  const { code, stdout, stderr } = await fake.run("restart", "web", "db", "--json");
  expect(code).toBe(1);
  expect(stderr).toContain("web: virsh start: the fake was told to fail; not restarted: db");
  expect(JSON.parse(stdout).error.message).toMatch(/web\.log\):\n {2}GRUB\n {2}Kernel panic - not syncing: no root$/);
  expect(fake.calls("virsh", "shutdown")).toEqual([expect.arrayContaining([uuid])]);
});

test("a fleet of more than ten VMs is no leak of listeners to Node", () => {
  const context = new Context({ json: false });
  expect(getMaxListeners(context.signal)).toBe(Infinity);
  context.close();
});
