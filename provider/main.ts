import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as grpc from "@grpc/grpc-js";
import { systemClock } from "./clock";
import { VirshDisks } from "./disks";
import { Display, EngineDisplay, noDisplay } from "./engine";
import { VirshNetworks } from "./networks";
import { GuestType, ResourceType, World } from "./resources";
import { run } from "./run";
import { SeedVolumeType } from "./seedType";
import { addProvider } from "./server";
import { Virsh } from "./virsh";
import { VirshVolumes } from "./volumes";

/** Entry of the executable `pulumi-resource-nixvm`. The engine reads the port from the first line of stdout. */
function main(args: readonly string[]): void {
  const abort = new AbortController();
  let display: Display = noDisplay;
  const attach = (address: string) => (display = new EngineDisplay(address));
  // The engine's address is the last argument; flags of its own may come before it.
  const address = args.filter((arg) => !arg.startsWith("-")).at(-1);
  if (address !== undefined) attach(address);

  const world: World = {
    libvirt: (uri) => new Virsh(uri, run),
    disks: (uri) => new VirshDisks(uri, run),
    networks: (uri) => new VirshNetworks(uri, run),
    clock: systemClock,
    signal: abort.signal,
    display: () => display,
  };
  const types = new Map<string, ResourceType>([
    ["nixvm:index:Guest", new GuestType(world)],
    ["nixvm:index:SeedVolume", new SeedVolumeType({ volumes: (uri) => new VirshVolumes(uri, run), run })],
  ]);
  const server = new grpc.Server({ "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 });
  addProvider(server, {
    version: packageVersion(),
    types,
    attach,
    cancel: () => abort.abort(),
    flush: () => display.flush(),
  });
  server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
    if (error) throw error;
    process.stdout.write(`${port}\n`);
  });
  exitWithParent();
}

/** An engine that was killed ends no plugins; without it nobody waits for this process, so it goes too. */
function exitWithParent(): void {
  const parent = process.ppid;
  setInterval(() => {
    if (process.ppid !== parent) process.exit(1);
  }, 250).unref();
}

/** bin/provider/main.js lies two levels below the package. */
function packageVersion(): string {
  const text = readFileSync(join(__dirname, "..", "..", "package.json"), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}

main(process.argv.slice(2));
