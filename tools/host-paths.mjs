// Where the private libvirtd of one checkout keeps its things. Pure but for realpath and the ownership check of a run dir.
import { createHash } from "node:crypto";
import { lstatSync, mkdirSync, realpathSync } from "node:fs";
import { join } from "node:path";

/** Longest path a UNIX socket can have on Linux (sun_path holds 108 bytes with the closing NUL). */
export const SOCKET_PATH_MAX = 107;

/** Directories libvirtd has compiled in, and which sub-directory of `.nixvm/libvirt` stands for each as root. */
export const BOUND_DIRS = {
  etc: "/etc/libvirt",
  lib: "/var/lib/libvirt",
  cache: "/var/cache/libvirt",
  log: "/var/log/libvirt",
};

/** 8 hex digits that name a checkout: short, so that sockets fit whatever the checkout's own path is. */
export function projectHash(realRoot) {
  return createHash("sha256").update(realRoot).digest("hex").slice(0, 8);
}

/**
 * Base for run-time sockets: root has /run; a user has XDG_RUNTIME_DIR, or, without a login session, a private folder in
 * /tmp. The folder in /tmp is refused when somebody else made it, because whoever owns it could pose as the daemon.
 */
export function runBase({ uid, env = {} }) {
  if (uid === 0) return "/run";
  const xdg = env.XDG_RUNTIME_DIR;
  if (xdg && xdg.startsWith("/") && Buffer.byteLength(xdg) <= 40) {
    try {
      if (lstatSync(xdg).uid === uid) return xdg.replace(/\/+$/, "");
    } catch {
      // A dangling XDG_RUNTIME_DIR (su without a session) is the same as none.
    }
  }
  return `/tmp/nixvm-${uid}`;
}

/** Makes the base of {@link runBase} when it is the one in /tmp. */
export function makeRunBase(base, uid) {
  if (!base.startsWith("/tmp/")) return;
  mkdirSync(base, { recursive: true, mode: 0o700 });
  const stat = lstatSync(base);
  if (!stat.isDirectory() || stat.uid !== uid || (stat.mode & 0o077) !== 0) {
    throw new Error(
      `${base} must be a folder of uid ${uid} with mode 0700: remove it, or set XDG_RUNTIME_DIR to one that is`,
    );
  }
}

/** All paths of the embedded libvirtd of the checkout at `root` for the user `uid`. */
export function hostPaths(root, { uid = process.getuid(), env = process.env } = {}) {
  const realRoot = realpathSync(root);
  const hash = projectHash(realRoot);
  const home = join(realRoot, ".nixvm", "libvirt");
  const base = runBase({ uid, env });
  const runDir = `${base}/nixvm-${hash}`;
  const socket = `${runDir}/libvirt/libvirt-sock`;
  const mode = uid === 0 ? "system" : "session";
  if (Buffer.byteLength(socket) > SOCKET_PATH_MAX) {
    throw new Error(
      `socket path ${socket} has ${Buffer.byteLength(socket)} bytes, at most ${SOCKET_PATH_MAX} are possible`,
    );
  }
  return {
    root: realRoot,
    uid,
    mode,
    hash,
    home,
    etc: join(home, "etc"),
    lib: join(home, "lib"),
    cache: join(home, "cache"),
    log: join(home, "log"),
    console: join(home, "console"),
    images: join(home, "images"),
    record: join(home, "libvirtd.pid"),
    lock: join(home, "start.lock"),
    daemonLog: join(home, "log", "libvirtd.log"),
    runBase: base,
    runDir,
    // libvirt 9.0 puts a guest's agent socket 83 bytes below XDG_CONFIG_HOME: hence a link as short as can be.
    configLink: `${base}/n${hash.slice(0, 7)}`,
    socket,
    daemonPidFile: `${runDir}/libvirt/libvirtd.pid`,
    uri: `qemu:///${mode}?socket=${encodeURIComponent(socket).replaceAll("%2F", "/")}`,
  };
}

/** Which checkout's embedded libvirtd a URI means: its hash, or undefined for any other libvirt. */
export function embeddedHashOf(uri) {
  return /[?&]socket=[^&]*\/nixvm-([0-9a-f]{8})\/libvirt\/libvirt-sock(?:&|$)/.exec(uri ?? "")?.[1];
}
