import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { downSpans, EventLog, parseEvent, secondsTogether, type StepMoment } from "../../cli/eventLog";

const line = (kind: string, op: string, type: string, name: string): string =>
  JSON.stringify({ sequence: 1, [kind]: { metadata: { op, type, urn: `urn:pulumi:demo::nixvm::${type}::${name}` } } });
const guest = (at: number, phase: StepMoment["phase"], op: string, name: string, diffs: string[] = []): StepMoment => ({
  at,
  phase,
  op,
  name,
  diffs,
  type: "nixvm:index:Guest",
});

it("reads the events that are steps and passes over the others", () => {
  expect(parseEvent(line("resourcePreEvent", "create", "t", "a::b"), 7)).toEqual({
    at: 7,
    phase: "begin",
    op: "create",
    type: "t",
    name: "b",
    diffs: [],
  });
  expect(parseEvent(line("resOpFailedEvent", "update", "t", "c"), 7)?.phase).toBe("failed");
  expect(parseEvent('{"diagnosticEvent":{}}', 7)).toBeUndefined();
});

it("follows a log while it is written, also when a line arrives in two parts", async () => {
  const file = path.join(fs.mkdtempSync(path.join(os.tmpdir(), "nixvm-log-")), "events.json");
  const log = new EventLog(file);
  const text = `${line("resourcePreEvent", "create", "t", "a")}\n${line("resOutputsEvent", "create", "t", "a")}\n`;
  fs.writeFileSync(file, text.slice(0, 150));
  await new Promise((done) => setTimeout(done, 120));
  fs.appendFileSync(file, text.slice(150));
  expect(log.close().map((step) => step.phase)).toEqual(["begin", "end"]);
  fs.rmSync(path.dirname(file), { recursive: true });
});

describe("downtime", () => {
  it("lasts from the begin of the clean stop to the end of the gate", () => {
    const spans = downSpans([
      guest(500, "begin", "update", "app-guest", ["imageDigest", "overlayPath"]),
      guest(900, "end", "update", "app-guest", ["imageDigest", "overlayPath"]),
      guest(1000, "begin", "delete-replaced", "db-guest"),
      guest(4000, "end", "delete-replaced", "db-guest"),
      guest(5000, "begin", "create-replacement", "db-guest"),
      guest(17000, "end", "create-replacement", "db-guest"),
      guest(18000, "begin", "update", "web-guest", ["seedDigest"]),
      guest(19000, "end", "update", "web-guest", ["seedDigest"]),
    ]);
    expect([...spans]).toEqual([
      ["app-guest", { from: 500, to: 900 }],
      ["db-guest", { from: 1000, to: 17000 }],
    ]);
  });

  it("has no end for a guest that never came back", () => {
    const spans = downSpans([guest(1000, "begin", "delete", "db"), guest(9000, "failed", "create", "db")]);
    expect(spans.get("db")?.to).toBe(Number.POSITIVE_INFINITY);
  });

  it("is shared only while all are down", () => {
    expect(
      secondsTogether([
        { from: 0, to: 5000 },
        { from: 3000, to: 9000 },
      ]),
    ).toBe(2);
    expect(
      secondsTogether([
        { from: 0, to: 5000 },
        { from: 5000, to: 9000 },
      ]),
    ).toBe(0);
    expect(secondsTogether([{ from: 0, to: 5000 }])).toBe(0);
  });
});
