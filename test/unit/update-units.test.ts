// When nix/guest/update is run: its units as systemd sees them, and the interval that the seed makes of them.
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { guestDir, Sandbox } from "./guest-sandbox";

const standins = path.resolve(guestDir, "../../images/variants/standins");

let box: Sandbox;
afterEach(() => box.done());

describe("the units", () => {
  const units = path.join(guestDir, "units");
  let dir: string;
  beforeEach(() => {
    box = new Sandbox();
    dir = mkdtempSync(path.join(tmpdir(), "nixvm units "));
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  /** All units of a guest as its builder puts them into place, looked at by systemd itself. */
  function verify(change: (name: string, text: string) => string = (_name, text) => text): string {
    cpSync(path.join(standins, "etc/systemd/system"), dir, { recursive: true, verbatimSymlinks: true });
    for (const name of readdirSync(units)) {
      const text = change(name, readFileSync(path.join(units, name), "utf8")).replaceAll("@guest@", "/bin/true ");
      box.write("unit", text);
      cpSync(box.path("unit"), path.join(dir, name));
      const [, target] = /^WantedBy=(\S+)/m.exec(text) ?? [];
      if (target === undefined) continue;
      mkdirSync(path.join(dir, `${target}.wants`), { recursive: true });
      symlinkSync(path.join("..", name), path.join(dir, `${target}.wants`, name));
    }
    const run = spawnSync("systemd-analyze", ["verify", "--man=no", "graphical.target", "nixvm-update.timer"], {
      encoding: "utf8",
      env: { ...process.env, SYSTEMD_UNIT_PATH: `${dir}:` },
    });
    if (run.error) throw new Error(`systemd-analyze cannot be run (${run.error.message}); it is part of systemd`);
    // What it says of units of the machine that runs the test is of no interest here.
    const lines = (run.stdout + run.stderr).split("\n");
    return lines.filter((line) => /nixvm|home-manager|netbird|cycle/.test(line)).join("\n");
  }

  test("start it in every boot, after the network and after all that the boot is waited for (V-31, V-40, V-41)", () => {
    const text = readFileSync(path.join(units, "nixvm-update.service"), "utf8");
    expect(text).toMatch(/^WantedBy=multi-user\.target$/m);
    expect(text).toMatch(/^Wants=network-online\.target$/m);
    expect(text).toMatch(/^After=network-online\.target multi-user\.target nixvm-status\.service$/m);
    // A job of type oneshot would keep the boot from being over until the update is.
    expect(text).toMatch(/^Type=exec$/m);
    expect(verify()).toBe("");
  });

  test("would be caught waiting for each other", () => {
    const found = verify((name, text) =>
      name === "nixvm-update.service" ? text.replace(" multi-user.target", "") : text,
    );
    expect(found).toContain("ordering cycle");
  });

  test("look for a new system once an hour when the seed says nothing else (V-30, V-39)", () => {
    const text = readFileSync(path.join(units, "nixvm-update.timer"), "utf8");
    const seconds = (key: string) => Number(new RegExp(`^${key}=(\\d+)s?$`, "m").exec(text)![1]);
    expect(seconds("OnUnitActiveSec") + seconds("RandomizedDelaySec")).toBe(3600);
    expect(seconds("AccuracySec")).toBe(1);
  });
});
describe("the seed", () => {
  const dropIn = "timer.d/seed.conf";
  const reload =
    "systemctl daemon-reload\nsystemctl restart nixvm-update.timer\nsystemctl --no-block start nixvm-update.service";
  const timer = () => ({ NIXVM_TIMER: box.path(dropIn) });
  function seed(update?: object): void {
    const nixvm = {
      contract: 1,
      rootMode: "readonly",
      persist: { mount: "/var", fs: "ext4", label: "var" },
      identity: {},
      accounts: [],
      tcpPorts: [],
      update,
    };
    box.medium({
      "user-data": `#cloud-config\n${JSON.stringify({ hostname: "web", nixvm })}\n`,
      "meta-data": '{"instance-id":"u"}',
    });
    if (!box.has("run/seed/rendered") && !box.has("run/changed")) {
      for (const step of ["read", "render"]) expect(box.guest("seed", step, timer()).code).toBe(0);
    }
    box.write("calls", "");
    expect(box.guest("seed", timer()).code).toBe(0);
  }
  const pull = (flake: string, everySeconds?: number) => ({
    mode: "pull",
    flake,
    ...(everySeconds ? { everySeconds } : {}),
  });
  const seconds = (key: string) => Number(new RegExp(`^${key}=(\\d+)$`, "m").exec(box.read(dropIn))![1]);
  beforeEach(() => (box = new Sandbox()));

  test.each([3600, 60, 61, 86_400])(
    "makes the timer's interval of %d s, random delay and all (V-30, V-39)",
    (every) => {
      seed(pull("a", every));
      expect(box.read(dropIn)).toContain("[Timer]\nOnUnitActiveSec=\nOnUnitActiveSec=");
      expect(seconds("OnUnitActiveSec") + seconds("RandomizedDelaySec")).toBe(every);
      expect(seconds("RandomizedDelaySec")).toBeGreaterThan(0);
      // systemd finds it when it starts.
      expect(box.calls()).not.toContain("nixvm-update");
    },
  );

  test("that changes is in effect at once, whatever has changed of it (V-37)", () => {
    seed();
    expect(box.has(dropIn)).toBe(false);
    for (const update of [pull("a"), pull("b"), pull("b", 600), undefined]) {
      seed(update);
      expect(box.calls()).toContain(reload);
      expect(box.has(dropIn)).toBe(update !== undefined);
      seed(update);
      expect(box.calls()).not.toContain("nixvm-update");
    }
  });
});
