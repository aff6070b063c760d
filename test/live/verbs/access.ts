import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { CliProject, type Said } from "../../helpers/cliProject";
import { ROOT } from "../../helpers/liveStack";

const NIXVM = path.join(ROOT, "bin", "cli", "nixvm.js");

/**
 * Runs a verb on a terminal of its own; `type` is called with all that was shown so far, and gives what to type next. Also when nothing
 * more is shown: a key that is pressed before the other side listens is lost.
 */
function onTerminal(fleet: CliProject, args: string[], type: (shown: string) => string | undefined): Promise<Said> {
  const quoted = ["node", NIXVM, ...args].map((word) => `'${word}'`).join(" ");
  const child = fleet.spawn("script", ["-qec", quoted, "/dev/null"]);
  let shown = "";
  const show = (text: string): void => {
    shown += text;
    const typed = type(shown);
    if (typed !== undefined) child.stdin?.write(typed);
  };
  child.stdout?.setEncoding("utf8").on("data", show);
  child.stdin?.on("error", () => undefined);
  const again = setInterval(() => show(""), 2000);
  return new Promise<Said>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve({ code: code ?? -1, stdout: shown, stderr: "" }));
  }).finally(() => clearInterval(again));
}

export function accessSteps(fleet: () => CliProject): void {
  const key = (account: string): string => path.join(fleet().dir, account);
  const ssh = (vm: string, account: string, ...command: string[]): Promise<Said> =>
    fleet().nixvm("ssh", vm, "--user", account, "-i", key(account), "--", ...command);
  const bootId = (vm: string): Promise<string> => fleet().inGuest(vm, "cat /proc/sys/kernel/random/boot_id");

  test("access: ssh is verified from its first connection on, admin has sudo and user has not (T-61)", async () => {
    const status = await fleet().answer("status");
    expect(status).toMatchObject([
      { name: "db", state: "running", ip: "10.0.2.15" },
      { name: "web", state: "running", ip: "10.0.2.15" },
    ]);
    expect(await ssh("web", "admin", "sudo -n id -u; id -un; exit 7")).toMatchObject({ code: 7, stdout: "0\nadmin\n" });
    const user = await ssh("web", "user", "id -un; sudo -n true");
    expect(user).toMatchObject({ code: 1, stdout: "user\n" });
    // The first account with a key.
    expect(await fleet().answer("ssh", "web")).toMatchObject({ user: "admin", host: "127.0.0.1", port: 23402 });
  });

  test("access: a VM that has another host key is not spoken to", async () => {
    const file = path.join(fleet().dir, "ssh", "config");
    const made = await fleet().answer("export", "ssh-config", "-o", file);
    expect(made).toMatchObject({ hosts: ["db", "web"], missing: [] });
    const plain = (host: string): Said => {
      const args = ["-F", file, "-o", "BatchMode=yes", "-i", key("admin"), host, "hostname"];
      const { status, stdout, stderr } = spawnSync("ssh", args, { encoding: "utf8", timeout: 60_000 });
      return { code: status ?? -1, stdout, stderr };
    };
    expect(plain("web")).toMatchObject({ code: 0, stdout: "web\n" });
    const keys = fs.readFileSync(made.knownHosts, "utf8");
    const swapped = keys.replace(/-(db|web) /g, (_, vm) => (vm === "db" ? "-web " : "-db "));
    fs.writeFileSync(made.knownHosts, swapped);
    expect(plain("web")).toMatchObject({ code: 255, stdout: "" });
    expect(plain("web").stderr).toContain("Host key verification failed");
  });

  test("access: exec passes on output, exit code and arguments as they are; logs shows the journal", async () => {
    const web = (...command: string[]): Promise<Said> => fleet().nixvm("exec", "web", "--", ...command);
    expect(await web("sh", "-c", "echo out; echo err >&2; exit 7")).toEqual({
      code: 7,
      stdout: "out\n",
      stderr: "err\n",
    });
    expect(await web("printf", "%s|", "a b", "$HOME", "'\"")).toMatchObject({ code: 0, stdout: "a b|$HOME|'\"|" });
    expect((await web("no-such-program")).code).toBe(127);
    // More than one answer of libvirt can hold.
    const big = await web("sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' x");
    expect([big.code, /^x*$/.test(big.stdout), big.stdout.length]).toEqual([0, true, 5_000_000]);
    const late = await fleet().nixvm("exec", "web", "--timeout", "2s", "--", "sh", "-c", "sleep 987; true");
    expect(late).toMatchObject({ code: 1, stderr: expect.stringContaining("did not end within 2 s") });
    expect(await web("sh", "-c", "sleep 4; ls /run | grep nixvm-exec; pgrep -f '[s]leep 987'")).toMatchObject({
      code: 1,
      stdout: expect.stringMatching(/^nixvm-exec-\S+\n$/),
    });
    await fleet().inGuest("web", "logger -t verbs 'a line of ours'");
    expect((await fleet().nixvm("logs", "web", "--boot")).stdout).toMatch(
      /^\d{4}-\d\d-\d\dT.* verbs\S*: a line of ours$/m,
    );
    const [line] = (await fleet().nixvm("logs", "web", "-n", "1", "--json")).stdout.split("\n");
    expect(JSON.parse(line ?? "")).toHaveProperty("MESSAGE");
  });

  test("access: a journal is followed until Ctrl-C, and nothing of that stays in the guest", async () => {
    const child = fleet().spawn("node", [NIXVM, "logs", "web", "--follow", "--lines", "all"]);
    let shown = "";
    child.stdout?.setEncoding("utf8").on("data", (text: string) => (shown += text));
    const seen = async (line: RegExp): Promise<void> => {
      for (let tries = 0; tries < 300 && !line.test(shown); tries++) await new Promise((go) => setTimeout(go, 200));
      expect(shown).toMatch(line);
    };
    await seen(/a line of ours/);
    await fleet().inGuest("web", "logger -t verbs 'another one'");
    await seen(/verbs\S*: another one/);
    child.kill("SIGINT");
    expect(await new Promise((resolve) => child.on("close", resolve))).toBe(130);
    expect(await fleet().inGuest("web", "sleep 4; pgrep -x journalctl; ls /run | grep nixvm-exec; true")).toBe("");
  });

  test("access: a login prompt is read through the console (T-60)", async () => {
    const shown = await onTerminal(fleet(), ["console", "db"], (text) => {
      if (text.includes("db login:")) return "\u001d";
      return text.includes("Escape character") ? "\r" : undefined;
    });
    expect(shown.stdout).toContain("db login:");
    expect(shown.code).toBe(0);
    expect(await fleet().nixvm("console", "db")).toMatchObject({ code: 3 });
  });

  test("access: a suspended VM is none that is off; a refresh resumes it", async () => {
    const before = await bootId("web");
    expect(await fleet().answer("suspend", "web")).toEqual([
      { name: "web", before: "running", state: "paused", changed: true },
    ]);
    expect(await fleet().nixvm("exec", "web", "--", "true")).toMatchObject({ code: 3 });
    expect(await fleet().pending()).toBe("");
    expect((await fleet().pulumi("preview", "--refresh")).stdout).toContain("web: is resumed (it was paused)");
    const up = await fleet().pulumi("up", "--yes", "--refresh", "--skip-preview", "--target", "**::web-guest");
    expect(up).toMatchObject({ code: 0 });
    expect(await fleet().answer("resume", "web")).toMatchObject([{ state: "running", changed: false }]);
    expect(await bootId("web")).toBe(before);
  });

  test("access: stop and start are declared, and no preview has anything to do then (T-38, T-39)", async () => {
    const marker = await fleet().inGuest("db", "date +%s > /var/lib/marker; cat /var/lib/marker");
    expect(await fleet().answer("stop", "db")).toMatchObject([{ name: "db", state: "shut off", changed: true }]);
    expect(await fleet().pending()).toBe("");
    expect(await fleet().answer("stop", "db")).toMatchObject([{ state: "shut off", changed: false }]);
    expect(await fleet().nixvm("ssh", "db")).toMatchObject({
      code: 3,
      stderr: expect.stringContaining("nixvm start db"),
    });
    expect((await fleet().nixvm("logs", "db", "--serial", "-n", "all")).stdout).toMatch(
      /Powering off|Power down|reboot:/i,
    );
    expect(await fleet().answer("start", "db")).toMatchObject([{ name: "db", state: "running", changed: true }]);
    expect(await fleet().pending()).toBe("");
    expect(await fleet().inGuest("db", "cat /var/lib/marker")).toBe(marker);
    // The boot before ended as a shutdown does.
    const journal = await fleet().inGuest("db", "journalctl -b -1 -o cat --no-pager | tail -40");
    expect(journal).toMatch(/Journal stopped|Reached target .*(Shutdown|Power-Off)/i);
  });

  test("access: a forced stop ends a VM at once and is declared (T-40)", async () => {
    expect(await fleet().nixvm("force-stop", "db")).toMatchObject({ code: 2 });
    expect(await fleet().answer("list")).toMatchObject([{ name: "db", state: "running" }, { name: "web" }]);
    const begun = Date.now();
    expect(await fleet().answer("force-stop", "db", "--yes")).toMatchObject([{ state: "shut off", changed: true }]);
    expect(Date.now() - begun).toBeLessThan(60_000);
    expect(await fleet().pending()).toBe("");
    expect(await fleet().nixvm("restart", "db")).toMatchObject({ code: 3 });
    expect(await fleet().answer("start", "db")).toMatchObject([{ state: "running" }]);
  });
}
