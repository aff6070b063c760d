// The system packages: which are missing, and how they get in.
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "./errors.mjs";
import { capture, logged, which } from "./exec.mjs";

/**
 * What proves that a package is there: commands (`virsh`) or files (`/usr/...`), all of them. Looking is faster than
 * asking dpkg, and it accepts what came another way (nix from its own installer).
 */
export const PACKAGES = {
  "libvirt-daemon-system": ["libvirtd", "/etc/libvirt/qemu.conf"],
  "libvirt-clients": ["virsh"],
  "qemu-system-x86": ["qemu-system-x86_64"],
  "qemu-utils": ["qemu-img"],
  ovmf: ["/usr/share/OVMF/OVMF_CODE_4M.fd"],
  mmdebstrap: ["mmdebstrap"],
  xsltproc: ["xsltproc"],
  genisoimage: ["genisoimage", "mkisofs"],
  mtools: ["mcopy"],
  dosfstools: ["mkfs.fat"],
  e2fsprogs: ["mke2fs"],
  fdisk: ["sfdisk"],
  binutils: ["objcopy"],
  zstd: ["zstd"],
  lz4: ["lz4"],
  cpio: ["cpio"],
  "cryptsetup-bin": ["cryptsetup"],
  kmod: ["depmod"],
  "systemd-boot-efi": ["/usr/lib/systemd/boot/efi/linuxx64.efi.stub"],
  // A dynamic busybox has the same path: only dpkg's list tells the static one.
  "busybox-static": ["busybox", "/var/lib/dpkg/info/busybox-static.list"],
  shellcheck: ["shellcheck"],
  "nix-bin": ["nix-instantiate"],
  "util-linux": ["setpriv", "unshare"],
  "openssh-client": ["ssh", "ssh-keygen"],
  "dnsmasq-base": ["dnsmasq"],
};

/**
 * What only tests use, so set-up, demo and verbs ask for none of it. By Debian's names: Ubuntu has chromium as a snap only, which apt-get
 * cannot install, and other systems call it otherwise. There the test that needs it says so.
 */
export const TEST_PACKAGES = {
  chromium: ["/usr/bin/chromium"],
};

/** The packages of a task, by what it needs set up. */
export function packagesFor(needs, system = distribution()) {
  const ours = needs.includes("packages") ? PACKAGES : {};
  return needs.includes("testPackages") && system.id === "debian" ? { ...ours, ...TEST_PACKAGES } : ours;
}

const proofsOf = (name) => PACKAGES[name] ?? TEST_PACKAGES[name];

const KNOWN = { debian: ["12", "13"], ubuntu: ["24.04"] };

/** Packages of which something is missing. `fsRoot` and `path` are other than the machine's own only in tests. */
export function missingPackages({ packages = PACKAGES, fsRoot = "/", path = process.env.PATH } = {}) {
  const present = (proof) =>
    proof.startsWith("/") ? existsSync(join(fsRoot, proof)) : which(proof, path) !== undefined;
  return Object.keys(packages).filter((name) => !packages[name].every(present));
}

/** The one line a user can run, or give to somebody who may. */
export function installLine(names) {
  return `apt-get install -y --no-install-recommends ${names.join(" ")}`;
}

/** `ID` and `VERSION_ID` of os-release. */
export function distribution(fsRoot = "/") {
  let text = "";
  try {
    text = readFileSync(join(fsRoot, "etc/os-release"), "utf8");
  } catch {
    // A system without the file is one we do not know.
  }
  const field = (key) => new RegExp(`^${key}="?([^"\\n]*)"?$`, "m").exec(text)?.[1] ?? "";
  return { id: field("ID"), version: field("VERSION_ID"), name: field("PRETTY_NAME") || "this system" };
}

/** Ends with exit code 2 on a system whose package names we do not know. */
export function requireKnownDistribution(missing, system = distribution()) {
  if (KNOWN[system.id]?.includes(system.version)) return;
  const needs = missing.map((name) => `${name} (${proofsOf(name).join(", ")})`);
  throw new UserError(
    `nixvm: on ${system.name} packages are not installed for you (known: Debian 12 and 13, Ubuntu 24.04). ` +
      `Install what provides these, by Debian's package names, then run this again:\n  ${needs.join("\n  ")}`,
    2,
  );
}

/**
 * What to put before `apt-get`: nothing for root, sudo otherwise. Throws with exit code 2 where neither works.
 * Nothing has been changed by then.
 */
export function privilege(
  missing,
  { uid = process.getuid(), sudo = which("sudo"), terminal = process.stdin.isTTY } = {},
) {
  if (uid === 0) return [];
  if (sudo && capture(sudo, ["-n", "true"]) !== undefined) return [sudo, "-n"];
  // On a terminal sudo may ask for the password itself.
  if (sudo && terminal && capture(sudo, ["-v"], { stdio: "inherit", timeout: 0 }) !== undefined) return [sudo, "-n"];
  throw new UserError(
    `nixvm: these packages are missing, and this user can not install them. Run as root:\n${installLine(missing)}`,
    2,
  );
}

/** Whether apt has any package list: fresh container images come without. */
function hasLists(dir = "/var/lib/apt/lists") {
  return existsSync(dir) && readdirSync(dir).some((name) => name.includes("_Packages"));
}

/** Installs `missing`. Where a package cannot start its daemon (containers), what counts is that its files are there. */
export async function installPackages(missing, before, { log, line, detail }) {
  const [command, ...rest] = [
    ...before,
    "env",
    "DEBIAN_FRONTEND=noninteractive",
    "apt-get",
    // Another package run (an update in the background) ends sooner or later.
    "-o",
    "DPkg::Lock::Timeout=600",
  ];
  const apt = (...args) => logged({ log, detail }, command, [...rest, ...args]);
  const packages = Object.fromEntries(missing.map((name) => [name, proofsOf(name)]));
  const install = ["install", "-y", "--no-install-recommends", ...missing];
  let failure;
  const attempt = () =>
    apt(...install).then(
      () => (failure = undefined),
      (err) => (failure = err),
    );
  if (hasLists()) await attempt();
  else failure = new Error("no package lists yet");
  if (missingPackages({ packages }).length > 0) {
    // Old lists name versions that the mirror no longer has.
    await apt("update");
    await attempt();
  }
  const still = missingPackages({ packages });
  if (still.length === 0) {
    if (failure) line(`packages: apt-get reported a problem, but all that is needed is there (see ${log})`);
    return;
  }
  if (failure) throw failure;
  throw new UserError(
    `nixvm: after "${installLine(still)}" these are still missing: ` +
      still.map((name) => `${name} (${proofsOf(name).join(", ")})`).join("; "),
  );
}
