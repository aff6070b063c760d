import { crc32 } from "node:zlib";
import { z } from "zod";

/**
 * The format of an archive, pure. It is a tar stream in independent zstd frames, so that `tar` and `zstd` read it and an unfinished one
 * can be gone on with. Behind them is a skippable frame with the CRC-32 of every byte before it: a tool that does not know it passes
 * over it, and we see any changed byte, also one that changes nothing of what is unpacked, which is why the SHA-256 of each member misses it.
 */

/** Version that this program writes; newer ones are refused. */
export const FORMAT = 1;

/** Members in their order. Those of the VM's disks have the names that the owner of the format gave them. */
export const MEMBER = {
  manifest: "manifest.json",
  data: "var.qcow2",
  overlay: "boot.qcow2",
  firmware: "OVMF_VARS.qcow2",
  checksums: "checksums.json",
} as const;

const bytes = z.int().min(0);

const manifest = z.object({
  format: z.int().positive(),
  /** Version of nixvm that wrote it. */
  nixvm: z.string(),
  stack: z.string(),
  vm: z.string(),
  uuid: z.string(),
  /** The moment that the data is of, ISO 8601 in UTC. */
  created: z.iso.datetime(),
  /** How it was kept still at that moment. */
  quiesced: z.enum(["agent", "paused", "off"]),
  image: z.object({ digest: z.string(), id: z.string().optional(), version: z.string().optional() }),
  persist: z.object({
    /** Size of the disk as the guest sees it. */
    virtualBytes: bytes,
    /** Not known of a VM that the stack file no longer has. */
    rootMode: z.string().optional(),
    mount: z.string().optional(),
    fs: z.string().optional(),
    label: z.string().optional(),
  }),
  /** What follows, in order, without the checksums. */
  members: z.array(z.object({ name: z.enum([MEMBER.data, MEMBER.overlay, MEMBER.firmware]), bytes })),
});

/** What an archive says of itself, before everything else. */
export type Manifest = z.infer<typeof manifest>;

const checksums = z.record(z.string(), z.object({ bytes, sha256: z.string().regex(/^[0-9a-f]{64}$/) }));

export type Checksums = z.infer<typeof checksums>;

/** An archive that must not be used; the message says why, and nothing else. */
export class BadArchive extends Error {
  constructor(message: string) {
    super(message);
    this.name = "BadArchive";
  }
}

/** @throws BadArchive */
export function parseManifest(text: string): Manifest {
  const json = parseJson(text, MEMBER.manifest);
  const format = z.looseObject({ format: z.int() }).safeParse(json);
  if (format.success && format.data.format > FORMAT) {
    throw new BadArchive(
      `is of format ${format.data.format}, and this nixvm knows none above ${FORMAT}: use the nixvm that made it, or a newer one`,
    );
  }
  const result = manifest.safeParse(json);
  if (result.success) return result.data;
  throw new BadArchive(`has a ${MEMBER.manifest} that cannot be read: ${z.prettifyError(result.error)}`);
}

/** @throws BadArchive */
export function parseChecksums(text: string): Checksums {
  const result = checksums.safeParse(parseJson(text, MEMBER.checksums));
  if (result.success) return result.data;
  throw new BadArchive(`has ${MEMBER.checksums} that cannot be read`);
}

function parseJson(text: string, name: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new BadArchive(`has a ${name} that is not JSON`);
  }
}

const NAME = /^(?<vm>[^/]+)-(?<day>\d{8})-(?<time>\d{6})\.tar\.zst$/;

/** `<vm>-YYYYMMDD-HHMMSS.tar.zst`, in UTC. */
export function archiveName(vm: string, at: Date): string {
  const [day, time] = at
    .toISOString()
    .replace(/[-:]|\..*$/g, "")
    .split("T");
  return `${vm}-${day}-${time}.tar.zst`;
}

/** The VM and the time of an archive's name; undefined for any other file. */
export function parseArchiveName(name: string): { vm: string; at: Date } | undefined {
  const { vm, day, time } = NAME.exec(name)?.groups ?? {};
  if (vm === undefined || day === undefined || time === undefined) return undefined;
  const at = new Date(`${day}T${time}Z`.replace(/^(....)(..)(..T)(..)(..)/, "$1-$2-$3$4:$5:"));
  return Number.isNaN(at.getTime()) ? undefined : { vm, at };
}

const BLOCK = 512;

/** Header of a member: plain ustar, with a size of any length as GNU tar writes it. */
export function tarHeader(name: string, size: number, at: Date): Buffer {
  const header = Buffer.alloc(BLOCK);
  const octal = (value: number, offset: number, length: number): void => {
    header.write(`${value.toString(8).padStart(length - 1, "0")}\0`, offset, "latin1");
  };
  header.write(name, 0, 100, "utf8");
  octal(0o600, 100, 8);
  octal(0, 108, 8);
  octal(0, 116, 8);
  if (size < 8 ** 11) octal(size, 124, 12);
  else {
    header.writeBigUInt64BE(BigInt(size), 128);
    header[124] = 0x80;
  }
  octal(Math.floor(at.getTime() / 1000), 136, 12);
  header.fill(" ", 148, 156);
  header.write("0", 156, "latin1");
  header.write("ustar\x0000", 257, "latin1");
  // The field is all blanks while it is computed.
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return header;
}

/** Zeros that fill a member up to a whole block. */
export const padding = (size: number): Buffer => Buffer.alloc((BLOCK - (size % BLOCK)) % BLOCK);

/** How a tar stream ends. */
export const TAR_END = Buffer.alloc(2 * BLOCK);

const SKIPPABLE = 0x184d2a5e;
const MARK = "nixvm-1\n";
/** Of the sum in a seal. */
export const SUM_BYTES = 4;

/** Bytes of {@link sealHead} and of the sum behind it. */
export const SEAL_BYTES = 8 + MARK.length + 8 + SUM_BYTES;

/**
 * The last frame but for its sum, which is of all bytes before it. `headBytes`: how long the first frame is, behind which the content
 * of the first disk begins.
 */
function sealHead(headBytes: number): Buffer {
  const head = Buffer.alloc(SEAL_BYTES - SUM_BYTES);
  head.writeUInt32LE(SKIPPABLE, 0);
  head.writeUInt32LE(SEAL_BYTES - 8, 4);
  head.write(MARK, 8, "latin1");
  head.writeBigUInt64LE(BigInt(headBytes), 8 + MARK.length);
  return head;
}

/** All of the last frame. `crc32`: of what is before it. */
export function seal(headBytes: number, crc: number): Buffer {
  const head = sealHead(headBytes);
  const sum = Buffer.alloc(SUM_BYTES);
  sum.writeUInt32LE(crc32(head, crc));
  return Buffer.concat([head, sum]);
}

/** What the last bytes of a file tell; undefined when it is not whole, or none of ours. */
export function readSeal(end: Buffer): { headBytes: number; crc32: number } | undefined {
  if (end.length !== SEAL_BYTES) return undefined;
  const headBytes = Number(end.readBigUInt64LE(8 + MARK.length));
  if (!end.subarray(0, -SUM_BYTES).equals(sealHead(headBytes))) return undefined;
  return { headBytes, crc32: end.readUInt32LE(SEAL_BYTES - SUM_BYTES) };
}
