import fc from "fast-check";
import { formatDuration, formatSize, parseDuration, parseMemory, parseSize, parseSubnet } from "../../components/plan";
import {
  formatIpv4,
  overlaps,
  parseIpv4,
  refuseAddress,
  suggestSubnet,
  usableRange,
} from "../../components/plan/network";
import { suggestSize } from "../../components/plan/size";

describe("sizes", () => {
  test.each([
    ["1KiB", 1024],
    ["512MiB", 512 * 1024 ** 2],
    ["2GiB", 2 * 1024 ** 3],
    ["1TiB", 1024 ** 4],
    ["20G", 20 * 1024 ** 3],
    ["512M", 512 * 1024 ** 2],
    ["1T", 1024 ** 4],
    ["8K", 8192],
  ])("%s is %d bytes (T-34)", (text, bytes) => expect(parseSize(text)).toBe(bytes));

  test.each([
    "2GB",
    "2gib",
    "2 GiB",
    " 2GiB",
    "0GiB",
    "-1GiB",
    "1.5GiB",
    "0.1KiB",
    "2048",
    "",
    "GiB",
    "02GiB",
    "9007199254740993KiB",
    2048,
    null,
  ])("%p is not a size", (text) => expect(parseSize(text)).toBeUndefined());

  test.each([
    [4096, 4 * 1024 ** 3],
    ["4096", 4 * 1024 ** 3],
    ["512MiB", 512 * 1024 ** 2],
  ])("memory %p is %d bytes (T-33)", (text, bytes) => expect(parseMemory(text)).toBe(bytes));

  test.each([0, -1, 1.5, NaN, Infinity, "0", "1.5", 2 ** 53])("memory %p is refused", (value) =>
    expect(parseMemory(value)).toBeUndefined(),
  );

  test.each([
    ["2GB", "2GiB"],
    ["2 GiB", "2GiB"],
    ["2gib", "2GiB"],
    ["1.5GiB", "1536MiB"],
    ["10", "10GiB"],
    [20, "20GiB"],
    ["0.0001KiB", undefined],
    ["-2GiB", undefined],
    ["lots", undefined],
    [null, undefined],
  ])("for %p it suggests %p", (text, better) => expect(suggestSize(text)).toBe(better));

  test("the text of a size reads back as the same size", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 43 - 1 }), (kib) => {
        expect(parseSize(formatSize(kib * 1024))).toBe(kib * 1024);
      }),
    );
    expect(formatSize(1000)).toBe("1000 bytes");
    expect(formatSize(0)).toBe("0 bytes");
  });

  test("whatever is suggested is a size", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.double(),
          fc.integer(),
          fc.stringMatching(/^[0-9]{1,4}(\.[0-9]{1,3})? ?[kmgtKMGT]?i?[bB]?$/),
        ),
        (text) => {
          const better = suggestSize(text);
          if (better !== undefined) expect(parseSize(better)).toBeGreaterThan(0);
        },
      ),
    );
  });
});

describe("durations", () => {
  test.each([
    ["90s", 90],
    ["5m", 300],
    ["1h30m", 5400],
    ["24h", 86_400],
  ])("%s is %d seconds", (text, seconds) => expect(parseDuration(text)).toBe(seconds));

  test.each(["", "5", "5min", "0s", "0h0m", "25h", "1m1h", "-5m", "1.5h", 300, null])("%p is not a duration", (text) =>
    expect(parseDuration(text)).toBeUndefined(),
  );

  test("the text of a duration reads back as the same duration", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 86_400 }), (s) => expect(parseDuration(formatDuration(s))).toBe(s)),
    );
    expect(formatDuration(0)).toBe("0s");
  });
});

describe("addresses", () => {
  const octets = fc.tuple(fc.nat(255), fc.nat(255), fc.nat(255), fc.nat(255)).map((parts) => parts.join("."));

  test("an address reads back as the same address", () => {
    fc.assert(fc.property(octets, (text) => expect(formatIpv4(parseIpv4(text) ?? -1)).toBe(text)));
  });

  test.each(["1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "1.2.3.4 ", "::1", "", 5, null])(
    "%p is no IPv4 address",
    (text) => expect(parseIpv4(text)).toBeUndefined(),
  );

  test.each(["192.168.77.1/24", "192.168.77.0", "192.168.77.0/31", "10.0.0.0/7", "x/24", "192.168.77.0/024", null])(
    "%p is no network",
    (text) => expect(parseSubnet(text)).toBeUndefined(),
  );

  test("bits after the prefix are refused with the network that was meant", () => {
    expect(suggestSubnet("192.168.77.1/24")).toBe("192.168.77.0/24");
    expect(suggestSubnet("nonsense")).toBeUndefined();
  });

  test("every address of a network is usable but the network, the broadcast and the gateway; no other is", () => {
    fc.assert(
      fc.property(octets, fc.integer({ min: 8, max: 30 }), fc.nat(), (text, prefix, offset) => {
        const subnet = parseSubnet(suggestSubnet(`${text}/${prefix}`));
        if (subnet === undefined) throw new Error("a suggested network has to be one");
        const size = 2 ** (32 - prefix);
        expect(subnet.broadcast - subnet.network + 1).toBe(size);
        for (const taken of [subnet.network, subnet.gateway, subnet.broadcast]) {
          expect(refuseAddress(taken, subnet)).toBeDefined();
        }
        const inside = subnet.network + 2 + (offset % Math.max(1, size - 3));
        expect(refuseAddress(inside, subnet)).toBeUndefined();
        expect(refuseAddress(subnet.broadcast + 1, subnet)).toContain("outside");
        expect(refuseAddress(subnet.network - 1, subnet)).toContain("outside");
        expect(usableRange(subnet)).toContain(" to ");
      }),
    );
  });

  test("two networks overlap exactly when one contains the other's first address", () => {
    const net = fc
      .tuple(octets, fc.integer({ min: 8, max: 30 }))
      .map(([text, prefix]) => parseSubnet(suggestSubnet(`${text}/${prefix}`)));
    fc.assert(
      fc.property(net, net, (a, b) => {
        if (a === undefined || b === undefined) throw new Error("a suggested network has to be one");
        const contains = (x: typeof a, y: typeof a) => x.network <= y.network && y.network <= x.broadcast;
        expect(overlaps(a, b)).toBe(contains(a, b) || contains(b, a));
      }),
    );
  });
});
