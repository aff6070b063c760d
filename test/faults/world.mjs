// A libvirtd of the harness's own with nothing but libvirt's test driver: hosts, pools and domains in its memory.
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, openSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { findProgram, run } from "../../tools/host-run.mjs";
import { corrected, Wire } from "./wire.mjs";

/** How long a libvirt that was hit is away. */
const AWAY_MS = 300;

const CONF = `auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_ro_perms = "0700"
unix_sock_rw_perms = "0700"
unix_sock_admin_perms = "0700"
listen_tls = 0
listen_tcp = 0
max_client_requests = 20
log_outputs = "3:stderr"
`;

export class PlayedWorld {
  /** Starts it; `dir` is short, for the sockets in it. */
  static async start(dir) {
    const world = new PlayedWorld();
    world.dir = dir;
    // Without driver modules libvirtd touches nothing of the machine; the test driver is part of the library.
    mkdirSync(join(dir, "drivers"), { recursive: true });
    const conf = join(dir, "libvirtd.conf");
    writeFileSync(conf, `${CONF}unix_sock_dir = "${dir}"\n`);
    const log = openSync(join(dir, "libvirtd.log"), "w");
    // It ends with the harness, however that ends.
    const command = [findProgram("libvirtd"), "--config", conf, "--pid-file", join(dir, "pid")];
    world.daemon = spawn("setpriv", ["--pdeathsig", "TERM", "--", ...command], {
      stdio: ["ignore", log, log],
      env: { ...process.env, LIBVIRT_DRIVER_DIR: join(dir, "drivers") },
    });
    const socket = join(dir, "libvirt-sock");
    const limit = Date.now() + 20_000;
    while (!existsSync(socket)) {
      if (Date.now() > limit || world.daemon.exitCode !== null) throw new Error(`libvirtd does not start: see ${dir}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    world.direct = `test+unix:///default?socket=${socket}`;
    // The driver forgets everything with its last connection.
    world.holder = spawn("virsh", ["-q", "-c", world.direct], { stdio: ["pipe", "pipe", "ignore"] });
    const connected = new Promise((resolve) => world.holder.stdout.once("data", resolve));
    world.holder.stdin.write("uri\n");
    await connected;
    world.wire = new Wire(join(dir, "wire"), socket, corrected);
    await world.wire.open();
    world.host = { uri: `test+unix:///default?socket=${join(dir, "wire")}`, pool: { path: dir } };
    await world.virsh("undefine test", "destroy test");
    return world;
  }

  /** Runs virsh commands past the wire, one after the other, and gives what they print. */
  async virsh(...commands) {
    const { out } = await run("virsh", ["-q", "-c", this.direct, commands.join("; ")], { ms: 20_000 });
    return out;
  }

  /** As when libvirtd dies and is started again: what was defined is still there. */
  breakOff() {
    return this.wire.cut(AWAY_MS);
  }

  /** As when the host loses its power and starts again, with the guests that start with it. */
  async reboot() {
    const running = (await this.virsh("list --uuid")).split(/\s+/).filter(Boolean);
    for (const uuid of running) await this.virsh(`destroy ${uuid}`);
    const willing = (await this.virsh("list --all --autostart --uuid")).split(/\s+/).filter(Boolean);
    for (const uuid of willing) await this.virsh(`start ${uuid}`);
    await this.wire.cut(AWAY_MS);
  }

  /** Ends some guest as its QEMU would when it is killed. */
  async killGuest(random) {
    const running = (await this.virsh("list --uuid")).split(/\s+/).filter(Boolean);
    if (running.length > 0) await this.virsh(`destroy ${random.pick(running)}`);
  }

  async stop() {
    await this.wire.close();
    this.holder.kill();
    const gone = new Promise((resolve) => this.daemon.once("exit", resolve));
    this.daemon.kill();
    await gone;
  }
}
