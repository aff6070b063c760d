import { execFileSync, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const TOOLS = join(__dirname, "..", "..", "tools");

interface Result {
  code: number | null;
  out: string;
  err: string;
}

describe("private libvirtd, for real", () => {
  const root = mkdtempSync(join(tmpdir(), "nixvm live host "));
  const guest = `nixvm-host-test-${process.pid}`;
  const env = { ...process.env };
  // What the shell happens to name must not decide which libvirt this test works on.
  delete env["LIBVIRT_DEFAULT_URI"];

  function tool(...args: string[]): Result {
    const result = spawnSync(process.execPath, [join(TOOLS, "libvirtd.mjs"), ...args, "--root", root], {
      encoding: "utf8",
      env,
    });
    return { code: result.status, out: result.stdout, err: result.stderr };
  }
  function status(): { running: boolean; answers: boolean; pid: number; uri: string; guests: string[] } {
    return JSON.parse(tool("status").out);
  }
  const virsh = (...args: string[]): string =>
    execFileSync("virsh", ["-q", "-c", status().uri, ...args], { encoding: "utf8" });
  /** Processes that have the guest's name in their command line. */
  function processesOfGuest(): string[] {
    const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid);
    return pids.filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(`guest=${guest}`);
      } catch {
        return false;
      }
    });
  }

  afterAll(() => {
    tool("stop", "--force");
    rmSync(root, { recursive: true, force: true });
  });

  test("a start that is broken off is taken up by the next one", async () => {
    const first = spawn(process.execPath, [join(TOOLS, "libvirtd.mjs"), "start", "--root", root], {
      stdio: "ignore",
      env,
    });
    const ended = new Promise((done) => first.once("exit", done));
    while (!existsSync(join(root, ".nixvm/libvirt/libvirtd.pid"))) await new Promise((done) => setTimeout(done, 5));
    const pid = status().pid;
    first.kill("SIGKILL");
    await ended;
    const second = tool("start");
    expect(second).toMatchObject({ code: 0 });
    expect(status()).toMatchObject({ running: true, answers: true, pid, guests: [] });
    expect(virsh("uri").trim()).toMatch(/^qemu:\/\/\/(system|session)/);
  }, 180_000);

  test("a guest is defined and started without QEMU being looked at again", () => {
    const xml = join(root, "guest.xml");
    writeFileSync(
      xml,
      `<domain type='qemu'><name>${guest}</name><memory unit='MiB'>32</memory><os><type arch='x86_64' machine='q35'>hvm</type></os>
       <devices><controller type='usb' model='none'/><memballoon model='none'/>
       <serial type='pty'><log file='${join(root, ".nixvm/libvirt/console/guest.log")}'/></serial>
       <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices></domain>`,
    );
    const begin = Date.now();
    virsh("define", xml);
    virsh("start", guest);
    // 0.4 s on an idle machine; each look at QEMU costs 8 s there. Between the two with room for a machine under load.
    expect(Date.now() - begin).toBeLessThan(7500);
    expect(processesOfGuest()).toHaveLength(1);
    expect(existsSync(join(root, ".nixvm/libvirt/console/guest.log"))).toBe(true);
  }, 60_000);

  test("a running one is found again at once", () => {
    tool("ensure");
    const begin = Date.now();
    expect(tool("ensure").out).toContain(`NIXVM_POOL_ROOT=${root}/.nixvm/libvirt/images`);
    // 0.15 s on an idle machine.
    expect(Date.now() - begin).toBeLessThan(3000);
  }, 60_000);

  test("guests outlive a libvirtd that is killed, and the next one takes them back", () => {
    const before = status().pid;
    const qemu = processesOfGuest();
    process.kill(before, "SIGKILL");
    expect(tool("ensure")).toMatchObject({ code: 0 });
    const after = status();
    expect(after).toMatchObject({ answers: true, guests: [guest] });
    expect(after.pid).not.toBe(before);
    expect(processesOfGuest()).toEqual(qemu);
    expect(virsh("domstate", guest).trim()).toBe("running");
    expect(virsh("qemu-monitor-command", "--hmp", guest, "info status")).toContain("running");
  }, 180_000);

  test("stop refuses while a guest runs and names it; --force leaves nothing behind", () => {
    const { pid } = status();
    const refused = tool("stop");
    expect(refused.code).toBe(1);
    expect(refused.err).toContain(guest);
    expect(status()).toMatchObject({ running: true, pid });
    // Also when libvirtd itself is gone: what runs must not be lost sight of.
    process.kill(pid, "SIGKILL");
    expect(tool("stop").code).toBe(1);
    expect(tool("stop", "--force").code).toBe(0);
    expect(processesOfGuest()).toEqual([]);
    expect(tool("status").code).toBe(1);
    expect(status()).toMatchObject({ running: false, answers: false });
    expect(existsSync(/socket=([^&]+)\/libvirt\/libvirt-sock/.exec(status().uri)![1]!)).toBe(false);
    expect(tool("stop").code).toBe(0);
  }, 180_000);
});

describe("KVM probe, for real", () => {
  test("the probe guest itself works: under TCG it passes to the end", () => {
    const code = `import { runProbe } from ${JSON.stringify(pathToFileURL(join(TOOLS, "accelerator.mjs")).href)};
      console.log(JSON.stringify(await runProbe({ qemu: "qemu-system-x86_64", accel: "tcg", cpu: "max", limitMs: 120000 })));`;
    const out = execFileSync(process.execPath, ["--input-type=module", "-e", code], { encoding: "utf8" });
    expect(JSON.parse(out)).toMatchObject({ ok: true });
  }, 130_000);

  test("the answer is one line", () => {
    const out = execFileSync(process.execPath, [join(TOOLS, "accelerator.mjs")], { encoding: "utf8" });
    expect(out).toMatch(/^accelerator: (kvm|tcg) \(.+\)\n$/);
  }, 30_000);
});
