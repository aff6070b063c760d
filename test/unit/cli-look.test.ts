import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { type FleetVm } from "../../cli/fleet";
import { nixvm } from "../../cli/nixvm";
import { causeOf, quickLibvirt } from "../../cli/quick";
import { isOn, lookAtAll, overlayTimes, statesOf } from "../../cli/vmFacts";
import { systemClock } from "../../provider/clock";
import { LibvirtError } from "../../provider/virsh";
import { stateVm } from "../helpers/sampleFleet";
import { domainXml, FakeClock, FakeLibvirt, UUID } from "./provider-fake";

const OVERLAY = "/pool dir/fleet-web-bbbbbbbbbbbb-0102.qcow2";
const vmAt = (host: string, name = "web"): FleetVm => ({
  ...stateVm(name, { host, uuid: UUID, domain: "fleet-web", memoryMiB: 512, vcpus: 1, overlayPath: OVERLAY }),
  ...{ imageDigest: "bbbbbbbbbbbb", imageId: "image-2" },
});

/** A libvirt with one domain that runs, whose guest answers. */
function host(): FakeLibvirt {
  const made = new FakeLibvirt();
  made.live = made.inactive = domainXml(OVERLAY);
  const record = JSON.stringify(made.status);
  const mark = "\n--nixvm--\n";
  const out = ["running", record, "60.5 1.0\nMemTotal: 9 kB", "inet 10.0.2.15/24", "/dev/vdb 100 50 50 50% /var"].join(
    mark,
  );
  made.commands = [["is-system-running", () => ({ out: out + mark })]];
  return made;
}

const controller = new AbortController();
const deps = (of: (uri: string) => FakeLibvirt, signal = controller.signal) => ({
  ...{ libvirt: of, clock: new FakeClock(), signal },
});

describe("what is there of a fleet", () => {
  test("is asked of each guest with one command", async () => {
    const libvirt = host();
    const [facts] = await lookAtAll(
      [vmAt("a")],
      deps(() => libvirt),
    );
    expect(facts).toMatchObject({ domain: { state: "running" }, guest: { system: "running", ip: "10.0.2.15" } });
    expect(facts?.guest?.uptimeSeconds).toBe(60.5);
    expect(libvirt.asked).toEqual(["is-system-running"]);
    expect(libvirt.calls).toEqual(["list", "state", "xml", "definition"]);
  });

  test("is known of all others when a host does not answer, and why", async () => {
    const far = host();
    far.failing.set(
      "list",
      new LibvirtError("unreachable", "libvirt at qemu+ssh://b/system does not answer: No route"),
    );
    const found = await lookAtAll(
      [vmAt("a"), vmAt("b", "far")],
      deps((uri) => (uri.includes("@b/") ? far : host())),
    );
    expect(found.map(({ vm, hostProblem }) => [vm.name, hostProblem])).toEqual([
      ["web", undefined],
      ["far", "No route"],
    ]);
  });

  test("holds up no other host when one takes its time", async () => {
    const slow = host();
    let answer: (() => void) | undefined;
    slow.domains = () => new Promise((resolve) => (answer = () => resolve(slow.list)));
    const quick = host();
    const all = lookAtAll(
      [vmAt("a"), vmAt("b", "far")],
      deps((uri) => (uri.includes("@a/") ? slow : quick)),
    );
    while (quick.asked.length === 0) await new Promise(setImmediate);
    answer?.();
    expect((await all).map(({ guest }) => guest?.system)).toEqual(["running", "running"]);
  });

  test("asks some VMs of a host at a time, and each host once", async () => {
    const libvirt = host();
    let [now, most] = [0, 0];
    libvirt.xml = async () => {
      most = Math.max(most, ++now);
      await new Promise(setImmediate);
      now--;
      return libvirt.live;
    };
    await lookAtAll(
      Array.from({ length: 40 }, (_, n) => vmAt("a", `w${n}`)),
      deps(() => libvirt),
    );
    expect(libvirt.calls.filter((call) => call === "list")).toHaveLength(1);
    expect(most).toBeGreaterThan(1);
    expect(most).toBeLessThanOrEqual(8);
  });

  test("has no guest of a VM whose agent is silent, that is off, or that is gone", async () => {
    const libvirt = host();
    const look = async () =>
      (
        await lookAtAll(
          [vmAt("a")],
          deps(() => libvirt),
        )
      )[0];
    libvirt.system = undefined;
    expect(await look()).toMatchObject({
      guestProblem: "QEMU guest agent is not connected",
      domain: { state: "running" },
    });
    libvirt.domain = { state: "shut off", reason: "crashed" };
    expect(await look()).toMatchObject({ domain: { state: "shut off", next: { bootPath: OVERLAY } } });
    expect(await look()).not.toHaveProperty("guestProblem");
    libvirt.list = [{ uuid: "other", name: "fleet-web" }];
    expect(await look()).toMatchObject({ otherUuid: "other" });
    expect(await look()).not.toHaveProperty("domain");
  });

  test("asks the agent for the address where the guest has no program that tells it", async () => {
    const libvirt = host();
    libvirt.commands = [["is-system-running", () => ({ out: "running\n--nixvm--\n" })]];
    const [facts] = await lookAtAll(
      [vmAt("a")],
      deps(() => libvirt),
    );
    expect(facts?.guest?.ip).toBe("10.0.2.15");
  });

  test("is not waited for any more after Ctrl-C", async () => {
    const libvirt = host();
    libvirt.domains = () => new Promise(() => undefined);
    const stop = new AbortController();
    const all = lookAtAll(
      [vmAt("a")],
      deps(() => libvirt, stop.signal),
    );
    stop.abort();
    await expect(all).rejects.toThrow("cancelled");
  });

  test("of a fault of ours stays a fault", async () => {
    const libvirt = host();
    libvirt.state = () => Promise.reject(new TypeError("oops"));
    await expect(
      lookAtAll(
        [vmAt("a")],
        deps(() => libvirt),
      ),
    ).rejects.toThrow("oops");
  });

  test("is for a list no more than libvirt's states (T-56)", async () => {
    const far = host();
    far.failing.set("list", new LibvirtError("unreachable", "libvirt at x does not answer: No route"));
    const vms = [vmAt("a"), { ...vmAt("a", "gone"), uuid: "u" }, vmAt("b", "far")];
    const near = host();
    expect(
      await statesOf(
        vms,
        deps((uri) => (uri.includes("@b/") ? far : near)),
      ),
    ).toEqual([...["running", "gone", "host unreachable: No route"]]);
    expect(near.asked).toEqual([]);
  });

  test("says since when a VM has its image by when its overlay was made", () => {
    const urn = "urn:pulumi:prod::nixvm::a$libvirt:index/volume:Volume::web-overlay-bbbbbbbbbbbb-volume";
    const volume = { urn, type: "libvirt:index/volume:Volume", id: OVERLAY };
    const persist = { ...volume, urn: urn.replace("overlay-bbbbbbbbbbbb", "persist"), id: "/p", created: "x" };
    const times = overlayTimes([{ ...volume, created: "2026-01-01T00:00:00Z" }, persist]);
    expect([...times]).toEqual([[OVERLAY, "2026-01-01T00:00:00Z"]]);
    expect([...overlayTimes([volume])]).toEqual([]);
  });

  test("counts a VM as on whose processors only wait", () => {
    expect(["running", "idle", "blocked", "paused", "shut off", "crashed"].filter(isOn)).toEqual([
      ...["running", "idle", "blocked"],
    ]);
  });
});

describe("the verbs, on a machine with two hosts of which one is out of reach", () => {
  let dir: string;
  let printed: string;
  let errors: string;
  const saved = { ...process.env };
  const NEAR = "qemu:///system";
  const plant = (name: string, content: string, mode = 0o644): void => {
    const file = path.join(dir, name);
    fs.mkdirSync(path.dirname(file), { recursive: true });
    fs.writeFileSync(file, content, { mode });
  };
  const guest = (vm: FleetVm, uri: string) => ({
    urn: `urn:pulumi:prod::nixvm::nixvm:index:Guest::${vm.name}-guest`,
    type: "nixvm:index:Guest",
    inputs: { ...vm, vm: vm.name, uri },
  });

  beforeEach(() => {
    dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm view "));
    const resources = [guest(vmAt("a"), NEAR), guest({ ...vmAt("b", "api-1"), uuid: "u" }, "qemu+ssh://far/system")];
    plant("state.json", JSON.stringify({ deployment: { resources } }));
    plant("stacks/Pulumi.prod.yaml", "config:\n  nixvm:groups:\n    api:\n      count: 1\n");
    plant("domain.xml", domainXml(OVERLAY));
    plant(
      "bin/pulumi",
      `#!/bin/sh\n[ "$1" = stack ] && exec cat '${dir}/state.json'\necho "error: no passphrase" >&2; exit 1\n`,
      0o755,
    );
    const virsh = `#!/bin/sh
case "$*" in
  *far*) echo "error: failed to connect to the hypervisor" >&2; echo "error: No route to host" >&2; exit 1 ;;
  *--uuid*) echo "${UUID} fleet-web" ;;
  *domstate*) echo "running (booted)" ;;
  *dumpxml*) cat '${dir}/domain.xml' ;;
  *agent*) echo "error: Guest agent is not responding: QEMU guest agent is not connected" >&2; exit 1 ;;
  *vol-info*) printf 'Capacity:       2048 bytes\\nAllocation:     1024 bytes\\n' ;;
  *) exit 1 ;;
esac
`;
    plant("bin/virsh", virsh, 0o755);
    Object.assign(process.env, { PATH: `${dir}/bin:${saved.PATH ?? ""}`, NIXVM_PROJECT: dir, NIXVM_CWD: dir });
    printed = errors = "";
    jest.spyOn(process.stdout, "write").mockImplementation((text) => ((printed += String(text)), true));
    jest.spyOn(process.stderr, "write").mockImplementation((text) => ((errors += String(text)), true));
  });

  afterEach(() => {
    jest.restoreAllMocks();
    process.env = { ...saved };
    process.exitCode = undefined;
    fs.rmSync(dir, { recursive: true, force: true });
  });

  async function run(...args: string[]): Promise<typeof process.exitCode> {
    await nixvm().parseAsync(["node", "nixvm", ...args, "--stack", "prod"]);
    return process.exitCode;
  }

  test("show what the other one has, with the reason (T-56, T-57)", async () => {
    expect(await run("status")).toBe(0);
    expect(printed).toMatch(/^api-1 +api .* host unreachable: .*No route to host$/m);
    expect(printed).toMatch(/^web +- .* agent silent$/m);
    printed = "";
    expect(await run("list", "--json")).toBe(0);
    expect(JSON.parse(printed)).toMatchObject([
      { name: "api-1", group: "api", domain: "fleet-web", state: expect.stringMatching(/^host unreachable/) },
      { name: "web", state: "running", declared: "running" },
    ]);
  });

  test("write metrics whole, with what could not be told left out", async () => {
    const file = path.join(dir, "out.prom");
    expect(await run("metrics", "--textfile", "out.prom")).toBe(0);
    const text = fs.readFileSync(file, "utf8");
    expect(text).toMatch(/^nixvm_rollout_known\{stack="prod"\} 0$/m);
    expect(text).toMatch(/^nixvm_scrape_error\{host="local",stack="prod"\} 1$/m);
    expect(text).not.toMatch(/^nixvm_vm_up\{vm="api-1"/m);
    expect(fs.readdirSync(dir).filter((name) => name.startsWith("out"))).toEqual(["out.prom"]);
  });

  test("write the page, with the reason why nothing is known of the rollout", async () => {
    expect(await run("graph", "-o", "a page.html")).toBe(0);
    expect(printed).toBe(`${path.join(dir, "a page.html")}\n`);
    const text = fs.readFileSync(path.join(dir, "a page.html"), "utf8");
    expect(text).toContain("What is pending cannot be told: pulumi config --show-secrets: error: no passphrase");
    expect(text).toContain("1.0 KiB");
  });

  test.each<[string[], string]>([
    [["status", "--watch"], "--watch: draws on a terminal, and there is none; allowed: a terminal, or --json"],
    [["status", "--watch", "web"], '--watch: "web" is no number of seconds'],
    [["status", "--watch", "0", "--json"], '--watch: "0" is no number of seconds'],
    [["status", "none"], 'vm: "none" is no VM of this stack; allowed: api-1, web'],
    [["metrics", "--textfile", "."], "is a folder"],
    [["graph", "-o", "no/where.html"], "cannot be written to"],
  ])("refuse %j (G-14)", async (args, words) => {
    expect(await run(...args)).toBe(2);
    expect(errors).toContain(words);
  });
});

describe("a libvirt that is only looked at", () => {
  test("is given up after a while, and the host is named by nothing else", async () => {
    const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm slow "));
    const before = process.env.PATH;
    fs.writeFileSync(path.join(dir, "virsh"), "#!/bin/sh\nexec sleep 60\n", { mode: 0o755 });
    process.env.PATH = `${dir}:${before ?? ""}`;
    try {
      const begun = systemClock.now();
      const error = await quickLibvirt("qemu:///system", 0.2)
        .domains()
        .catch((thrown: unknown) => thrown as LibvirtError);
      expect(error).toMatchObject({ kind: "timeout" });
      expect(causeOf(error as LibvirtError)).toBe("no answer within 15 s");
      expect(systemClock.now() - begun).toBeLessThan(10_000);
    } finally {
      process.env.PATH = before;
      fs.rmSync(dir, { recursive: true });
    }
  });
});
