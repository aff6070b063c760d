// usage: node tar2ext4.mjs ROOTFS.tar OVERLAY_DIR WORK_DIR OUT.ext4 EPOCH
//
// Writes a tar archive (and a folder laid over it) as an ext4 image, without root, loop devices or mounting, so that the same
// content gives the same bytes: `mke2fs -d` takes inode times and the order of names from the machine's own file system;
// this feeds debugfs a sorted list instead.
import { execFileSync, spawnSync } from "node:child_process";
import {
  closeSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";

const [tarFile, overlay, work, out, epochText] = process.argv.slice(2);
const epoch = Number(epochText);
const skipped = /^\/(nixvm-build|dev\/.+|proc\/.+|sys\/.+|run\/.+)(\/|$)/;
// Fixed, so that they are not a source of difference; never used to find anything.
const uuid = "6e697876-6d00-4000-8000-000000000002";
const hashSeed = "6e697876-6d00-4000-8000-000000000003";

/** Numbers of a tar header: octal text, or base 256 when the high bit is set. */
function number(field) {
  if (field[0] & 0x80)
    return Number(BigInt("0x" + field.toString("hex")) & ((1n << BigInt(8 * field.length - 1)) - 1n));
  return parseInt(field.toString("latin1").replace(/\0.*$/s, "").trim() || "0", 8);
}
const text = (field) => field.toString("utf8").replace(/\0.*$/s, "");

/** Records of a pax extended header: "LENGTH key=value\n". */
function paxRecords(data) {
  const records = {};
  for (let at = 0; at < data.length;) {
    const space = data.indexOf(0x20, at);
    const length = Number(data.toString("latin1", at, space));
    const [key, ...value] = data.toString("utf8", space + 1, at + length - 1).split("=");
    records[key] = value.join("=");
    at += length;
  }
  return records;
}

function* tarEntries(file) {
  const fd = openSync(file, "r");
  const read = (length) => {
    const buffer = Buffer.alloc(length);
    for (let done = 0; done < length;) {
      const n = readSync(fd, buffer, done, length - done, null);
      if (n === 0) throw new Error(`${file} ends in the middle of an entry`);
      done += n;
    }
    return buffer;
  };
  try {
    let pax = {};
    let longName, longLink;
    for (;;) {
      const header = read(512);
      if (header.every((byte) => byte === 0)) return;
      const type = String.fromCharCode(header[156] || 0x30);
      const size = pax.size !== undefined ? Number(pax.size) : number(header.subarray(124, 136));
      const body = read(Math.ceil(size / 512) * 512).subarray(0, size);
      if (type === "x") pax = paxRecords(body);
      else if (type === "g") continue;
      else if (type === "L") longName = text(body);
      else if (type === "K") longLink = text(body);
      else {
        const attribute = Object.keys(pax).find((key) => key.startsWith("SCHILY.xattr."));
        const prefix = text(header.subarray(345, 500));
        const name = pax.path ?? longName ?? (prefix ? `${prefix}/` : "") + text(header.subarray(0, 100));
        if (attribute)
          throw new Error(`${name} has the extended attribute ${attribute}, which this writer cannot carry over`);
        yield {
          path: path.posix.join("/", name).replace(/(.)\/$/, "$1"),
          type,
          mode: number(header.subarray(100, 108)) & 0o7777,
          uid: Number(pax.uid ?? number(header.subarray(108, 116))),
          gid: Number(pax.gid ?? number(header.subarray(116, 124))),
          link: pax.linkpath ?? longLink ?? text(header.subarray(157, 257)),
          body,
        };
        pax = {};
        longName = longLink = undefined;
      }
    }
  } finally {
    closeSync(fd);
  }
}

const types = { 0: "file", 1: "hardlink", 2: "symlink", 5: "dir" };
const nodes = new Map();
mkdirSync(path.join(work, "bodies"), { recursive: true });
let bodies = 0;
let bytes = 0;
function add(node) {
  if (/["\n]/.test(node.path + node.link)) throw new Error(`${node.path}: the name cannot be written by debugfs`);
  if (node.type === "file") {
    const file = `bodies/${bodies++}`;
    writeFileSync(path.join(work, file), node.body);
    bytes += Math.ceil(node.body.length / 4096) * 4096;
    node.source = file;
    node.size = node.body.length;
  } else bytes += 4096;
  delete node.body;
  nodes.set(node.path, node);
}

for (const entry of tarEntries(tarFile)) {
  const type = types[entry.type];
  if (entry.path === "/" || skipped.test(entry.path)) continue;
  if (!type) {
    // Device nodes come from devtmpfs; there is nothing else of that kind in a distribution's tree.
    if (/[346]/.test(entry.type)) continue;
    throw new Error(`${entry.path}: tar entry of unknown type '${entry.type}'`);
  }
  add({ ...entry, type });
}
(function walk(dir, at) {
  for (const name of readdirSync(dir).sort()) {
    const file = path.join(dir, name);
    const stat = lstatSync(file);
    const node = { path: `${at}/${name}`, uid: 0, gid: 0, mode: stat.mode & 0o777, link: "" };
    if (stat.isDirectory()) {
      if (!nodes.has(node.path)) add({ ...node, type: "dir" });
      walk(file, node.path);
    } else if (stat.isSymbolicLink()) add({ ...node, type: "symlink", link: readlinkSync(file) });
    else add({ ...node, type: "file", body: readFileSync(file) });
  }
})(overlay, "");

// Byte order puts a folder before what is in it.
const sorted = [...nodes.values()].sort((a, b) => Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)));
const linkCount = new Map();
for (const node of sorted) {
  if (node.type !== "hardlink") continue;
  node.target = path.posix.join("/", node.link);
  linkCount.set(node.target, (linkCount.get(node.target) ?? 1) + 1);
}
const commands = [`set_current_time @${epoch}`];
const bits = { file: 0o100000, dir: 0o040000, symlink: 0o120000 };
const set = (at, fields) => {
  for (const [field, value] of Object.entries(fields)) commands.push(`sif ${at} ${field} ${value}`);
};
const times = Object.fromEntries(["atime", "ctime", "mtime", "crtime"].map((field) => [field, `@${epoch}`]));
for (const node of sorted.filter((n) => n.type !== "hardlink")) {
  const at = `"${node.path}"`;
  if (node.type === "dir") commands.push(`mkdir ${at}`);
  else if (node.type === "symlink") commands.push(`symlink ${at} "${node.link}"`);
  else commands.push(`write ${node.source} ${at}`);
  const mode = "0" + (bits[node.type] | (node.type === "symlink" ? 0o777 : node.mode)).toString(8);
  set(at, { mode, ...(node.uid ? { uid: node.uid } : {}), ...(node.gid ? { gid: node.gid } : {}), ...times });
}
for (const node of sorted.filter((n) => n.type === "hardlink")) commands.push(`ln "${node.target}" "${node.path}"`);
for (const [target, count] of linkCount) commands.push(`sif "${target}" links_count ${count}`);
// Reserved inodes: root, resize inode, journal and lost+found were made by mke2fs, with the clock of now.
for (const inode of ["<2>", "<7>", "<8>"]) set(inode, times);
set('"/lost+found"', times);
set("<2>", { mode: "040755" });
for (const field of ["mkfs_time", "lastcheck", "wtime"]) commands.push(`ssv ${field} @${epoch}`);
writeFileSync(path.join(work, "commands"), commands.join("\n") + "\n");

// Room for a root that is written to (mode "persistent"): it costs nothing in the image, and nothing in an overlay until it is used.
const blocks = Math.ceil((bytes + nodes.size * 300) / 4096) + 4096 + 65536;
const inodes = nodes.size + 16384;
writeFileSync(out, "");
const features = "^metadata_csum,^resize_inode,^dir_index,^orphan_file";
const mkfs = (list) =>
  execFileSync(
    "mkfs.ext4",
    [
      "-q",
      "-F",
      "-b",
      "4096",
      "-m",
      "0",
      "-L",
      "nixvm-root",
      "-U",
      uuid,
      "-E",
      `hash_seed=${hashSeed},lazy_itable_init=0,root_owner=0:0`,
      "-O",
      list,
      // Only for a root that is written to; the smallest that such a file system takes.
      "-J",
      "size=4",
      "-N",
      String(inodes),
      out,
      String(blocks),
    ],
    {
      stdio: ["ignore", "inherit", "pipe"],
      env: { ...process.env, SOURCE_DATE_EPOCH: String(epoch), E2FSPROGS_FAKE_TIME: String(epoch) },
    },
  );
try {
  mkfs(features);
} catch {
  // orphan_file is unknown to e2fsprogs before 1.47
  mkfs(features.replace(",^orphan_file", ""));
}
const run = spawnSync("debugfs", ["-w", "-f", "commands", path.resolve(out)], {
  cwd: work,
  encoding: "utf8",
  maxBuffer: 1 << 28,
});
// debugfs always ends with 0 and says what went wrong only in words
const errors = run.stderr.split("\n").filter((line) => line && !/^debugfs \d/.test(line));
if (run.status !== 0 || errors.length > 0)
  throw new Error(`debugfs: ${errors.slice(0, 5).join(" | ") || `ended with ${run.status}`}`);
const check = spawnSync("e2fsck", ["-f", "-n", out], { encoding: "utf8" });
if (check.status !== 0) throw new Error(`the file system made is not clean:\n${check.stdout}`);
