// The JSON parser of the guest against that of JavaScript, in each awk.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import fc from "fast-check";
import { awkOutput, AWKS } from "./guest-awk";

// One text a record, as thousands of processes would take minutes. \001 is in no JSON text.
const DUMP = String.raw`
BEGIN { RS = ORS = "\001" }
{ node = parse($0); print node ? dump(node) : "refused" }
function quoted(string,    i, c, out) {
  for (i = 1; i <= length(string); i++) {
    c = substr(string, i, 1)
    if (c == "\300") { c = "\\u0000"; i++ }
    else if (c == "\"" || c == "\\") c = "\\" c
    else if (byte(c) < 32) c = sprintf("\\u%04x", byte(c))
    out = out c
  }
  return "\"" out "\""
}
function dump(node,    i, out) {
  if (kind[node] == "null") return "null"
  if (kind[node] == "string") return quoted(text[node])
  if (kind[node] != "object" && kind[node] != "array") return text[node]
  for (i = 1; i <= size[node]; i++) out = out (i > 1 ? "," : "") (kind[node] == "object" ? quoted(name[node, i]) ":" : "") dump(item[node, i])
  return kind[node] == "object" ? "{" out "}" : "[" out "]"
}
`;

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(path.join(tmpdir(), "nixvm json "));
  writeFileSync(path.join(dir, "dump.awk"), DUMP);
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const parsed = (awk: string, texts: (string | Buffer)[]): string[] => {
  const records = texts.flatMap((text) => [Buffer.from(text), Buffer.from("\u0001")]);
  const out = awkOutput(awk, ["json.awk", path.join(dir, "dump.awk")], [], Buffer.concat(records)).split("\u0001");
  expect(out.pop()).toBe("");
  return out;
};

const unpaired = /(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]|[\uD800-\uDBFF](?![\uDC00-\uDFFF])/;
/** The value of a text in the one form that JavaScript writes it in; half a character has none in UTF-8, so it is refused. */
function expected(text: string): string {
  let whole = true;
  const note = (value: string) => (whole &&= !unpaired.test(value));
  try {
    const value = JSON.parse(text.replace(/^\ufeff/, ""), (name, each: unknown) => {
      note(name);
      if (typeof each === "string") note(each);
      return each;
    }) as unknown;
    return whole ? JSON.stringify(value) : "refused";
  } catch {
    return "refused";
  }
}
const canonical = (out: string) => (out === "refused" ? out : JSON.stringify(JSON.parse(out)));

const string = fc.oneof(
  fc.string({ unit: "grapheme" }),
  fc.string({ unit: "binary" }),
  fc.string({ unit: fc.constantFrom("\\", '"', "/", "\n", "\t", "\u0000", "\u0001", "\u007f", "u", "é", "😀", "a") }),
);
const { value: tree } = fc.letrec((tie) => ({
  value: fc.oneof(
    { maxDepth: 5, depthSize: "small" },
    string,
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.integer(),
    fc.constantFrom(null, true, false, 0, 1e21, 1e-7),
    fc.array(tie("value"), { maxLength: 5 }),
    // long enough to be cut at its commas
    fc.array(fc.oneof(fc.integer(), fc.constantFrom([], {}, [[1, null], true])), { maxLength: 60 }),
    fc.dictionary(string, tie("value"), { maxKeys: 5 }),
  ),
}));
const escapes = (text: string) =>
  text.replace(/[^ -~\s]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);

const written = fc
  .tuple(tree, fc.constantFrom("", "  ", "\t", "\r\n "), fc.boolean())
  .map(([value, indent, escaped]) => {
    const text = JSON.stringify(value, null, indent);
    return escaped ? escapes(text) : text;
  });
const cut = fc.record({
  at: fc.nat(),
  length: fc.integer({ min: 0, max: 3 }),
  text: fc.constantFrom(
    ...["", '"', ",", ":", "{", "}", "[", "]", "\\", "\\u", "\\ud83d", "\\u0000", " ", "\n", "\t", "\u0002", "\u007f"],
    ...["0", "1", "-", "+", ".", "e", "E5", "true", "nul", "x", "é", '"a":1,', "[]", "{}", "//"],
  ),
});
const damaged = fc.tuple(written, fc.array(cut, { minLength: 1, maxLength: 3 })).map(([text, cuts]) => {
  for (const { at, length, text: put } of cuts) {
    const from = at % (text.length + 1);
    text = text.slice(0, from) + put + text.slice(from + length);
  }
  // As it is on a disk: half a character is U+FFFD there.
  return Buffer.from(text.replaceAll("\u0001", " ")).toString();
});

const RUNS = 20;
const BATCH = 600;
const sameAsJavaScript = (awk: string, texts: fc.Arbitrary<string>) =>
  fc.assert(
    fc.property(fc.array(texts, { minLength: BATCH, maxLength: BATCH }), (batch) => {
      const out = parsed(awk, batch);
      expect(out).toHaveLength(BATCH);
      const wrong = batch.map((text, at) => [text, canonical(out[at]!), expected(text)]).filter(([, a, b]) => a !== b);
      expect(wrong).toEqual([]);
    }),
    // Smaller batches would not tell more: the text is in the message.
    { numRuns: RUNS, endOnFailure: true },
  );

describe.each(AWKS)("%s", (awk) => {
  test(`reads ${RUNS * BATCH} texts of any value as JavaScript does`, () => sameAsJavaScript(awk, written), 120_000);

  test(
    `takes or refuses ${RUNS * BATCH} damaged texts as JavaScript does`,
    () => sameAsJavaScript(awk, damaged),
    120_000,
  );

  test("is as strict as the standard", () => {
    const tokens = String.raw`01 -01 1. .5 +1 - 1e 1e+ 0x1 --1 nan NaN Infinity tru True nulll truefalse 1true 'a' # //1 1;`;
    const shapes = String.raw`[1,] [,1] [ ] [} {"a":1] {a:1} {"a"} {"a":} {"a":1,} {"a":1"b":2} {1:2} {}{} {}] {}, "a""b" [1:2] ,`;
    const strings = String.raw`"a a" "\" "\\\" "\x" "\u12g4" "\u12" "\ud800" "\udc00" "\ud800\u0041" "\ud800\ue000" "\ud800x\udc00" "\udc00\ud800"`;
    // cut off, overlong, a surrogate, beyond 10FFFF, a byte that is never in UTF-8
    const bytes = "c3 80 c0af e08080 eda080 f4908080 ff e9206162 c328".split(" ").map((hex) => `22${hex}22`);
    const texts = [
      ...["", " ", "1 2", '{"a" 1}', "t rue", "\u00a01", '"\t"', '"\n"', '"\u001f"'],
      ...`${tokens} ${shapes} ${strings}`.split(" "),
      ...bytes.map((hex) => Buffer.from(hex, "hex")),
    ];
    expect(parsed(awk, texts)).toEqual(texts.map(() => "refused"));
  });

  test("takes every kind of token, the last of two values of one name, and a mark of the byte order", () => {
    const texts = {
      '\ufeff{"a":1}': '{"a":1}',
      " [ -0 , 1.50e+03,\t1E5,null\r\n,true,false ] ": "[-0,1.50e+03,1E5,null,true,false]",
      '{"a":1,"b":2,"a":{"a":3}}': '{"a":{"a":3},"b":2}',
      '{"a":{"a":1},"":{"":[{}]}}': '{"a":{"a":1},"":{"":[{}]}}',
      '"\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\u20AC\\uD83D\\ude00\\u0000"':
        '"\\"\\\\/\\u0008\\u000c\\u000a\\u000d\\u0009é€😀\\u0000"',
      '"\\\\\\\\"': '"\\\\\\\\"',
      '["a\\\\","b\\"]"]': '["a\\\\","b\\"]"]',
      '"\u007f\u0080\u07ff\u0800\uffff\u{10000}\u{10ffff}"': '"\u007f\u0080\u07ff\u0800\uffff\u{10000}\u{10ffff}"',
    };
    expect(parsed(awk, Object.keys(texts))).toEqual(Object.values(texts));
  });

  test("goes down 256 levels and no further", () => {
    const nested = (depth: number) => "[".repeat(depth) + "]".repeat(depth);
    const objects = (depth: number) => '{"a":'.repeat(depth) + "1" + "}".repeat(depth);
    const texts = [nested(100), objects(100), nested(257), objects(257), nested(100_000), "[".repeat(100_000)];
    expect(parsed(awk, texts)).toEqual([nested(100), objects(100), "refused", "refused", "refused", "refused"]);
    // Not even read back, as mawk's functions cannot call themselves that often.
    const taken = 'BEGIN { RS = "\\001" }\n{ print parse($0) ? "taken" : "refused" }\n';
    writeFileSync(path.join(dir, "taken.awk"), taken);
    const input = Buffer.from([nested(256), objects(256), nested(257)].join("\u0001"));
    const out = awkOutput(awk, ["json.awk", path.join(dir, "taken.awk")], [], input);
    expect(out).toBe("taken\ntaken\nrefused\n");
  });
});
