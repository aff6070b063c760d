/** Finds the one file system of a disk, from the disk's first bytes. Pure. */

/** Bytes that {@link findFileSystem} wants; a partition table is far shorter. */
export const HEAD_BYTES = 2 ** 20;
/** Bytes of a file system that {@link readExt4} wants. */
export const SUPERBLOCK_BYTES = 4096;

const SECTOR = 512;

/** A part of a disk. */
export interface Window {
  readonly offset: number;
  readonly bytes: number;
}

/** Where the file system is, or in words why that cannot be told. */
export function findFileSystem(head: Buffer, diskBytes: number): Window | string {
  if (head.length >= SECTOR * 2 && head.toString("latin1", SECTOR, SECTOR + 8) === "EFI PART") {
    return only(gptParts(head), diskBytes, "GPT");
  }
  if (typeof readExt4(head) !== "string") return { offset: 0, bytes: diskBytes };
  if (head.length >= SECTOR && head.readUInt16LE(510) === 0xaa55) {
    const parts = mbrParts(head);
    if (parts.length > 0) return only(parts, diskBytes, "MBR");
  }
  return "it has neither a partition table nor an ext4 file system";
}

function only(parts: readonly Window[] | undefined, diskBytes: number, table: string): Window | string {
  if (parts === undefined) return `its ${table} partition table is not readable`;
  const [part] = parts;
  if (part === undefined || parts.length > 1)
    return `its ${table} partition table has ${parts.length} partitions, not one`;
  const end = part.offset + part.bytes;
  if (part.offset < SECTOR || part.bytes <= 0 || !Number.isSafeInteger(end) || end > diskBytes) {
    return `the partition in its ${table} partition table does not lie on the disk`;
  }
  return part;
}

function gptParts(head: Buffer): Window[] | undefined {
  const at = Number(head.readBigUInt64LE(SECTOR + 72)) * SECTOR;
  const [count, size] = [head.readUInt32LE(SECTOR + 80), head.readUInt32LE(SECTOR + 84)];
  if (at < SECTOR * 2 || size < 128 || count === 0 || at + count * size > head.length) return undefined;
  const parts: Window[] = [];
  for (let entry = at; entry < at + count * size; entry += size) {
    // An entry without a type is not used.
    if (head.subarray(entry, entry + 16).every((byte) => byte === 0)) continue;
    const [first, last] = [head.readBigUInt64LE(entry + 32), head.readBigUInt64LE(entry + 40)];
    parts.push({ offset: Number(first) * SECTOR, bytes: Number(last - first + 1n) * SECTOR });
  }
  return parts;
}

function mbrParts(head: Buffer): Window[] {
  return [446, 462, 478, 494]
    .filter((entry) => head[entry + 4] !== 0)
    .map((entry) => ({ offset: head.readUInt32LE(entry + 8) * SECTOR, bytes: head.readUInt32LE(entry + 12) * SECTOR }));
}

/** What an ext4 file system says of itself. */
export interface Ext4 {
  readonly label: string;
  readonly blockBytes: number;
  readonly bytes: number;
  /** It was not unmounted: its journal has to be replayed. */
  readonly dirty: boolean;
}

/** Of the first bytes of a file system; in words what it is not. */
export function readExt4(head: Buffer): Ext4 | string {
  if (head.length < 2048 || head.readUInt16LE(1024 + 0x38) !== 0xef53) return "it has no ext4 file system";
  const block = head.subarray(1024, 2048);
  const [state, incompat] = [block.readUInt16LE(0x3a), block.readUInt32LE(0x60)];
  const log = block.readUInt32LE(0x18);
  // Guests look for ext4, and without extents blkid calls it something older.
  if ((incompat & 0x40) === 0) return "its file system is ext2 or ext3, not ext4";
  if (log > 6) return "the superblock of its file system is damaged";
  const blockBytes = 1024 * 2 ** log;
  const count = block.readUInt32LE(0x04) + ((incompat & 0x80) === 0 ? 0 : block.readUInt32LE(0x150) * 2 ** 32);
  const label = block.subarray(0x78, 0x88);
  const end = label.indexOf(0);
  return {
    label: label.toString("utf8", 0, end < 0 ? 16 : end),
    blockBytes,
    bytes: count * blockBytes,
    dirty: (incompat & 0x4) !== 0 || (state & 0x1) === 0,
  };
}
