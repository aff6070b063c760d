import fc from "fast-check";
import { DAYS, formatMoment, isZone, openingAt, type Window } from "../../components/plan/windows";

const berlin = (from: string, to: string, days: Window["days"] = DAYS): Window => ({
  days,
  from,
  to,
  zone: "Europe/Berlin",
});
const at = (utc: string): number => Date.parse(`${utc}Z`);
/** What is said at a moment: until when it is open, or when it opens, in UTC. */
function said(windows: Window[], utc: string): string {
  const opening = openingAt(windows, at(utc));
  const text = (ms: number): string => new Date(ms).toISOString().slice(0, 16);
  return opening.open
    ? `open until ${text(opening.until)}`
    : `closed until ${opening.next ? text(opening.next.at) : "never"}`;
}

test.each<[what: string, windows: Window[], utc: string, expected: string]>([
  ["within", [berlin("22:00", "23:00")], "2026-01-10T21:30", "open until 2026-01-10T22:00"],
  ["at its first moment", [berlin("22:00", "23:00")], "2026-01-10T21:00", "open until 2026-01-10T22:00"],
  ["at its end", [berlin("22:00", "23:00")], "2026-01-10T22:00", "closed until 2026-01-11T21:00"],
  ["over midnight", [berlin("22:00", "04:00", ["sat"])], "2026-01-11T02:30", "open until 2026-01-11T03:00"],
  ["on another day", [berlin("22:00", "04:00", ["sat"])], "2026-01-12T02:30", "closed until 2026-01-17T21:00"],
  ["to the end of the day", [berlin("22:00", "24:00")], "2026-01-10T22:30", "open until 2026-01-10T23:00"],
  [
    "two that overlap are one",
    [berlin("22:00", "23:00"), berlin("22:30", "01:00")],
    "2026-01-10T21:10",
    "open until 2026-01-11T00:00",
  ],
  [
    "two that touch are one",
    [berlin("22:00", "23:00"), berlin("23:00", "23:30")],
    "2026-01-10T21:10",
    "open until 2026-01-10T22:30",
  ],
  [
    "the next of two",
    [berlin("22:00", "23:00"), berlin("05:00", "06:00")],
    "2026-01-10T03:00",
    "closed until 2026-01-10T04:00",
  ],
  // 2026-03-29: 02:00 is followed by 03:00. 2026-10-25: 03:00 is followed by 02:00.
  ["in summer", [berlin("22:00", "23:00")], "2026-07-10T20:30", "open until 2026-07-10T21:00"],
  ["over the skipped hour", [berlin("01:00", "04:00")], "2026-03-29T00:30", "open until 2026-03-29T02:00"],
  ["from within the skipped hour", [berlin("02:30", "04:00")], "2026-03-29T00:59", "closed until 2026-03-29T01:00"],
  ["to within the skipped hour", [berlin("01:00", "02:30")], "2026-03-29T00:30", "open until 2026-03-29T01:00"],
  ["wholly in the skipped hour", [berlin("02:10", "02:50")], "2026-03-29T00:30", "closed until 2026-03-30T00:10"],
  [
    "weekly and wholly in the skipped hour",
    [berlin("02:10", "02:50", ["sun"])],
    "2026-03-29T00:30",
    "closed until 2026-04-05T00:10",
  ],
  ["over the hour that is there twice", [berlin("01:00", "04:00")], "2026-10-25T01:30", "open until 2026-10-25T03:00"],
  ["in the first of the two hours", [berlin("02:10", "02:50")], "2026-10-25T00:30", "open until 2026-10-25T01:50"],
  ["in the second of the two hours", [berlin("02:10", "02:50")], "2026-10-25T01:30", "open until 2026-10-25T01:50"],
  [
    "at midnight of a zone that skips it",
    [{ days: ["sun"], from: "00:00", to: "01:30", zone: "America/Santiago" }],
    "2026-09-06T03:30",
    "closed until 2026-09-06T04:00",
  ],
])("a window %s", (_what, windows, utc, expected) => expect(said(windows, utc)).toBe(expected));

const clock = fc
  .tuple(fc.integer({ min: 0, max: 23 }), fc.integer({ min: 0, max: 59 }))
  .map(([h, m]) => `${String(h).padStart(2, "0")}:${String(m).padStart(2, "0")}`);
const zones = fc.constantFrom(
  "UTC",
  "Europe/Berlin",
  "America/New_York",
  "Australia/Lord_Howe",
  "Asia/Kathmandu",
  "Africa/Casablanca",
);
const someWindow = fc
  .record({
    days: fc.subarray([...DAYS], { minLength: 1 }),
    from: clock,
    to: fc.oneof(clock, fc.constant("24:00")),
    zone: zones,
  })
  .filter(({ from, to }) => from !== to);
const moment = fc.integer({ min: at("2026-01-01T00:00"), max: at("2030-01-01T00:00") });

describe("any window", () => {
  test("opens within two weeks, is open at that moment, and not at its end", () => {
    fc.assert(
      fc.property(fc.array(someWindow, { minLength: 1, maxLength: 3 }), moment, (windows, now) => {
        const opening = openingAt(windows, now);
        if (!opening.open) {
          expect(opening.next).not.toBeNull();
          expect(opening.next!.at).toBeGreaterThan(now);
          expect(openingAt(windows, opening.next!.at - 1).open).toBe(false);
          expect(openingAt(windows, opening.next!.at).open).toBe(true);
        } else {
          expect(opening.until).toBeGreaterThan(now);
          expect(openingAt(windows, opening.until - 1).open).toBe(true);
          // A window of every day and night has no end that could be seen from here.
          if (opening.until - now < 86_400_000) expect(openingAt(windows, opening.until).open).toBe(false);
        }
      }),
      { numRuns: 60 },
    );
  });

  test("says what the clock on the wall says, but in hours that a change skips or repeats", () => {
    fc.assert(
      fc.property(someWindow, moment, (window, now) => {
        const wall = new Intl.DateTimeFormat("en-GB", {
          timeZone: window.zone,
          weekday: "short",
          hour: "2-digit",
          minute: "2-digit",
          hourCycle: "h23",
        });
        const show = (ms: number) => Object.fromEntries(wall.formatToParts(ms).map(({ type, value }) => [type, value]));
        const offset = (ms: number) =>
          Math.round(
            (Date.parse(`${new Date(ms).toLocaleString("sv", { timeZone: window.zone }).replace(" ", "T")}Z`) - ms) /
              60_000,
          );
        fc.pre([-26, -2, 2, 26].every((hours) => offset(now) === offset(now + hours * 3_600_000)));
        const { weekday = "", hour, minute } = show(now);
        const time = `${hour}:${minute}`;
        const today = weekday.toLowerCase() as Window["days"][number];
        const yesterday = DAYS[(DAYS.indexOf(today) + 6) % 7]!;
        const overnight = window.to < window.from;
        const inIt = overnight
          ? (window.days.includes(today) && time >= window.from) ||
            (window.days.includes(yesterday) && time < window.to)
          : window.days.includes(today) && time >= window.from && time < window.to;
        expect(openingAt([window], now).open).toBe(inIt);
      }),
      { numRuns: 60 },
    );
  });
});

test("no window at all is no limit", () => expect(openingAt([], 0)).toEqual({ open: true, until: Infinity }));

test("a moment is shown on the clock of its zone and in UTC", () => {
  expect(formatMoment({ at: at("2026-03-28T21:00"), zone: "Europe/Berlin" })).toBe(
    "Sat 2026-03-28 22:00 Europe/Berlin (2026-03-28T21:00Z)",
  );
});

test("a time zone is one that this machine knows", () => {
  expect(["UTC", "Europe/Berlin", "Europe/Berlim", ""].map(isZone)).toEqual([true, true, false, false]);
});
