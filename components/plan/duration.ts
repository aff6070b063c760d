/** What is said when a duration is not one. */
export const DURATION_ALLOWED = "hours, minutes and seconds from 1s to 24h, such as 90s, 5m or 1h30m";

/** A duration as text; the look-ahead refuses the empty text. */
export const DURATION_PATTERN = /^(?=[0-9])([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,5}s)?$/;

/** Seconds of a duration such as `5m`; `undefined` when it is not one, is zero, or is longer than a day. */
export function parseDuration(text: unknown): number | undefined {
  const match = typeof text === "string" ? DURATION_PATTERN.exec(text) : null;
  if (match === null) return undefined;
  const part = (i: number): number => Number.parseInt(match[i] ?? "0", 10);
  const seconds = part(1) * 3600 + part(2) * 60 + part(3);
  return seconds >= 1 && seconds <= 86_400 ? seconds : undefined;
}

/** The text of a number of seconds, in the form Pulumi's `customTimeouts` and our config both read: `1h30m`. */
export function formatDuration(seconds: number): string {
  const parts: [number, string][] = [
    [Math.floor(seconds / 3600), "h"],
    [Math.floor((seconds % 3600) / 60), "m"],
    [seconds % 60, "s"],
  ];
  const text = parts.map(([amount, unit]) => (amount > 0 ? `${amount}${unit}` : "")).join("");
  return text === "" ? "0s" : text;
}
