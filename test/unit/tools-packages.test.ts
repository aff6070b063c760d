import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { evaluate, plant, root, scratch, thrown } from "./tools-support";

const table = evaluate<Record<string, string[]>>("packages", "m.PACKAGES");
let dir: string;
beforeEach(() => {
  dir = scratch();
});
afterEach(() => {
  fs.rmSync(dir, { recursive: true, force: true });
});

/** A system that has the proofs of all packages but those named. */
function system(without: string[] = []): { fsRoot: string; path: string } {
  const proofs = Object.entries(table).flatMap(([name, list]) => (without.includes(name) ? [] : list));
  for (const proof of proofs) {
    plant(dir, { [proof.startsWith("/") ? proof : `path/${proof}`]: "" }, 0o755);
  }
  return { fsRoot: dir, path: path.join(dir, "path") };
}

/** Commands in /usr/sbin and /sbin of the machine count too: ask only for those that no such folder has. */
const missing = (where: object) => evaluate<string[]>("packages", "m.missingPackages(input)", where);

describe("missing packages", () => {
  it("are none where every command and file is there", () => {
    expect(missing(system())).toEqual([]);
  });

  it("are named when only one of their proofs is missing", () => {
    const where = system();
    fs.rmSync(path.join(dir, "path/mkisofs"));
    fs.rmSync(path.join(dir, "var/lib/dpkg/info/busybox-static.list"));
    expect(missing(where)).toEqual(["genisoimage", "busybox-static"]);
  });

  it("include a command that is there but can not be run", () => {
    const where = system();
    fs.chmodSync(path.join(dir, "path/virsh"), 0o644);
    expect(missing(where)).toEqual(["libvirt-clients"]);
  });
});

describe("packages for tests only", () => {
  const packagesOf = (needs: string[], id: string) =>
    Object.keys(evaluate<object>("packages", "m.packagesFor(input.needs, { id: input.id })", { needs, id }));

  it("are asked for by the tests, and by nothing else", () => {
    const asking = evaluate<string[]>(
      "tasks",
      "Object.keys(m.TASKS).filter((name) => m.TASKS[name].needs?.includes('testPackages'))",
    );
    expect(asking).toEqual(["test", "test:unit"]);
    expect(packagesOf(["packages", "testPackages"], "debian")).toEqual([...Object.keys(table), "chromium"]);
    expect(packagesOf(["packages"], "debian")).toEqual(Object.keys(table));
    expect(packagesOf(["modules"], "debian")).toEqual([]);
  });

  it("are those that apt-get can install: elsewhere Chromium is a snap, or has another name", () => {
    expect(packagesOf(["packages", "testPackages"], "ubuntu")).toEqual(Object.keys(table));
    expect(packagesOf(["testPackages"], "fedora")).toEqual([]);
  });

  it("are missing where their files are", () => {
    const ask =
      "m.missingPackages({ ...input, packages: m.packagesFor(['packages', 'testPackages'], { id: 'debian' }) })";
    expect(evaluate("packages", ask, system())).toEqual(["chromium"]);
    plant(dir, { "usr/bin/chromium": "" }, 0o755);
    expect(evaluate("packages", ask, system())).toEqual([]);
  });

  it("are named with their files on a system that is not known", () => {
    const ask = "m.requireKnownDistribution(['chromium'], { id: 'x', version: '1', name: 'X' })";
    expect(thrown("packages", ask).message).toContain("chromium (/usr/bin/chromium)");
  });
});

describe("installation", () => {
  it("is one line a user can run", () => {
    expect(evaluate("packages", "m.installLine(input)", ["jq", "ovmf"])).toBe(
      "apt-get install -y --no-install-recommends jq ovmf",
    );
  });

  it("needs nothing in front for root", () => {
    expect(evaluate("packages", "m.privilege(['jq'], { uid: 0, sudo: undefined })")).toEqual([]);
  });

  it("stops with exit code 2 and that line without root and sudo", () => {
    const { message, exitCode } = thrown("packages", "m.privilege(['jq', 'ovmf'], { uid: 1000, sudo: '' })");
    expect(exitCode).toBe(2);
    expect(message.split("\n").at(-1)).toBe("apt-get install -y --no-install-recommends jq ovmf");
  });

  it("stops the same way where sudo wants a password and nobody is there to type it", () => {
    plant(dir, { sudo: "#!/bin/sh\nexit 1\n" }, 0o755);
    const ask = "m.privilege(['jq'], { uid: 1000, sudo: input, terminal: false })";
    expect(thrown("packages", ask, path.join(dir, "sudo")).exitCode).toBe(2);
  });

  it("goes through sudo where it asks nothing", () => {
    plant(dir, { sudo: "#!/bin/sh\nexit 0\n" }, 0o755);
    const sudo = path.join(dir, "sudo");
    expect(evaluate("packages", "m.privilege(['jq'], { uid: 1000, sudo: input })", sudo)).toEqual([sudo, "-n"]);
  });

  it.each([
    ["debian", "12"],
    ["debian", "13"],
    ["ubuntu", "24.04"],
  ])("knows %s %s", (id, version) => {
    plant(dir, { "etc/os-release": `NAME="x"\nID=${id}\nVERSION_ID="${version}"\n` });
    const ask = "m.requireKnownDistribution(['jq'], m.distribution(input))";
    expect(thrown("packages", ask, dir).message).toBe("nothing was thrown");
  });

  it("names what is needed on a system it does not know, and stops with exit code 2", () => {
    plant(dir, { "etc/os-release": 'PRETTY_NAME="Other Linux 9"\nID=other\nVERSION_ID=9\n' });
    const ask = "m.requireKnownDistribution(['genisoimage'], m.distribution(input))";
    const { message, exitCode } = thrown("packages", ask, dir);
    expect(exitCode).toBe(2);
    expect(message).toContain("Other Linux 9");
    expect(message).toContain("genisoimage (genisoimage, mkisofs)");
  });

  it("changes nothing in the checkout when it can not be done", () => {
    const checkout = path.join(dir, "checkout");
    fs.cpSync(path.join(root, "tools"), path.join(checkout, "tools"), { recursive: true });
    fs.mkdirSync(path.join(dir, "empty"));
    fs.chmodSync(dir, 0o755);
    // Without root's rights, and with a PATH on which neither sudo nor anything else is found.
    const user = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};
    const run = spawnSync(process.execPath, [path.join(checkout, "tools/run.mjs"), "demo"], {
      encoding: "utf8",
      env: { PATH: path.join(dir, "empty") },
      ...user,
    });
    expect({ status: run.status, stdout: run.stdout }).toEqual({ status: 2, stdout: "" });
    expect(run.stderr).toContain("mmdebstrap");
    expect(fs.readdirSync(checkout)).toEqual(["tools"]);
  });
});
