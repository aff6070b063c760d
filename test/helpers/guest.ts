import { execFileSync, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import type { LiveVm } from "../../cli/guests";
import { systemClock } from "../../provider/clock";
import type { StatusRecord } from "../../provider/status";

/** A new key pair in `dir`. */
export function newKey(dir: string, name: string): { file: string; publicKey: string } {
  const file = path.join(dir, name);
  execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", file]);
  return { file, publicKey: fs.readFileSync(`${file}.pub`, "utf8").trim() };
}

/** Runs a command over SSH the way a user would; `options` come before the usual ones, and the first of each counts. */
export function ssh(
  port: number,
  account: string,
  key: string,
  command: string,
  options: readonly string[] = [],
): { code: number; out: string; err: string } {
  const usual = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "ConnectTimeout=20"];
  const args = [...options, ...usual, "IdentitiesOnly=yes"].flatMap((option) => ["-o", option]);
  const result = spawnSync("ssh", [...args, "-i", key, "-p", `${port}`, `${account}@127.0.0.1`, command], {
    encoding: "utf8",
    timeout: 120_000,
  });
  return { code: result.status ?? -1, out: result.stdout, err: result.stderr };
}

/**
 * Stops a guest cleanly and starts it (or takes one that was just started); gives the record of its new boot, healthy or not. Not a
 * reboot from inside: after a warm reset the emulated firmware needs minutes to read the kernel again.
 */
export async function reboot(vm: LiveVm, how: "restart" | "started" = "restart"): Promise<StatusRecord> {
  const never = new AbortController().signal;
  let before = "";
  if (how === "restart") {
    before = (await vm.status()).bootId;
    await vm.restartPlainly();
  }
  const until = Date.now() + 10 * 60_000;
  for (;;) {
    try {
      const status = await vm.status();
      if (status.bootId !== before) return status;
    } catch (error) {
      // The agent goes and comes; only a guest that stays away is a failure.
      if (Date.now() > until) throw error;
    }
    await systemClock.sleep(500, never);
  }
}
