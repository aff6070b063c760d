/**
 * Reader of what a qcow2 file says of itself (QEMU's docs/interop/qcow2.rst): libvirt names no snapshot that it has not taken through
 * the very domain that it is asked for, and the file is the truth. Pure; whoever calls fetches the bytes.
 */

/** Bytes that {@link readHeader} wants: the header of version 2. */
export const HEADER_BYTES = 72;
/** A snapshot's entry is at most this long: its fixed part, and two texts and extra data of the limits that QEMU sets. */
export const ENTRY_BYTES = 40 + 1024 + 2 * 65_536 + 8;

/** A run of bytes in the file. */
export interface Extent {
  readonly offset: number;
  readonly bytes: number;
}

/** What is known of an image by its first bytes. */
export interface Qcow2 {
  /** 2 (compat 0.10) or 3 (compat 1.1). Version 2 cannot be resized while it has snapshots. */
  readonly version: number;
  /** Size of the disk as a guest sees it. */
  readonly diskBytes: number;
  readonly clusterBytes: number;
  /** The table that leads to all content. */
  readonly content: Extent;
  readonly snapshots: { readonly count: number; readonly offset: number };
}

/** A snapshot inside the file. */
export interface Saved {
  readonly name: string;
  /** When it was taken, in seconds since 1970. */
  readonly takenAt: number;
  /** Size of the disk when it was taken; undefined in files of a QEMU before 1.1. */
  readonly diskBytes: number | undefined;
  /** The table that leads to all content of that time. */
  readonly content: Extent;
}

/** Undefined when these are not the first bytes of a qcow2 file. */
export function readHeader(head: Buffer): Qcow2 | undefined {
  if (head.length < HEADER_BYTES || head.toString("latin1", 0, 4) !== "QFI\xfb") return undefined;
  return {
    version: head.readUInt32BE(4),
    clusterBytes: 2 ** head.readUInt32BE(20),
    diskBytes: Number(head.readBigUInt64BE(24)),
    content: { bytes: head.readUInt32BE(36) * 8, offset: Number(head.readBigUInt64BE(40)) },
    snapshots: { count: head.readUInt32BE(60), offset: Number(head.readBigUInt64BE(64)) },
  };
}

/** The snapshots of a table, oldest first; undefined when it goes on behind these bytes. */
export function readSnapshots(table: Buffer, count: number): Saved[] | undefined {
  const found: Saved[] = [];
  let at = 0;
  for (let index = 0; index < count; index++) {
    if (table.length < at + 40) return undefined;
    const offset = Number(table.readBigUInt64BE(at));
    const bytes = table.readUInt32BE(at + 8) * 8;
    const [idBytes, nameBytes] = [table.readUInt16BE(at + 12), table.readUInt16BE(at + 14)];
    const extraBytes = table.readUInt32BE(at + 36);
    const texts = at + 40 + extraBytes;
    const end = texts + idBytes + nameBytes;
    if (table.length < end) return undefined;
    found.push({
      name: table.toString("utf8", texts + idBytes, end),
      takenAt: table.readUInt32BE(at + 16),
      diskBytes: extraBytes >= 16 ? Number(table.readBigUInt64BE(at + 48)) : undefined,
      content: { offset, bytes },
    });
    at = Math.ceil(end / 8) * 8;
  }
  return found;
}

/**
 * Whether two tables lead to the same content. After a snapshot all clusters are shared, so that any write, and any discard, gives the
 * disk another table; only the flag "this is mine alone" in the highest bit may differ.
 */
export function sameContent(one: Buffer, other: Buffer): boolean {
  const entries = Math.max(one.length, other.length) / 8;
  const entry = (table: Buffer, index: number): bigint =>
    index * 8 < table.length ? BigInt.asUintN(63, table.readBigUInt64BE(index * 8)) : 0n;
  for (let index = 0; index < entries; index++) if (entry(one, index) !== entry(other, index)) return false;
  return true;
}
