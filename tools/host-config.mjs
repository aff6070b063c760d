// The texts a private libvirtd is started with. Pure.
import { BOUND_DIRS } from "./host-paths.mjs";

const HEADER = "# Written by tools/libvirtd.mjs at every start: changes made here do not last.\n";

/**
 * qemu.conf. As root: QEMU runs as root, because libvirtd probes QEMU anew at every call (10 s and more) when QEMU's user sees
 * /dev/kvm differently from root; no ownership is changed, because root needs none and libvirt would not give it back.
 * `stdio_handler = "file"` saves a second daemon (virtlogd); no private /dev for guests, because containers often refuse mknod.
 */
export function qemuConf(mode) {
  const common = ['stdio_handler = "file"', 'security_driver = "none"', "namespaces = [ ]"];
  const root = [
    'user = "root"',
    'group = "root"',
    'swtpm_user = "root"',
    'swtpm_group = "root"',
    "dynamic_ownership = 0",
    "remember_owner = 0",
  ];
  return HEADER + [...common, ...(mode === "system" ? root : [])].join("\n") + "\n";
}

/**
 * libvirtd.conf. Only the user who started it can reach the socket (0700), so polkit has nothing to decide and is not needed.
 * 20 requests at a time for one client instead of 5: the provider opens one connection for a whole `pulumi up`.
 */
export function libvirtdConf() {
  const lines = [
    'auth_unix_ro = "none"',
    'auth_unix_rw = "none"',
    'unix_sock_ro_perms = "0700"',
    'unix_sock_rw_perms = "0700"',
    'unix_sock_admin_perms = "0700"',
    "listen_tls = 0",
    "listen_tcp = 0",
    "max_client_requests = 20",
    'log_outputs = "3:stderr"',
  ];
  return HEADER + lines.join("\n") + "\n";
}

/**
 * Run inside `unshare -m`: puts the checkout's folders over libvirt's compiled-in ones, then becomes libvirtd, so that the
 * process id stays the one that was started. Arguments: etc lib cache log run-dir command...
 * The cgroup mounts go away in this namespace only: in containers libvirt cannot use them (no internal processes, read-only),
 * and two checkouts with guests of the same name would share one group or clash in systemd-machined.
 */
export function namespaceScript() {
  const targets = [BOUND_DIRS.etc, BOUND_DIRS.lib, BOUND_DIRS.cache, BOUND_DIRS.log, "/run/libvirt"];
  const binds = targets.map((target) => `mkdir -p ${target}; mount --bind "$1" ${target}; shift`);
  return [
    "set -eu",
    ...binds,
    // Where /var/run is a folder of its own, libvirt's "/var/run/libvirt" would be outside of what was just covered.
    "if ! [ /var/run/libvirt -ef /run/libvirt ]; then mkdir -p /var/run/libvirt; mount --bind /run/libvirt /var/run/libvirt; fi",
    "awk '$3 ~ /^cgroup/ { print $2 }' /proc/self/mounts | sort -r | while read -r dir; do umount -l \"$dir\" 2>/dev/null || true; done",
    'exec "$@"',
  ].join("\n");
}

/** The directory in the checkout that hides behind each argument of {@link namespaceScript}. */
export function namespaceArguments(paths) {
  return [paths.etc, paths.lib, paths.cache, paths.log, `${paths.runDir}/libvirt`];
}

/**
 * Environment of the daemon: nothing of the caller's but what it needs. NIXVM_LIBVIRT_ROOT marks the process as this
 * checkout's, so that it is found again when its record is lost, and nothing else is ever taken for it.
 */
export function daemonEnv(paths, env = process.env) {
  const base = {
    PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    LC_ALL: "C.UTF-8",
    HOME: env.HOME ?? "/",
    NIXVM_LIBVIRT_ROOT: paths.root,
  };
  if (paths.mode === "system") return base;
  return {
    ...base,
    XDG_RUNTIME_DIR: paths.runDir,
    XDG_CONFIG_HOME: paths.configLink,
    XDG_CACHE_HOME: `${paths.runDir}/cache`,
    XDG_DATA_HOME: `${paths.runDir}/data`,
  };
}

/** Command line of the daemon, `libvirtd` being its full path. */
export function daemonCommand(paths, libvirtd) {
  if (paths.mode === "session") return [libvirtd, "--pid-file", paths.daemonPidFile];
  const inside = [libvirtd, "--config", "/etc/libvirt/libvirtd.conf", "--pid-file", "/run/libvirt/libvirtd.pid"];
  // "slave": file systems mounted later on the host are still seen by guests, nothing done here is seen by the host.
  return [
    "unshare",
    "--mount",
    "--propagation",
    "slave",
    "--",
    "sh",
    "-c",
    namespaceScript(),
    "nixvm-libvirtd",
    ...namespaceArguments(paths),
    ...inside,
  ];
}
