// Is KVM really there? Only where a probe guest runs; else guests are emulated (TCG), which works everywhere and is slower.
// Run by hand: node tools/accelerator.mjs
import { spawn } from "node:child_process";
import { accessSync, constants, existsSync, mkdtempSync, realpathSync, rmSync, statSync, writeFileSync } from "node:fs";
import { release, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { probeRom, ROM_DEVICE, ROM_PASSED } from "./host-probe-rom.mjs";
import { readJson, writeAtomic } from "./host-process.mjs";
import { findProgram } from "./host-run.mjs";

/** Longest probe in all. Where KVM works both parts together take 1 to 3 s. */
const LIMIT_MS = 15_000;

/** A "no" may have passing reasons (another hypervisor holds the CPU, a machine under load), so it is asked again after this. */
const NO_IS_KEPT_MS = 3_600_000;

const KVM = "/dev/kvm";
const QEMU = "qemu-system-x86_64";

/** UEFI firmware images of Debian, Fedora and Arch; the probe does without when none is there. */
const FIRMWARE = [
  "/usr/share/OVMF/OVMF_CODE_4M.fd",
  "/usr/share/OVMF/OVMF_CODE.fd",
  "/usr/share/edk2/ovmf/OVMF_CODE.fd",
  "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
];

/** What QEMU prints when KVM cannot go on: the guest then stands still, so waiting longer is of no use. */
const HOPELESS = /KVM internal error|emulation failure|Assertion .* failed|failed to initialize kvm/;

/**
 * `kvm` where a probe guest ran in it, else `tcg`, each with the reason. The answer is kept in `cacheFile` until the device, QEMU, the
 * firmware, the kernel or the user changes.
 */
export async function probeAccelerator({ cacheFile } = {}) {
  const tcg = (why) => ({ accelerator: "tcg", why });
  if (process.arch !== "x64") return tcg(`this machine is ${process.arch}, guests are x86-64`);
  if (!existsSync(KVM)) return tcg(`no ${KVM}`);
  try {
    accessSync(KVM, constants.R_OK | constants.W_OK);
  } catch {
    return tcg(
      `${KVM} may not be opened by uid ${process.getuid()}: add the user to the group that owns it, usually kvm`,
    );
  }
  const qemu = findProgram(QEMU);
  if (!qemu) return tcg(`${QEMU} is not installed`);
  const key = cacheKey(qemu);
  const cached = cacheFile && readJson(cacheFile);
  if (isFresh(cached, key, Date.now())) return { accelerator: cached.accelerator, why: cached.why };
  const result = await runProbe({ qemu, accel: "kvm", cpu: "host" });
  const answer = result.ok
    ? { accelerator: "kvm", why: `a probe guest ran in ${result.seconds.toFixed(1)} s` }
    : tcg(`${KVM} is there, but ${result.why}`);
  if (cacheFile) writeAtomic(cacheFile, `${JSON.stringify({ ...answer, key, at: Date.now() })}\n`);
  return answer;
}

/** May a kept answer still be given? */
export function isFresh(cached, key, now) {
  if (!cached || cached.key !== key) return false;
  if (cached.accelerator === "kvm") return true;
  return cached.accelerator === "tcg" && now >= cached.at && now - cached.at < NO_IS_KEPT_MS;
}

function cacheKey(qemu) {
  const device = statSync(KVM);
  const program = statSync(realpathSync(qemu));
  const firmware = FIRMWARE.find((file) => existsSync(file)) ?? "none";
  return [
    1,
    device.rdev,
    device.mtimeMs,
    qemu,
    program.size,
    program.mtimeMs,
    firmware,
    release(),
    process.getuid(),
  ].join(" ");
}

/**
 * Runs the probe guests: own code through all that a kernel does at its start, then UEFI firmware as far as its boot menu. With `accel`
 * "tcg" and `cpu` "max" the probe itself can be tested anywhere.
 */
export async function runProbe({ qemu, accel, cpu, limitMs = LIMIT_MS }) {
  const begin = Date.now();
  const dir = mkdtempSync(join(tmpdir(), "nixvm-probe-"));
  try {
    const machine = ["-accel", accel, "-cpu", cpu, "-machine", "q35", "-nodefaults", "-display", "none", "-no-reboot"];
    const rom = join(dir, "rom");
    writeFileSync(rom, probeRom());
    const first = await watchQemu(qemu, [...machine, "-m", "16", "-bios", rom, "-device", ROM_DEVICE], { limitMs });
    if (first.code !== ROM_PASSED) return { ok: false, why: `a probe guest does not run: ${reason(first)}` };
    const firmware = FIRMWARE.find((file) => existsSync(file));
    if (firmware) {
      const left = limitMs - (Date.now() - begin);
      const pflash = `if=pflash,format=raw,unit=0,readonly=on,file=${firmware}`;
      const second = await watchQemu(qemu, [...machine, "-m", "128", "-drive", pflash, "-serial", "stdio"], {
        limitMs: left,
        until: /BdsDxe/,
      });
      if (!second.seen) return { ok: false, why: `UEFI firmware does not start in it: ${reason(second)}` };
    }
    return { ok: true, seconds: (Date.now() - begin) / 1000 };
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Runs QEMU until it ends, prints what is waited for, gets stuck, or the limit is over. */
function watchQemu(qemu, args, { limitMs, until }) {
  return new Promise((resolve) => {
    const child = spawn(qemu, args, { stdio: ["ignore", "pipe", "pipe"] });
    const result = { code: undefined, signal: undefined, seen: false, timedOut: false, out: "", err: "" };
    const timer = setTimeout(
      () => {
        result.timedOut = true;
        child.kill("SIGKILL");
      },
      Math.max(1, limitMs),
    );
    child.stdout.on("data", (data) => {
      result.out += data;
      if (!until?.test(result.out)) return;
      result.seen = true;
      child.kill("SIGKILL");
    });
    child.stderr.on("data", (data) => {
      result.err += data;
      if (HOPELESS.test(result.err)) child.kill("SIGKILL");
    });
    const finish = (more) => {
      clearTimeout(timer);
      resolve({ ...result, ...more });
    };
    child.on("error", (error) => finish({ err: error.message }));
    child.on("close", (code, signal) => finish({ code, signal }));
  });
}

function reason({ code, timedOut, err }) {
  const lines = err.split("\n").map((line) => line.trim());
  const line = lines.find((text) => HOPELESS.test(text)) ?? lines.find((text) => text && !/warning:/.test(text));
  if (line) return line.replace(/^qemu-system-x86_64: /, "").slice(0, 160);
  return timedOut ? "it stood still until the time limit" : `QEMU ended with ${code}`;
}

if (
  process.argv[1] &&
  existsSync(process.argv[1]) &&
  realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)
) {
  const { accelerator, why } = await probeAccelerator();
  console.log(`accelerator: ${accelerator} (${why})`);
}
