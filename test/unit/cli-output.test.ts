import { roughDuration, roughSize, table } from "../../cli/output";

test.each([
  [0, "0 B"],
  [999, "999 B"],
  [1000, "0.98 KiB"],
  [1536, "1.5 KiB"],
  [20 * 2 ** 30, "20.0 GiB"],
  [640 * 2 ** 20, "640 MiB"],
])("%d bytes are shown as %s", (bytes, text) => expect(roughSize(bytes)).toBe(text));

test.each([
  [0, "0s"],
  [59.9, "59s"],
  [125, "2m 5s"],
  [3600, "1h"],
  [3 * 86_400 + 4 * 3600 + 59, "3d 4h"],
])("%d seconds are shown as %s", (seconds, text) => expect(roughDuration(seconds)).toBe(text));

test("a table has its head and rows", () => {
  expect(table(["name"], [["web"]])).toMatch(/name[\s\S]*web/);
});
