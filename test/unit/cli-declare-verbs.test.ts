import * as fs from "node:fs";
import { sshKey } from "./plan-support";
import { targets, VerbProject } from "./cli-verb-harness";

const TEXT = `# ours
config:
  nixvm:images:
    os: { path: os.img }
  nixvm:defaults:
    image: os
    adminKeys: [${JSON.stringify(sshKey)}]
  nixvm:fleet:
    db: # the database
      memory: 2GiB # enough
    web:
  nixvm:groups:
    worker:
      count: 2
`;

// Each verb starts the stand-in for Pulumi some four times.
jest.setTimeout(60_000);

let project: VerbProject;
beforeEach(() => {
  project = new VerbProject(TEXT);
  project.state([{ name: "db" }, { name: "web" }, { name: "worker-1" }, { name: "worker-2" }]);
});
afterEach(() => project.remove());

const ALL = ["db", "web", "worker-1", "worker-2"].map((name) => ({ name }));
const without = (name: string) => ALL.filter((vm) => vm.name !== name);

describe("create", () => {
  test("writes the entry, shows it, and makes that VM with what it needs and others do not have yet (T-32, T-125)", async () => {
    const ended = await project.run("create", "myvm", "os", "2048", "2", "20G", "user", "--json");
    expect(ended).toMatchObject({ code: 0 });
    const entry = { image: "os", memory: "2GiB", vcpus: 2, network: "user", persist: { size: "20GiB" } };
    expect(JSON.parse(ended.out)).toMatchObject({ vm: "myvm", entry });
    expect(ended.err).toContain("size: 20GiB");
    expect(project.text).toBe(
      TEXT.replace(
        "    web:\n",
        "    web:\n    myvm:\n      image: os\n      memory: 2GiB\n      vcpus: 2\n      network: user\n      persist:\n        size: 20GiB\n",
      ),
    );
    const [up, ...more] = project.ups();
    expect(more).toEqual([]);
    const about = targets(up!);
    expect(about).toContain("**nixvm:index:VirtualMachine::myvm");
    expect(about).toEqual(
      expect.arrayContaining(["**::fleet-key", "**::pool-local", expect.stringMatching(/base-local-[0-9a-f]{12}$/)]),
    );
    expect(about.filter((urn) => /::(db|web)/.test(urn))).toEqual([]);
  });

  test("takes options for words, and refuses two words for one thing", async () => {
    expect(await project.run("create", "a", "--memory", "1GiB", "--size", "2G")).toMatchObject({ code: 0 });
    expect(project.text).toContain("    a:\n      memory: 1GiB\n      persist:\n        size: 2GiB\n");
    const twice = await project.run("create", "b", "os", "1GiB", "--memory", "2GiB");
    expect(twice).toMatchObject({ code: 2, err: expect.stringContaining('--memory: "2GiB" differs') });
  });

  test("an entry that is there is refused and kept, made or not (T-106)", async () => {
    const ended = await project.run("create", "db", "os", "4096", "--json");
    expect(ended.code).toBe(2);
    expect(JSON.parse(ended.out)).toMatchObject({ error: { field: "name", value: "db", code: 2 } });
    expect((await project.run("create", "db")).code).toBe(2);
    project.state(without("db"));
    expect((await project.run("create", "db", "--memory", "4GiB")).code).toBe(2);
    expect(project.text).toBe(TEXT);
    expect(project.ups()).toEqual([]);
  });

  test("one that was broken off goes on (T-106)", async () => {
    project.fails(1);
    const first = await project.run("create", "myvm", "os", "2048");
    expect(first).toMatchObject({
      code: 1,
      err: expect.stringMatching(/Pulumi.test.yaml has the change, and the same command .* goes on/),
    });
    const written = project.text;
    expect(await project.run("create", "myvm", "os", "2048")).toMatchObject({ code: 0 });
    expect(project.text).toBe(written);
  });

  test.each([
    [["create", "myvm", "nope"], 'fleet.myvm.image: "nope" is not an image of nixvm:images; allowed: os'],
    [["create", "myvm", "os", "lots"], 'fleet.myvm.memory: "lots" is not a size'],
    [["create", "myvm", "os", "2048", "2", "20GB"], 'fleet.myvm.persist.size: "20GB" is not a size, write 20GiB'],
    [["create", "myvm", "os", "2048", "many"], 'fleet.myvm.vcpus: "many" is not a number of virtual CPUs'],
    [["create", "myvm", "--network", "nat:lan"], '"lan" is not a network of nixvm:networks'],
    [["create", "My VM"], "is not a name"],
    [["network", "web", "bridge:none0"], 'fleet.web.network: "none0" is not a bridge of host local'],
    [["resize", "web", "--memory", "1"], 'fleet.web.memory: "1MiB" is not enough memory'],
    [["resize", "web", "--disk", "1GiB"], '"1GiB" is smaller than the volume is now (10GiB)'],
    [["keys", "web", "add", "ssh-ed25519 AAAA", "--role", "admin"], "is not an SSH public key"],
    [["keys", "web", "add", "file:none.pub", "--role", "admin"], "does not exist"],
    [["resize", "nobody", "--memory", "1GiB"], 'vm: "nobody" is no VM of the stack file'],
  ])("%j is refused by the planner's own words, and nothing is written (T-121)", async (args, message) => {
    const ended = await project.run(...args);
    expect(ended).toMatchObject({ code: 2, err: expect.stringContaining(message) });
    expect(project.text).toBe(TEXT);
    expect(project.ups()).toEqual([]);
  });

  test("an image file that is not there is refused before anything is written", async () => {
    fs.rmSync(`${project.dir}/os.img`);
    expect(await project.run("create", "myvm")).toMatchObject({
      code: 2,
      err: expect.stringContaining("images.os.path"),
    });
    expect(project.text).toBe(TEXT);
  });
});

describe("resize and network", () => {
  test("a larger disk is live, more memory without a maximum a restart that has to be agreed to (T-44, T-62)", async () => {
    const disk = await project.run("resize", "db", "--disk", "12G", "--json");
    expect(JSON.parse(disk.out)).toEqual({
      vm: "db",
      changed: ["persist grows from 10 GiB to 12 GiB live"],
      restart: false,
    });
    const text = project.text;
    const asked = await project.run("resize", "db", "--memory", "4GiB");
    expect(asked).toMatchObject({
      code: 2,
      err: expect.stringMatching(/restarts, because the memory changes[^]*nobody is there to ask; give --yes/),
    });
    expect(project.text).toBe(text);
    expect(await project.run("resize", "db", "--memory", "4096", "--yes")).toMatchObject({ code: 0 });
    expect(project.text).toContain("memory: 4GiB # enough\n");
    expect(project.ups()).toHaveLength(2);
  });

  test("what is so already changes nothing, and a VM without a disk has none that grows", async () => {
    expect(await project.run("resize", "db", "--memory", "2GiB")).toMatchObject({
      code: 0,
      out: "db is so already\n",
    });
    expect(await project.run("network", "web", "nat")).toMatchObject({ code: 0, out: "web is so already\n" });
    expect((await project.run("resize", "db")).code).toBe(2);
    fs.writeFileSync(project.file, TEXT.replace("    web:\n", "    web: { preset: sealed }\n"));
    expect(await project.run("resize", "web", "--disk", "20GiB")).toMatchObject({
      code: 3,
      err: expect.stringContaining("no persistent volume"),
    });
    expect(project.ups()).toEqual([]);
  });

  test("network says that it restarts, keeps the data's fields, and is asked for when none is given (T-122, T-123)", async () => {
    const ended = await project.run("network-config", "web", "user", "--yes", "--json");
    expect(JSON.parse(ended.out)).toMatchObject({
      restart: true,
      changed: [expect.stringContaining("network changes from network default to user")],
    });
    expect(project.text).toBe(TEXT.replace("    web:\n", "    web:\n      network: user\n"));
    const none = await project.run("network", "db");
    expect(none).toMatchObject({
      code: 2,
      err: expect.stringMatching(/network: is missing, and nobody is there to ask; allowed: nat, .*user/),
    });
  });

  test("a VM that is not made yet is no VM to resize, and an absent one is named as such", async () => {
    project.state(without("web"));
    expect(await project.run("resize", "web", "--vcpus", "4")).toMatchObject({
      code: 3,
      err: expect.stringContaining("not made yet"),
    });
    fs.writeFileSync(project.file, TEXT.replace("    web:\n", "    web: { state: absent }\n"));
    expect(await project.run("network", "web", "user")).toMatchObject({
      code: 3,
      err: expect.stringContaining("web is absent"),
    });
  });
});

describe("destroy", () => {
  test("puts the protection down by a copy, marks the entry, and removes only that VM (T-53, T-54)", async () => {
    project.state([{ name: "db", protect: false }, ...without("db")], 1);
    project.state(without("db"), 2);
    const ended = await project.run("destroy", "db", "--yes", "--json");
    expect(ended.code).toBe(0);
    expect(JSON.parse(ended.out)).toEqual({ vm: "db", state: "absent", removed: true });
    expect(ended.err).toMatch(
      /lost for good:\n.*all data on its persistent volume .*nixvm-test-db-persist\n.*snapshots/,
    );
    const [first, second] = project.ups();
    expect(first!.config).toContain("protect: false\n        retain: false");
    expect(first!.config).toContain("state: present");
    expect(first!.mode).toBe(0o700);
    expect(targets(first!)).toEqual(["**::db-persist", "**::db-persist-volume"]);
    expect(second!.args).not.toContain("--config-file");
    expect(targets(second!).every((urn) => urn.includes("::db"))).toBe(true);
    // The file never said that its data is not protected.
    expect(project.text).toBe(TEXT.replace("enough\n", "enough\n      state: absent\n"));
    expect(fs.existsSync(first!.args[first!.args.indexOf("--config-file") + 1]!)).toBe(false);
  });

  test("nothing happens before somebody agrees (T-53)", async () => {
    const ended = await project.run("destroy", "db");
    expect(ended).toMatchObject({ code: 2, err: expect.stringContaining("give --yes") });
    expect(project.text).toBe(TEXT);
    expect(project.ups()).toEqual([]);
  });

  test.each([1, 2])("broken off in its run %i of two, the second time finishes (T-54)", async (failing) => {
    project.fails(failing);
    if (failing === 2) project.state([{ name: "db", protect: false }, ...without("db")], 1);
    const broken = await project.run("destroy", "db", "--yes");
    expect(broken.code).toBe(1);
    expect(project.text.includes("state: absent")).toBe(failing === 2);
    project.afresh();
    project.state(without("db"), failing === 2 ? 1 : 2);
    expect(await project.run("destroy", "db", "--yes")).toMatchObject({ code: 0 });
    expect(project.ups()).toHaveLength(failing === 2 ? 1 : 2);
    expect(project.text).toBe(TEXT.replace("enough\n", "enough\n      state: absent\n"));
  });

  test("a second time there is nothing to lose and nothing to do", async () => {
    project.state(without("db"));
    expect(await project.run("destroy", "db")).toMatchObject({
      code: 0,
      out: expect.stringContaining("was not there"),
    });
    expect(project.ups()).toEqual([]);
    expect(project.text).toContain("state: absent");
  });

  test("a disk that is still in the pool, or a part that is still in the state, is no success", async () => {
    project.state(without("db"), 2);
    fs.writeFileSync(project.disk("nixvm-test-db-persist"), "");
    expect(await project.run("destroy", "db", "--yes")).toMatchObject({
      code: 1,
      err: expect.stringContaining("is still in the pool"),
    });
    project.state([...ALL]);
    project.afresh();
    expect(await project.run("destroy", "db", "--yes")).toMatchObject({
      code: 3,
      err: expect.stringContaining("the state still has"),
    });
  });

  test("what waits for it lets go of it, unless it has changes of its own waiting", async () => {
    const waiting = [{ name: "db" }, { name: "web", waitsFor: ["db"] }];
    const domain = "urn:pulumi:test::nixvm::nixvm:index:Fleet$nixvm:index:VirtualMachine::web-domain";
    project.state(waiting);
    project.preview([{ op: "update", urn: domain }]);
    expect(await project.run("destroy", "db", "--yes")).toMatchObject({
      code: 3,
      err: expect.stringContaining("web-domain"),
    });
    expect(project.ups()).toEqual([]);
    expect(project.text).toBe(TEXT);
    project.preview([{ op: "same", urn: domain }]);
    project.state([{ name: "web" }], 2);
    expect(await project.run("destroy", "db", "--yes")).toMatchObject({ code: 0 });
    expect(targets(project.ups()[1]!)).toContain(domain);
  });

  test("create brings it back, with its entry as it was (T-54)", async () => {
    fs.writeFileSync(project.file, TEXT.replace("enough\n", "enough\n      state: absent\n"));
    project.state(without("db"));
    expect(await project.run("create", "db")).toMatchObject({ code: 0 });
    expect(project.text).toBe(TEXT);
  });
});

describe("purge", () => {
  test("takes the entry after all else is gone, so that it can be run again (T-55)", async () => {
    project.state(without("db"), 2);
    project.fails(2);
    expect((await project.run("purge", "db", "--yes")).code).toBe(1);
    expect(project.text).toContain("    db: # the database\n");
    project.afresh();
    expect(await project.run("purge", "db", "--yes")).toMatchObject({ code: 0 });
    expect(project.text).toBe(TEXT.replace("    db: # the database\n      memory: 2GiB # enough\n", ""));
  });

  test("of a group the last member goes; another is refused, with what to do (T-55)", async () => {
    const other = await project.run("purge", "worker-1", "--yes");
    expect(other).toMatchObject({
      code: 3,
      err: expect.stringMatching(/"nixvm purge worker-2" first, or "nixvm destroy worker-1"/),
    });
    project.state(without("worker-2"), 2);
    expect(await project.run("purge", "worker-2", "--yes")).toMatchObject({ code: 0 });
    expect(project.text).toBe(TEXT.replace("count: 2", "count: 1"));
  });

  test("is refused before anything is lost where the stack file would be wrong without it", async () => {
    fs.writeFileSync(project.file, `${TEXT}  nixvm:rollout:\n    order: [db]\n`);
    expect(await project.run("purge", "db", "--yes")).toMatchObject({
      code: 2,
      err: expect.stringContaining("rollout.order[0]"),
    });
    expect(project.ups()).toEqual([]);
  });
});

describe("recreate", () => {
  const next = { name: "db", volume: "nixvm-test-db-persist-g1", inputs: { overlayPath: "/pool/new" } };

  test("raises the generation with the protection as it was before and after (T-50, T-51, T-53)", async () => {
    project.state([{ name: "db", protect: false }, ...without("db")], 1);
    project.state([next, ...without("db")], 2);
    const ended = await project.run("recreate", "db", "--yes", "--json");
    expect(ended.code).toBe(0);
    expect(JSON.parse(ended.out)).toEqual({ vm: "db", generation: 1, uuid: "uuid-of-db" });
    const [first, second] = project.ups();
    expect(first!.config).toContain("generation: 0");
    expect(second!.config).toBe(TEXT.replace("enough\n", "enough\n      generation: 1\n"));
    expect(project.text).toBe(second!.config);
  });

  test("takes another size, also a smaller one, and another network (T-50)", async () => {
    project.state([next, ...without("db")], 2);
    expect(await project.run("recreate", "db", "5G", "user", "--yes")).toMatchObject({ code: 0 });
    expect(project.text).toContain("size: 5GiB");
    expect(project.text).toContain("network: user");
  });

  test.each(["raised", "made", "made and stopped"])(
    "one that was broken off when it had %s goes on, and does not begin once more",
    async (how) => {
      const raised = TEXT.replace("enough\n", "enough\n      generation: 1\n");
      fs.writeFileSync(project.file, raised);
      const left = {
        raised: { name: "db" },
        made: { ...next, going: true },
        "made and stopped": { ...next, guest: false },
      }[how]!;
      const ups = how === "raised" ? 2 : 1;
      project.state([left, ...without("db")]);
      project.state([next, ...without("db")], ups);
      const ended = await project.run("recreate", "db", "--yes");
      expect(ended).toMatchObject({ code: 0, err: expect.stringContaining("was broken off, and goes on") });
      expect(ended.err.includes("lost for good")).toBe(how === "raised");
      expect(project.text).toBe(raised);
      expect(project.ups()).toHaveLength(ups);
    },
  );

  test("the old volume must be gone", async () => {
    project.state([next, ...without("db")], 2);
    fs.writeFileSync(project.disk("nixvm-test-db-persist"), "");
    expect(await project.run("recreate", "db", "--yes")).toMatchObject({
      code: 1,
      err: expect.stringContaining("still in the pool"),
    });
  });
});

test("list-machines has all entries, absent ones, those not made yet, and what was taken out of the file (T-59)", async () => {
  fs.writeFileSync(project.file, TEXT.replace("    web:\n", "    web: { state: absent }\n    new:\n"));
  project.state([{ name: "db" }, { name: "old" }, { name: "worker-1" }]);
  const rows = JSON.parse((await project.run("list-machines", "--json")).out) as {
    name: string;
    state: string;
    made: boolean;
  }[];
  expect(rows.map(({ name, state, made }) => `${name} ${state} ${made}`)).toEqual([
    "db present true",
    "new present false",
    "web absent false",
    "worker-1 present true",
    "worker-2 present false",
    "old removed true",
  ]);
  expect((await project.run("list-machines")).out).toMatch(/web +│ absent +│ no/);
});

describe("keys", () => {
  test("are listed, added and removed for one VM, and only that one is touched (T-96, T-97)", async () => {
    const key = sshKey.replace(/ test$/, " added").replace(/^/, "");
    const listed = JSON.parse((await project.run("keys", "db", "list", "--json")).out) as object[];
    expect(listed).toEqual([
      expect.objectContaining({ vm: "db", account: "admin", comment: "test", type: "ssh-ed25519" }),
    ]);
    expect((await project.run("keys", "db", "add", key)).code).toBe(2);
    expect(await project.run("keys", "db", "add", key, "--role", "user")).toMatchObject({ code: 0 });
    expect(targets(project.ups()[0]!).every((urn) => urn.includes("::db"))).toBe(true);
    expect(await project.run("keys", "db", "remove", "added", "--role", "user")).toMatchObject({ code: 0 });
    expect(project.text).toContain("userKeys: []");
    expect(project.ups()).toHaveLength(2);
  });

  test("the last one is not removed without a word, and one that is not there names those that are", async () => {
    expect(await project.run("keys", "--all", "remove", "test")).toMatchObject({
      code: 2,
      err: expect.stringContaining("give --yes"),
    });
    expect(await project.run("keys", "db", "remove", "nobody")).toMatchObject({
      code: 2,
      err: expect.stringContaining("SHA256:"),
    });
    expect(project.text).toBe(TEXT);
    expect(await project.run("keys", "--all", "remove", "test", "--yes", "--json")).toMatchObject({
      code: 0,
      out: '{"changed":["db","web","worker-1","worker-2"]}\n',
    });
    expect(project.text).not.toContain(sshKey);
  });

  test.each([[["keys"]], [["keys", "db"]], [["keys", "db", "show"]], [["keys", "db", "add"]], [["keys", "--all"]]])(
    "%j says what is missing",
    async (args) =>
      expect(await project.run(...args)).toMatchObject({ code: 2, err: expect.stringMatching(/is missing|is none/) }),
  );
});
