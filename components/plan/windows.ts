// The dates of JavaScript know UTC and one zone; which moments a clock skips or has twice, only Temporal tells. 0.5.1 is the
// newest polyfill; it can go when the oldest Node that is supported has Temporal itself.
import { Temporal } from "@js-temporal/polyfill";

/** Days of the week as stack files name them, Monday first. */
export const DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"] as const;
export type Day = (typeof DAYS)[number];

/** A span of time that comes back on days of the week, on the clock of a time zone. */
export interface Window {
  /** Days on which it begins. */
  readonly days: readonly Day[];
  /** "HH:MM" on that clock. */
  readonly from: string;
  /** "HH:MM"; before `from`: on the next day. "24:00" is the end of the day. */
  readonly to: string;
  /** IANA name, such as Europe/Berlin. */
  readonly zone: string;
}

/** Whether a change may begin. All times are epoch milliseconds. */
export type Opening =
  /** `until`: looked for up to the end of tomorrow. */
  | { readonly open: true; readonly until: number }
  /** `next`: when and in which window one begins again; `null`: none within two weeks. */
  | { readonly open: false; readonly next: { readonly at: number; readonly zone: string } | null };

/** A window that opened before these days is over, also where a clock change made it longer. */
const LOOK_BACK_DAYS = 2;
/** Any week has all days of a window, and a clock change takes away one of them at most. */
const LOOK_AHEAD_DAYS = 15;

/** Whether there is such a time zone. */
export function isZone(name: string): boolean {
  try {
    Temporal.Instant.fromEpochMilliseconds(0).toZonedDateTimeISO(name);
    return true;
  } catch {
    return false;
  }
}

/**
 * Whether a change may begin at `now`. Windows that overlap are one. With no windows it always may.
 *
 * On the day of a clock change: a time that the clock skips counts as the moment of the skip, one that it has twice counts as
 * its first for a beginning and its second for an end, so that a window is never shorter than it says, and one that lies wholly
 * in the skipped hour is not there on that day.
 */
export function openingAt(windows: readonly Window[], now: number): Opening {
  if (windows.length === 0) return { open: true, until: Number.POSITIVE_INFINITY };
  const near = windows.flatMap((window) => spansOf(window, now, -LOOK_BACK_DAYS, 1)).sort((a, b) => a.begin - b.begin);
  let until = now;
  for (const { begin, end } of near) if (begin <= until && end > until) until = end;
  if (until > now) return { open: true, until };
  const openings = windows.flatMap((window) => nextOf(window, now) ?? []).sort((a, b) => a.at - b.at);
  return { open: false, next: openings[0] ?? null };
}

function nextOf(window: Window, now: number): { at: number; zone: string } | undefined {
  for (let offset = 0; offset <= LOOK_AHEAD_DAYS; offset++) {
    const at = spansOf(window, now, offset, offset)[0]?.begin;
    if (at !== undefined && at > now) return { at, zone: window.zone };
  }
  return undefined;
}

/** A moment on the clock of a zone and in UTC: `Sat 2026-03-28 22:00 Europe/Berlin (2026-03-28T21:00Z)`. */
export function formatMoment({ at, zone }: { at: number; zone: string }): string {
  const local = Temporal.Instant.fromEpochMilliseconds(at).toZonedDateTimeISO(zone);
  const day = DAYS[local.dayOfWeek - 1] ?? "";
  const time = local.toPlainTime().toString({ smallestUnit: "minute" });
  const utc = new Date(at).toISOString().slice(0, 16);
  return `${day.charAt(0).toUpperCase()}${day.slice(1)} ${local.toPlainDate().toString()} ${time} ${zone} (${utc}Z)`;
}

interface Span {
  readonly begin: number;
  readonly end: number;
}

/** Spans that begin on the days around today, on the window's own clock. */
function spansOf({ days, from, to, zone }: Window, now: number, first: number, last: number): Span[] {
  const today = Temporal.Instant.fromEpochMilliseconds(Math.floor(now)).toZonedDateTimeISO(zone).toPlainDate();
  const spans: Span[] = [];
  for (let offset = first; offset <= last; offset++) {
    const day = today.add({ days: offset });
    if (!days.includes(DAYS[day.dayOfWeek - 1] ?? "mon")) continue;
    const begin = instantOf(day, from, zone, "earlier");
    const next = day.add({ days: 1 });
    const end =
      to === "24:00" ? instantOf(next, "00:00", zone, "later") : instantOf(to > from ? day : next, to, zone, "later");
    if (end > begin) spans.push({ begin, end });
  }
  return spans;
}

function instantOf(day: Temporal.PlainDate, time: string, zone: string, twice: "earlier" | "later"): number {
  const local = day.toPlainDateTime(Temporal.PlainTime.from(time));
  const found = local.toZonedDateTime(zone, { disambiguation: twice });
  if (found.toPlainDateTime().equals(local)) return found.epochMilliseconds;
  // In a skipped hour: the moment of the skip comes next after the earlier of the two readings.
  const earlier = local.toZonedDateTime(zone, { disambiguation: "earlier" });
  return (earlier.getTimeZoneTransition("next") ?? found).epochMilliseconds;
}
