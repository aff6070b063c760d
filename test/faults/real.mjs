// Real guests on a libvirtd of the harness's own: the one that nixvm makes for a checkout, in a folder of the harness.
import { existsSync, readFileSync, rmSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { hostPaths } from "../../tools/host-paths.mjs";
import { run } from "../../tools/host-run.mjs";
import { ROOT } from "./project.mjs";
import { Wire } from "./wire.mjs";

const require = createRequire(import.meta.url);
const MARKER = "/var/lib/nixvm-faults-marker";

export class RealWorld {
  static async start(dir) {
    const world = new RealWorld();
    world.dir = dir;
    world.paths = hostPaths(dir);
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

  /** Kills the QEMU of some guest. */
  async killGuest(random) {
    const running = (await this.virsh("list --name")).split(/\s+/).filter(Boolean);
    if (running.length === 0) return;
    const file = join(this.paths.runDir, "libvirt/qemu", `${random.pick(running)}.pid`);
    if (existsSync(file)) process.kill(Number(readFileSync(file, "utf8")), "SIGKILL");
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
  }

  async #libvirtd(...args) {
    const tool = join(ROOT, "tools/libvirtd.mjs");
    const { code, err } = await run(process.execPath, [tool, ...args, "--root", this.dir], { ms: 180_000 });
    if (code !== 0) throw new Error(`libvirtd.mjs ${args.join(" ")}: ${err.trim()}`);
  }
}
