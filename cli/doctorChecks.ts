/** How a check went. `warn`: it works, but something is worse than it could be, or only some uses need it. */
export type Level = "ok" | "warn" | "fail";

/** One thing that was looked at. */
export interface Finding {
  /** Short and stable, for programs: `kvm`, `tool.virsh`, `host.local.libvirt`. */
  name: string;
  level: Level;
  /** What was found. */
  text: string;
  /** What to do about it; only where there is something to do. */
  advice?: string;
}

export const ok = (name: string, text: string): Finding => ({ name, level: "ok", text });
export const warn = (name: string, text: string, advice: string): Finding => ({ name, level: "warn", text, advice });
export const fail = (name: string, text: string, advice: string): Finding => ({ name, level: "fail", text, advice });

/** A program that some part needs on this machine. */
export interface Tool {
  command: string;
  /** Debian's name of the package. */
  install: string;
  use: string;
  /** What it does not stop to work without: then it is only a warning. */
  optional?: true;
}

/** Programs that are started on the machine where Pulumi runs. */
export const TOOLS: readonly Tool[] = [
  { command: "virsh", install: "libvirt-clients", use: "to talk to libvirt" },
  { command: "xsltproc", install: "xsltproc", use: "to complete the definition of a domain" },
  { command: "mkisofs", install: "genisoimage", use: "to make seed media" },
  { command: "qemu-img", install: "qemu-utils", use: "to read and check disk images" },
  { command: "zstd", install: "zstd", use: "to unpack images" },
  { command: "ssh", install: "openssh-client", use: "to reach guests and remote hosts" },
  { command: "pulumi", install: "the project's own set-up: npm run setup", use: "to change anything" },
  { command: "git", install: "git", use: "to tell which files a flake consists of", optional: true },
];

/** One finding a program; `has` looks on the PATH. */
export function checkTools(has: (command: string) => boolean, tools = TOOLS): Finding[] {
  return tools.map(({ command, install, use, optional }) => {
    const name = `tool.${command}`;
    if (has(command)) return ok(name, "is there");
    const advice = install.includes(" ") ? install : `install the package ${install}`;
    return (optional ? warn : fail)(name, `is not on the PATH, and is needed ${use}`, advice);
  });
}

/** What `node tools/accelerator.mjs` printed: `accelerator: kvm (why)`. Emulation is a choice, and ten times slower. */
export function checkKvm(printed: string): Finding {
  const [, accelerator, why] = /^accelerator: (\w+) \((.*)\)$/m.exec(printed) ?? [];
  if (accelerator === "kvm") return ok("kvm", `works: ${why}`);
  if (accelerator === "tcg") {
    const advice = "guests are emulated, some ten times slower; for KVM: a processor with VT-x or AMD-V, switched on";
    return warn("kvm", `does not work: ${why}`, advice);
  }
  return warn("kvm", "cannot be told: the probe gave no answer", "run: node tools/accelerator.mjs");
}

/** Nix is needed only where images are built, which may be another machine. */
export function checkNix(version: string | undefined, features: string | undefined): Finding {
  const advice = "only needed to build images here; install Nix, or name a build host (images.<name>.buildHost)";
  if (version === undefined) return warn("nix", "is not on the PATH", advice);
  const flakes = /\bnix-command\b/.test(features ?? "") && /\bflakes\b/.test(features ?? "");
  const said = version.trim().split("\n")[0] ?? "";
  // Our verbs switch flakes on by themselves; a person at a prompt will want them too.
  if (flakes) return ok("nix", `${said}, with flakes`);
  const how = "nixvm image build switches them on itself; for your own use: experimental-features = nix-command flakes";
  return warn("nix", `${said}, without flakes`, how);
}

/** Libvirt's and QEMU's versions as `virsh version` prints them. Older ones were not tried. */
export function checkVersions(host: string, text: string): Finding[] {
  const name = `host.${host}.versions`;
  const libvirt = /^Using library: libvirt ([\d.]+)/m.exec(text)?.[1];
  const qemu = /^Running hypervisor: QEMU ([\d.]+)/m.exec(text)?.[1];
  if (libvirt === undefined) return [warn(name, "are not told", "run: virsh version")];
  const said = `libvirt ${libvirt}${qemu === undefined ? "" : `, QEMU ${qemu}`}`;
  const old = Number.parseInt(libvirt, 10) < 9 || (qemu !== undefined && Number.parseInt(qemu, 10) < 7);
  return [old ? warn(name, said, "tried with libvirt 9 and QEMU 7 and newer; take a newer system") : ok(name, said)];
}

/** Less than this of a pool is left: a guest that writes will be stopped by libvirt before long. */
const LITTLE = 0.05;
const FEW_BYTES = 2 * 2 ** 30;

/** Space of a host's pool. */
export function checkSpace(host: string, space: { capacity: number; available: number } | undefined): Finding {
  const name = `host.${host}.pool`;
  if (space === undefined) return ok(name, "does not exist yet: the first run makes it");
  const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  const said = `${gib(space.available)} of ${gib(space.capacity)} are free`;
  const low = space.available < FEW_BYTES || space.available < space.capacity * LITTLE;
  const advice = "a full pool stops its guests: nixvm image prune, fewer snapshots, or a larger disk";
  return low ? warn(name, said, advice) : ok(name, said);
}

/**
 * The AppArmor trap of Debian and Ubuntu (upstream issue 1163): with AppArmor as libvirt's security driver, its helper does not
 * know the files below volumes. Our disks are of type file, for which it does; a pool outside of its folders still needs a rule.
 */
export function checkAppArmor(host: string, capabilities: string, poolPath: string): Finding {
  const name = `host.${host}.apparmor`;
  if (!/<secmodel>\s*<model>apparmor<\/model>/.test(capabilities)) return ok(name, "libvirt does not use it");
  if (poolPath.startsWith("/var/lib/libvirt/images/")) return ok(name, "libvirt uses it, and knows the pool's folder");
  const advice = `if guests do not start with "Permission denied": allow ${poolPath}/** rwk in /etc/apparmor.d/abstractions/libvirt-qemu`;
  return warn(name, `libvirt uses it, and the pool ${poolPath} is outside of its usual folders`, advice);
}

/** More than this, and certificates, logs and timers of a guest go wrong. */
const SKEW_SECONDS = 5;

/** Clock of a guest against this machine's; `seconds` is how far the guest is ahead. */
export function checkClock(name: string, seconds: number): Finding {
  const said = `${Math.abs(seconds).toFixed(1)} s ${seconds < 0 ? "behind" : "ahead of"} this machine`;
  if (Math.abs(seconds) <= SKEW_SECONDS) return ok(name, Math.abs(seconds) < 1 ? "agrees with this machine" : said);
  return warn(name, said, "see that NTP runs on both; windows and certificates go by these clocks");
}

/** What `ufw status` says; undefined without UFW. With it on, traffic of guests has to be allowed (T-23). */
export function checkUfw(status: string | undefined, bridges: readonly string[]): Finding {
  if (status === undefined || !/^Status: active/m.test(status)) return ok("ufw", status ? "is off" : "is not used");
  const bridge = bridges.find((name) => name.startsWith("virbr")) ?? "virbr0";
  const missing = ufwRules(bridge).filter((rule) => !hasRule(status, rule));
  if (missing.length === 0) return ok("ufw", `is on, and lets ${bridge} through`);
  return warn(
    "ufw",
    `is on, and does not let all traffic of ${bridge} through`,
    missing.map((one) => one.command).join("; "),
  );
}

interface UfwRule {
  command: string;
  to: RegExp;
}

/** The four rules: in, out, and routed both ways. */
export function ufwRules(bridge: string): UfwRule[] {
  const on = bridge.replace(/[.]/g, "\\.");
  return [
    { command: `ufw allow in on ${bridge}`, to: new RegExp(`^Anywhere on ${on}\\s+ALLOW( IN)?\\s+Anywhere`, "m") },
    { command: `ufw allow out on ${bridge}`, to: new RegExp(`^Anywhere\\s+ALLOW OUT\\s+Anywhere on ${on}`, "m") },
    { command: `ufw route allow in on ${bridge}`, to: new RegExp(`^Anywhere\\s+ALLOW FWD\\s+Anywhere on ${on}`, "m") },
    { command: `ufw route allow out on ${bridge}`, to: new RegExp(`^Anywhere on ${on}\\s+ALLOW FWD\\s+Anywhere`, "m") },
  ];
}

const hasRule = (status: string, { to }: UfwRule): boolean => to.test(status);
