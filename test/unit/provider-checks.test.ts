import { spawnSync } from "node:child_process";
import { Check } from "../../provider/checkScript";
import { probeChecks, runChecks, wasHealthy } from "../../provider/checks";
import { Cancelled } from "../../provider/clock";
import { GuestFailure } from "../../provider/gate";
import { LibvirtError } from "../../provider/virsh";
import { FakeLibvirt, Scene, UUID } from "./provider-fake";

const limits = { timeoutSeconds: 10, withinSeconds: 60 };
const nginx: Check = { ...limits, name: "nginx", kind: "command", command: "systemctl is-active nginx" };
const web: Check = { ...limits, name: "web", kind: "http", address: "127.0.0.1", port: 80, path: "/health" };
const HOUR = 3_600_000;

let scene: Scene;
let guest: FakeLibvirt;
beforeEach(() => {
  scene = new Scene();
  guest = scene.libvirt;
});

const http = (status: number) => () => ({ out: `HTTP/1.1 ${status} x\r\n\r\n` });
const run = (checks: Check[], limitMs = HOUR): Promise<void> => runChecks(checks, UUID, scene.deps, limitMs);
async function failure(checks: Check[], limitMs?: number): Promise<GuestFailure> {
  const error: unknown = await run(checks, limitMs).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(GuestFailure);
  return error as GuestFailure;
}

describe("health checks", () => {
  test("cost nothing where there are none", async () => {
    await run([]);
    expect([scene.progress, guest.asked, scene.clock.time]).toEqual([[], [], 0]);
  });

  test("that pass are asked once and cost no wait", async () => {
    guest.commands = [
      ["is-active nginx", () => ({ out: "active\n" })],
      ["/health", http(200)],
    ];
    await run([nginx, web]);
    expect(guest.asked).toEqual(["is-active nginx", "/health"]);
    expect(scene.clock.time).toBe(0);
  });

  test("are tried again until they pass, those that passed are not asked again, and each try is shown", async () => {
    let tries = 0;
    guest.commands = [
      ["is-active nginx", () => ({})],
      ["/health", () => http(++tries < 4 ? 503 : 200)()],
    ];
    await run([nginx, web]);
    expect(guest.asked).toEqual(["is-active nginx", "/health", "/health", "/health", "/health"]);
    expect(scene.progress).toEqual([
      "check nginx",
      "check web",
      "check web: HTTP 503, try 1",
      "check web: HTTP 503, try 2",
      "check web: HTTP 503, try 3",
    ]);
  });

  test("fail with name, reason and last line when their time is over", async () => {
    guest.commands = [["is-active nginx", () => ({ code: 3, out: "one\ninactive\n" })]];
    const { message, look } = await failure([nginx]);
    expect(message).toMatch(/^health check "nginx" failed: exit code 3: inactive \(\d+ tries in 6\d s\)$/);
    expect(look).toBeUndefined();
    expect(scene.clock.time).toBeGreaterThanOrEqual(60_000);
    expect(scene.clock.time).toBeLessThan(66_000);
  });

  test("show in a failure what the guest said before", async () => {
    guest.commands = [["is-active nginx", () => ({ code: 127 })]];
    const seen = { system: "running" };
    await expect(runChecks([nginx], UUID, scene.deps, HOUR, seen)).rejects.toMatchObject({ look: seen });
  });

  test("have each a time of their own: the first whose time is over fails", async () => {
    guest.commands = [["", http(500)]];
    const slow = { ...web, name: "slow", withinSeconds: 600 };
    expect((await failure([slow, { ...web, withinSeconds: 5 }])).message).toContain('"web" failed: HTTP 500');
    expect(scene.clock.time).toBeLessThan(11_000);
  });

  test("never take longer than the caller has time, but are tried at least once", async () => {
    guest.commands = [["/health", http(500)]];
    expect((await failure([web], 0)).message).toBe('health check "web" failed: HTTP 500 (1 try in 0 s)');
  });

  test("whose command is not in the guest fail at once", async () => {
    guest.commands = [["is-active nginx", () => ({ code: 127, err: "sh: 1: systemclt: not found" })]];
    expect((await failure([nginx])).message).toBe(
      'health check "nginx" failed: a command is not in the guest (exit code 127): sh: 1: systemclt: not found (1 try in 0 s)',
    );
  });

  test("outlive a guest that restarts meanwhile", async () => {
    guest.commands = [["/health", http(200)]];
    guest.system = undefined;
    scene.clock.at(30, () => (guest.system = "running"));
    await run([web]);
    expect(scene.progress).toContain("check web: the guest agent does not answer, try 1");
    expect(scene.clock.time).toBeGreaterThanOrEqual(30_000);
  });

  test("fail when the agent stays silent", async () => {
    guest.system = undefined;
    expect((await failure([web])).message).toContain("the guest agent does not answer");
  });

  test.each([
    ["shut off", "destroyed"],
    ["crashed", "panicked"],
  ])("fail at once when the VM is %s (%s)", async (state, reason) => {
    guest.system = undefined;
    guest.domain = { state, reason };
    expect((await failure([web])).message).toBe(
      `health check "web" failed: the VM is ${state} (${reason}) (1 try in 0 s)`,
    );
  });

  test("outlive a VM that is paused for a moment", async () => {
    guest.commands = [["/health", http(200)]];
    guest.system = undefined;
    guest.domain = { state: "paused", reason: "migrating" };
    scene.clock.at(10, () => {
      guest.system = "running";
      guest.domain = { state: "running", reason: "" };
    });
    await run([web]);
    expect(scene.progress).toContain("check web: the VM is paused (migrating), try 1");
  });

  test("outlive a libvirtd that is restarted", async () => {
    let away = true;
    scene.clock.at(5, () => (away = false));
    guest.commands = [
      [
        "/health",
        () => {
          if (away) throw new LibvirtError("unreachable", "libvirt at qemu:///system does not answer: no socket");
          return http(200)();
        },
      ],
    ];
    await run([web]);
    expect(scene.progress).toContain("check web: libvirt at qemu:///system does not answer: no socket, try 1");
  });

  test("are no excuse for a libvirt that hangs", async () => {
    guest.commands = [
      [
        "/health",
        () => {
          throw new LibvirtError("timeout", "libvirt did not answer");
        },
      ],
    ];
    await expect(run([web])).rejects.toThrow("libvirt did not answer");
    expect(scene.clock.time).toBe(0);
  });

  test("end at once when the engine cancels", async () => {
    guest.commands = [["/health", http(503)]];
    scene.clock.at(10, () => scene.abort.abort());
    await expect(run([web])).rejects.toBeInstanceOf(Cancelled);
    expect(scene.clock.time).toBeLessThan(16_000);
  });
});

describe("a command that the running guest does not have", () => {
  const command = (text: string): Check => ({ ...limits, name: "a", kind: "command", command: text });

  test("is a warning before the upgrade, and no more", async () => {
    const other: Check = { ...nginx, name: "other", command: "FOO=1 systemclt is-active x" };
    guest.commands = [["command -v", () => ({ out: "1\n" })]];
    await probeChecks([nginx, web, other], UUID, scene.deps);
    expect(scene.warnings).toEqual([
      'health check "other": systemclt is not in the guest as it is now; unless the new image has it, the check will fail',
    ]);
  });

  test.each([
    ["systemclt is-active x", true],
    ["  A=b C=d /opt/no/such-check --all", true],
    ["no-such-program;true", true],
    ["test -f /x && true", false],
    ["[ -f /x ]", false],
    ["if true; then true; fi", false],
    ["A=b /bin/sh -c true", false],
    ["true;false", false],
  ])("is looked for by the first word, in a real shell: %s", async (text, missing) => {
    const agent = guest.agent.bind(guest);
    guest.commands = [["command -v", () => ({ out: "" })]];
    let script = "";
    guest.agent = (uuid, sent) => {
      script ||= String((sent.arguments?.["arg"] as string[])[1]);
      return agent(uuid, sent);
    };
    await probeChecks([nginx, command(text)], UUID, scene.deps);
    const found = spawnSync("/bin/sh", ["-c", script], { encoding: "utf8" });
    expect(found.stdout.split("\n").includes("1")).toBe(missing);
    expect([found.stderr, script === ""]).toEqual(["", false]);
  });

  test.each(["$TOOL x", "(cd /; true)", "! false", "'quoted tool'", "A=$(x y) z", "# nothing", "\ttool's"])(
    "is not guessed of %j",
    async (text) => {
      guest.commands = [["command -v", () => ({ out: "0\n" })]];
      await probeChecks([command(text)], UUID, scene.deps);
      expect([guest.asked, scene.warnings]).toEqual([[], []]);
    },
  );

  test("is no question for a guest that cannot be asked", async () => {
    guest.system = undefined;
    await probeChecks([nginx], UUID, scene.deps);
    expect(scene.warnings).toEqual([]);
  });
});

describe("before it is touched a guest", () => {
  test("is healthy when it says so and passes its checks", async () => {
    guest.commands = [["/health", http(200)]];
    expect(await wasHealthy(UUID, scene.deps, "nixvm", [web])).toEqual({ healthy: true });
  });

  test.each<[string, () => void, string]>([
    ["that says it is not", () => (guest.status = { ...guest.status, healthy: false, reasons: ["a", "b"] }), "a; b"],
    ["without a record", () => (guest.status = undefined), "it has no status record, its system is running"],
    ["whose agent is silent", () => (guest.system = undefined), "the guest agent does not answer"],
    [
      "that is off",
      () => {
        guest.system = undefined;
        guest.domain = { state: "shut off", reason: "crashed" };
      },
      "the VM is shut off (crashed)",
    ],
    ["that fails a check", () => (guest.commands = [["/health", http(503)]]), 'health check "web": HTTP 503'],
  ])("%s is not", async (_what, change, why) => {
    guest.commands = [["/health", http(200)]];
    change();
    expect(await wasHealthy(UUID, scene.deps, "nixvm", [web])).toEqual({ healthy: false, why });
    expect(scene.clock.time).toBe(0);
  });

  test("without our contract is healthy when its system is up", async () => {
    guest.status = undefined;
    guest.system = "degraded";
    expect(await wasHealthy(UUID, scene.deps, "none")).toEqual({ healthy: true });
    guest.system = "maintenance";
    expect(await wasHealthy(UUID, scene.deps, "none")).toEqual({
      healthy: false,
      why: "its system is maintenance",
    });
  });

  test("is not called unhealthy because libvirt is away", async () => {
    guest.agent = () => Promise.reject(new LibvirtError("unreachable", "libvirt does not answer"));
    await expect(wasHealthy(UUID, scene.deps)).rejects.toThrow("libvirt does not answer");
  });
});
