// The allowlist's way through the seed: what the planner writes, and what the guest's seed.awk makes of it or refuses.
import { statSync } from "node:fs";
import { identityOf, seedFiles } from "../../components/plan";
import { ACCOUNTS, kept, lines, planLine } from "./allowlist-table";
import { awkOutput, AWKS } from "./guest-awk";
import { Sandbox } from "./guest-sandbox";
import { one, vmOf } from "./plan-support";

let box: Sandbox;
beforeAll(() => (box = new Sandbox()));
afterAll(() => box.done());

describe("from the stack file to the guest's plan", () => {
  const planOf = (userData: string): string[] => {
    const files = { user: userData, meta: '{"local-hostname":"web"}', net: "", image: '{"rootModes":["tmpfs"]}' };
    for (const [name, text] of Object.entries(files)) box.write(`seed/${name}`, text);
    const paths = Object.keys(files).map((name) => box.path(`seed/${name}`));
    return awkOutput(AWKS[0]!, ["json.awk", "plan.awk", "seed.awk"], paths).split("\n").filter(Boolean);
  };

  test.each(kept)("the seed says the table's entries: $name (C-12, C-13)", ({ list, entries }) => {
    const accounts = ACCOUNTS.map((name) => ({ name, role: "user" }));
    const vm = vmOf(one({ preset: "sealed", persist: {}, accounts, allowlist: list }));
    const plan = planOf(seedFiles(vm, identityOf("ab".repeat(32), "web")).userData);
    expect(plan.filter((line) => line.startsWith("allow\t"))).toEqual(entries.map(planLine));
    expect(plan[0]).toBe("hostname\tweb");
  });

  test.each(lines)("a seed of another program is refused with: $name", ({ lines: bad }) => {
    const objects = bad.map((line) => {
      const [kind, name, user, group, mode, how, inInitrd] = line.split("\t");
      return { kind, path: name, user, group, mode, how, inInitrd: inInitrd === "true" };
    });
    const of = (kind: string) => objects.filter((each) => each.kind === kind);
    const nixvm = {
      contract: 1,
      rootMode: "tmpfs",
      persist: { mount: "/persist", fs: "ext4", label: "persist" },
      allowlist: { directories: of("directory"), files: of("file") },
    };
    const plan = planOf(`#cloud-config\n${JSON.stringify({ nixvm })}`);
    expect(plan.length).toBeGreaterThan(0);
    for (const line of plan) expect(line).toMatch(/^error\tnixvm\.allowlist/);
  });
});

test("the first boot of preset zvm makes the folders that its document makes by hand (V-23)", () => {
  const guest = new Sandbox();
  guest.write("image/image.json", '{"rootModes":["tmpfs"]}');
  // The sandbox's mount can only take the place of an empty folder.
  guest.remove("share/var/log");
  guest.disk("vdb", "persist", 24);
  const files = seedFiles(vmOf(one({ preset: "zvm" })), identityOf("ab".repeat(32), "web"));
  guest.medium({ "user-data": files.userData, "meta-data": files.metaData, "network-config": files.networkConfig });
  const target = { NIXVM_TARGET: guest.path("sysroot") };
  guest.guest("seed", "read");
  guest.guest("assemble-root");
  for (const script of ["persist", "home"]) guest.guest(script, target);
  guest.guest("seed", "render", target);
  guest.guest("allowlist", target);
  expect(guest.state("allowlist")).toEqual({ state: "applied", reason: "", entries: "4" });
  for (const name of ["passwords", "etc/ssh", "var/lib/netbird", "home/zvm/.config/netbird"])
    expect([name, statSync(guest.path(`sysroot/persist/${name}`)).isDirectory()]).toEqual([name, true]);
  expect(statSync(guest.path("sysroot/persist/home/zvm")).mode & 0o777).toBe(0o700);
  guest.done();
});
