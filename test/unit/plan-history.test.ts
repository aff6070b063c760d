import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import { findKnown, type KnownImage, missingOnHosts, nextHistory, readHistory } from "../../components/plan";
import { resolveImages } from "../../components/images";
import { config, planned } from "../helpers/fleets";

const known = (digit: string, hosts = ["local"]): KnownImage => ({ digest: digit.repeat(64), format: "qcow2", hosts });
const digests = (history: readonly KnownImage[]): string[] => history.map(({ digest }) => digest.slice(0, 1));

describe("the images that stay", () => {
  it("are those of this run and the newest former ones, however often it runs", () => {
    const first = nextHistory([], [known("a")], 2);
    const second = nextHistory(first, [known("b")], 2);
    const fourth = nextHistory(nextHistory(second, [known("c")], 2), [known("d")], 2);
    expect([first, second, fourth].map(digests)).toEqual([["a"], ["b", "a"], ["d", "c", "b"]]);
    expect(nextHistory(fourth, [known("d")], 2)).toEqual(fourth);
    expect(digests(nextHistory(fourth, [known("b")], 2))).toEqual(["b", "d", "c"]);
    expect(digests(nextHistory(fourth, [known("d")], 0))).toEqual(["d"]);
  });

  it("are at most as many as asked for, each once, and none is made up", () => {
    const image = fc.constantFrom("a", "b", "c", "d", "e").map((digit) => known(digit));
    const history = fc.uniqueArray(image, { selector: ({ digest }) => digest });
    fc.assert(
      fc.property(history, history, fc.nat(6), (former, current, keep) => {
        const next = digests(nextHistory(former, current, keep));
        expect(new Set(next).size).toBe(next.length);
        expect(next.slice(0, current.length)).toEqual(digests(current));
        expect(next.length - current.length).toBeLessThanOrEqual(keep);
        const rest = digests(former).filter((digit) => !digits(current).has(digit));
        expect(next.slice(current.length)).toEqual(rest.slice(0, keep));
      }),
    );
    function digits(images: readonly KnownImage[]): Set<string> {
      return new Set(digests(images));
    }
  });

  it("stay on a host that no longer uses them while they are kept", () => {
    const former = [known("a", ["rack", "attic"])];
    expect(nextHistory(former, [known("a", ["attic"])], 1)[0]?.hosts).toEqual(["attic", "rack"]);
    expect(nextHistory(former, [known("a", ["attic"])], 0)[0]?.hosts).toEqual(["attic"]);
  });

  it("are read from an output, whatever stands there", () => {
    const good = known("a");
    const bad = [null, 7, "x", {}, { ...good, digest: "a" }, { ...good, format: "iso" }, { ...good, hosts: "local" }];
    expect(readHistory([...bad, good])).toEqual([good]);
    for (const none of [undefined, null, "text", {}]) expect(readHistory(none)).toEqual([]);
  });
});

describe("an image that is named by its digest", () => {
  const history = [{ ...known("a"), id: "os-1", version: "v1", rootModes: ["readonly"] }, known("b", ["rack"])];
  const dir = mkdtempSync(join(tmpdir(), "nixvm history "));
  afterAll(() => rmSync(dir, { recursive: true }));
  const resolve = (digest: string) =>
    resolveImages({ os: { digest } }, { projectDir: dir, cacheDir: join(dir, "cache"), history });

  it("is taken with all that was known of it, without a file", async () => {
    const { images, problems } = await resolve("a".repeat(12));
    expect(problems).toEqual([]);
    expect(images.os).toEqual({
      ...{ digest: "a".repeat(64), format: "qcow2", id: "os-1", version: "v1", rootModes: ["readonly"] },
      ...{ file: "", bytes: 0 },
    });
    expect(findKnown(history, "b".repeat(64))).toBe(history[1]);
  });

  it("is refused when it is gone, with what there is", async () => {
    expect((await resolve("c".repeat(12))).problems).toEqual([
      {
        path: "images.os.digest",
        value: "cccccccccccc",
        message: "is not an image that this stack has kept",
        allowed: "one of aaaaaaaaaaaa (v1), bbbbbbbbbbbb, or path or url of the image",
      },
    ]);
  });

  it("is refused on a host that does not have it", () => {
    const plan = planned(config(["web"], { images: { os: { digest: "b".repeat(12) } } }));
    expect(missingOnHosts(plan, { os: "b".repeat(12) }, history)).toEqual([
      expect.objectContaining({ path: "images.os.digest", message: expect.stringContaining("host local") }),
    ]);
    expect(missingOnHosts(plan, { os: "a".repeat(12) }, history)).toEqual([]);
    expect(missingOnHosts(plan, {}, history)).toEqual([]);
  });
});
