// How fast a volume becomes an archive and comes back, side by side with the plain tools on the same volume.
//
//   node bench/backup.mjs [MiB of data, default 1024] [rounds, default 5] [folder, default the system's temporary one]
//
// The plain way is what a script would do: `qemu-img convert` to a file of its own, `zstd` with the same level and threads, and both
// the other way round. Ours does more: checksums of all, and the way back reads all of the archive before it gives anything out.
// Rounds alternate, as a machine is never the same twice; the ratio is that of the medians (plain / ours, 1 is as fast, more is faster).
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { createWriteStream, mkdtempSync, rmSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { once } from "node:events";
import { median, root } from "./stack.mjs";

const require = createRequire(import.meta.url);
const { writeArchive } = require(join(root, "bin/cli/archiveWrite.js"));
const { readArchive } = require(join(root, "bin/cli/archiveRead.js"));
const { LEVEL } = require(join(root, "bin/cli/frames.js"));

const mebibytes = Number(process.argv[2] ?? 1024);
const rounds = Number(process.argv[3] ?? 5);
const dir = mkdtempSync(join(process.argv[4] ?? tmpdir(), "nixvm bench "));
const at = (name) => join(dir, name);
const run = (command, ...args) => void execFileSync(command, args, { stdio: ["ignore", "ignore", "inherit"] });

/** Half of it cannot be compressed, half is as text is. */
async function volume() {
  const raw = createWriteStream(at("raw"));
  const words = Array.from({ length: 4000 }, () => randomBytes(4).toString("hex"));
  for (let i = 0; i < mebibytes; i++) {
    const word = () => words[Math.floor(Math.random() * words.length)];
    const text = () => Buffer.from(Array.from({ length: 2 ** 17 }, word).join(" ")).subarray(0, 2 ** 20);
    if (!raw.write(i % 2 ? randomBytes(2 ** 20) : text())) await once(raw, "drain");
  }
  raw.end();
  await once(raw, "close");
  run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", "compat=1.1", at("raw"), at("volume.qcow2"));
  rmSync(at("raw"));
}

async function seconds(work) {
  const began = performance.now();
  await work();
  run("sync", "-f", dir);
  return (performance.now() - began) / 1000;
}

const clear = (...names) => names.forEach((name) => rmSync(at(name), { force: true }));

const plain = {
  backup() {
    run("qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", at("volume.qcow2"), at("plain.qcow2"));
    run("zstd", "-q", "-f", `-${LEVEL}`, "-T0", "--rm", at("plain.qcow2"), "-o", at("plain.zst"));
  },
  restore() {
    run("zstd", "-q", "-f", "-d", at("plain.zst"), "-o", at("plain.qcow2"));
    run("qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", at("plain.qcow2"), at("back.qcow2"));
  },
};

const ours = {
  async backup() {
    const path = at("volume.qcow2");
    const bytes = statSync(path).size;
    const members = [{ name: "var.qcow2", bytes }];
    const manifest = {
      ...{ format: 1, nixvm: "bench", stack: "bench", vm: "bench", uuid: "bench", created: new Date().toISOString() },
      ...{ quiesced: "off", image: { digest: "bench" }, persist: { virtualBytes: mebibytes * 2 ** 20 }, members },
    };
    const record = () => Promise.resolve();
    await writeArchive({ file: at("ours.tar.zst"), manifest, sources: [{ name: "var.qcow2", path, bytes }], record });
  },
  restore: () =>
    readArchive({ file: at("ours.tar.zst"), begin: () => Promise.resolve({ "var.qcow2": at("back.qcow2") }) }),
};

try {
  await volume();
  const took = { backup: { plain: [], ours: [] }, restore: { plain: [], ours: [] } };
  for (let round = 0; round < rounds; round++) {
    // Who begins gets the colder cache: they take turns.
    const order = round % 2 ? [ours, plain] : [plain, ours];
    for (const step of ["backup", "restore"]) {
      for (const way of order) {
        clear("back.qcow2", "plain.qcow2");
        took[step][way === ours ? "ours" : "plain"].push(await seconds(() => way[step]()));
      }
    }
  }
  run("qemu-img", "compare", "-q", at("volume.qcow2"), at("back.qcow2"));
  const of = (step) => ({
    seconds: { plain: median(took[step].plain), ours: median(took[step].ours) },
    mebibytesPerSecond: { plain: mebibytes / median(took[step].plain), ours: mebibytes / median(took[step].ours) },
    ratio: median(took[step].plain) / median(took[step].ours),
  });
  const sizes = { plain: statSync(at("plain.zst")).size, ours: statSync(at("ours.tar.zst")).size };
  console.log(JSON.stringify({ mebibytes, rounds, level: LEVEL, sizes, backup: of("backup"), restore: of("restore") }));
} finally {
  rmSync(dir, { recursive: true, force: true });
}
