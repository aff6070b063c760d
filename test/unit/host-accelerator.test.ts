import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const TOOLS = pathToFileURL(join(__dirname, "..", "..", "tools")).href;

function evaluate<T>(module: string, expression: string): T {
  const code = `import * as m from "${TOOLS}/${module}"; console.log(JSON.stringify(await (${expression})));`;
  return JSON.parse(execFileSync(process.execPath, ["--input-type=module", "-e", code], { encoding: "utf8" })) as T;
}

describe("KVM probe", () => {
  test("the image has code at its reset vector and nothing outside of the two places", () => {
    const rom = Buffer.from(evaluate<string>("host-probe-rom.mjs", `m.probeRom().toString("base64")`), "base64");
    expect(rom).toHaveLength(0x10000);
    expect(rom.subarray(0xfff0, 0xfff3).toString("hex")).toBe("e90df0");
    expect(rom[0xf000]).toBe(0xfa);
    // The instruction at which an emulating KVM gives up, and the breakpoint entry's address, at the offsets the code counts on.
    expect(rom.subarray(0xf023, 0xf026).toString("hex")).toBe("9bdbe3");
    expect(rom.subarray(0xf188, 0xf190).toString("hex")).toBe("00f11800008effff");
    expect(rom.subarray(0, 0xf000).every((byte) => byte === 0)).toBe(true);
  });

  test("a yes is kept as long as its key, a no for an hour, anything else not at all", () => {
    const cases: [unknown, number][] = [
      [{ accelerator: "kvm", why: "", key: "k", at: 0 }, 1e12],
      [{ accelerator: "kvm", why: "", key: "other", at: 0 }, 1],
      [{ accelerator: "tcg", why: "", key: "k", at: 0 }, 3_599_999],
      [{ accelerator: "tcg", why: "", key: "k", at: 0 }, 3_600_001],
      [{ accelerator: "xen", key: "k", at: 0 }, 1],
      [null, 1],
    ];
    const fresh = evaluate(
      "accelerator.mjs",
      `${JSON.stringify(cases)}.map(([cached, now]) => m.isFresh(cached, "k", now))`,
    );
    expect(fresh).toEqual([true, false, true, false, false, false]);
  });
});
