// Real guests on a libvirtd of the harness's own: the one that nixvm makes for a checkout, in a folder of the harness.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statfsSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { hostPaths } from "../../tools/host-paths.mjs";
import { run } from "../../tools/host-run.mjs";
import { ROOT } from "./project.mjs";
import { Wire } from "./wire.mjs";

const require = createRequire(import.meta.url);
/** Room for two fleets' images, overlays and data, in memory. */
const POOL = "2g";
const MARKER = "/var/lib/nixvm-faults-marker";

export class RealWorld {
  static async start(dir) {
    const world = new RealWorld();
    world.dir = dir;
    world.paths = hostPaths(dir);
    // A file system of its own, which can be filled. That takes root, which "host" does too: networks and libvirtd's system mode.
    mkdirSync(world.paths.images, { recursive: true });
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${POOL},mode=0711`, "nixvm-faults", world.paths.images]);
    await world.#libvirtd("start");
    world.direct = world.paths.uri;
    world.wire = new Wire(join(dir, "wire"), world.paths.socket);
    await world.wire.open();
    const mode = world.paths.mode;
    world.host = {
      uri: `qemu+unix:///${mode}?socket=${join(dir, "wire")}`,
      accelerator: "tcg",
      pool: { path: join(world.paths.images, "pool") },
      consoleDir: world.paths.console,
    };
    return world;
  }

  async virsh(...commands) {
    const { out } = await run("virsh", ["-q", "-c", this.direct, commands.join("; ")], { ms: 60_000 });
    return out;
  }

  /** Kills libvirtd and starts it again; its guests run on. */
  async breakOff() {
    const { pid } = JSON.parse(readFileSync(this.paths.record, "utf8"));
    process.kill(pid, "SIGKILL");
    await this.#libvirtd("start");
  }

  /** As when the host loses its power and starts again. */
  async reboot() {
    const { pid } = JSON.parse(readFileSync(this.paths.record, "utf8"));
    process.kill(pid, "SIGKILL");
    for (const file of this.#guests()) process.kill(Number(readFileSync(file, "utf8")), "SIGKILL");
    // /run is empty then. Without this mark libvirtd starts what is to be started with the host.
    rmSync(join(this.paths.runDir, "libvirt/qemu/autostarted"), { force: true });
    await this.#libvirtd("start");
  }

  /** Leaves no room in the pool. */
  fill() {
    const { bavail, bsize } = statfsSync(this.paths.images);
    const file = join(this.paths.images, "filler");
    execFileSync("fallocate", ["-l", String(Math.max(bavail * bsize, 4096)), file], { stdio: "ignore" });
  }

  drain() {
    rmSync(join(this.paths.images, "filler"), { force: true });
  }

  /** Files with the process ids of the guests that run. */
  #guests() {
    const dir = join(this.paths.runDir, "libvirt/qemu");
    return readdirSync(dir)
      .filter((name) => name.endsWith(".pid"))
      .map((name) => join(dir, name));
  }

  /** Kills the QEMU of some guest. */
  async killGuest(random) {
    const running = this.#guests();
    if (running.length > 0) process.kill(Number(readFileSync(random.pick(running), "utf8")), "SIGKILL");
  }

  /** What the seed of a VM says, secrets included; undefined when it is not there. */
  seed(domain) {
    const file = join(this.host.pool.path, `${domain}-seed.iso`);
    return existsSync(file) ? readFileSync(file, "latin1") : undefined;
  }

  /** What has to stay of each VM's data: the file that it is in, and what was written to it at first. */
  async data(vms) {
    const { LiveVm } = require(join(ROOT, "bin/cli/guests.js"));
    const found = {};
    for (const [name, summary] of Object.entries(vms)) {
      // Past the wire, which the next kill may cut.
      const vm = new LiveVm(name, { ...summary, uri: this.direct });
      const write = `test -e ${MARKER} || echo ${name} $(cat /proc/sys/kernel/random/uuid) > ${MARKER}; sync; cat ${MARKER}`;
      const file = join(this.host.pool.path, `${summary.domain}-persist`);
      // A guest that is off, or silent, is wrong as well, and no reason to end the harness.
      const marker = await vm.exec(write).catch((error) => `unknown: ${error.message}`);
      found[name] = `${marker.trim()} in file ${statSync(file, { throwIfNoEntry: false })?.ino}`;
    }
    return found;
  }

  async stop() {
    await this.wire.close();
    await this.#libvirtd("stop", "--force");
    rmSync(this.paths.runDir, { recursive: true, force: true });
    execFileSync("umount", ["--lazy", this.paths.images]);
  }

  async #libvirtd(...args) {
    const tool = join(ROOT, "tools/libvirtd.mjs");
    const { code, err } = await run(process.execPath, [tool, ...args, "--root", this.dir], { ms: 180_000 });
    if (code !== 0) throw new Error(`libvirtd.mjs ${args.join(" ")}: ${err.trim()}`);
  }
}
