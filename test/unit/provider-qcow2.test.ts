import * as fc from "fast-check";
import { ENTRY_BYTES, readHeader, readSnapshots, sameContent, Saved } from "../../provider/qcow2";

/** A snapshot's entry as QEMU writes it; older ones wrote less of the extra data. */
function entry({ name, takenAt, diskBytes, content }: Saved, id: string): Buffer {
  const extra = diskBytes === undefined ? 0 : 24;
  const texts = Buffer.from(id + name);
  const bytes = Buffer.alloc(Math.ceil((40 + extra + texts.length) / 8) * 8);
  bytes.writeBigUInt64BE(BigInt(content.offset), 0);
  bytes.writeUInt32BE(content.bytes / 8, 8);
  bytes.writeUInt16BE(id.length, 12);
  bytes.writeUInt16BE(texts.length - id.length, 14);
  bytes.writeUInt32BE(takenAt, 16);
  bytes.writeUInt32BE(extra, 36);
  if (diskBytes !== undefined) bytes.writeBigUInt64BE(BigInt(diskBytes), 48);
  texts.copy(bytes, 40 + extra);
  return bytes;
}

const saved: fc.Arbitrary<Saved> = fc.record({
  name: fc.string({ unit: "grapheme", maxLength: 60 }),
  takenAt: fc.nat(2 ** 32 - 1),
  diskBytes: fc.option(fc.nat(2 ** 31), { nil: undefined }),
  content: fc.record({ offset: fc.maxSafeNat(), bytes: fc.nat(2 ** 20).map((entries) => entries * 8) }),
});

describe("the list of snapshots in a qcow2 file", () => {
  it("is read as it was written, whatever the names are", () => {
    fc.assert(
      fc.property(fc.array(saved, { maxLength: 6 }), fc.nat(999), fc.nat(200), (all, id, more) => {
        const table = Buffer.concat([
          ...all.map((one, index) => entry(one, String(id + index))),
          Buffer.alloc(more, 7),
        ]);
        expect(readSnapshots(table, all.length)).toEqual(all);
        expect(table.length - more).toBeLessThanOrEqual(all.length * ENTRY_BYTES);
      }),
    );
  });

  it("that breaks off is no list, and no error", () => {
    fc.assert(
      fc.property(fc.array(saved, { minLength: 1, maxLength: 4 }), fc.nat(), (all, cut) => {
        const table = Buffer.concat(all.map((one) => entry(one, "1")));
        // The last eight bytes may be padding.
        const short = table.subarray(0, cut % (table.length - 7));
        expect(readSnapshots(short, all.length)).toBeUndefined();
      }),
    );
  });

  it("and the header: any bytes give a header or none, never an exception", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => void readHeader(Buffer.from(bytes))));
    expect(readHeader(Buffer.alloc(512))).toBeUndefined();
  });
});

describe("the same content", () => {
  const table = (...entries: bigint[]): Buffer => {
    const bytes = Buffer.alloc(entries.length * 8);
    entries.forEach((value, index) => bytes.writeBigUInt64BE(value, index * 8));
    return bytes;
  };
  const entries = fc.array(fc.bigInt({ min: 0n, max: 2n ** 63n - 1n }), { minLength: 1, maxLength: 20 });

  it("is seen whatever is alone in its clusters, and however long the rest of the table is", () => {
    fc.assert(
      fc.property(entries, fc.nat(5), (all, more) => {
        const alone = all.map((value) => value | (1n << 63n));
        expect(sameContent(table(...all), table(...alone, ...Array<bigint>(more).fill(0n)))).toBe(true);
      }),
    );
  });

  it("is not seen when any part is elsewhere", () => {
    fc.assert(
      fc.property(entries, fc.nat(), fc.bigInt({ min: 1n, max: 2n ** 63n - 1n }), (all, at, change) => {
        const other = all.map((value, index) => (index === at % all.length ? value ^ change : value));
        expect(sameContent(table(...all), table(...other))).toBe(false);
        expect(sameContent(table(...all), table(...all, change))).toBe(false);
      }),
    );
  });
});
