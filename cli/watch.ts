import { Cancelled, type Clock } from "../provider/clock";

/** A terminal, as far as it is drawn on. */
export interface Screen {
  write(text: string): void;
  rows: number;
  columns: number;
}

const ESC = "\u001b[";
/** Another screen than the one with the shell's history on it, without a cursor, where no wide letter makes a line wrap. */
const BEGIN = `${ESC}?1049h${ESC}?25l${ESC}?7l`;
const END = `${ESC}?7h${ESC}?25h${ESC}?1049l`;

/** A picture for a terminal of that size: what does not fit is cut, as a line that wraps would shift all others. */
export function frame(text: string, { rows, columns }: Pick<Screen, "rows" | "columns">): string {
  const lines = text.split("\n");
  const room = Math.max(1, rows);
  const left = lines.length - room;
  const shown = left > 0 ? [...lines.slice(0, room - 1), `… ${left + 1} more lines`] : lines;
  // Cleared before it is written: behind a line that is as long as the terminal is wide, its last letter would go.
  return `${ESC}H${shown.map((line) => `${ESC}K${[...line].slice(0, columns).join("")}`).join("\r\n")}${left < 0 ? `\r\n${ESC}J` : ""}`;
}

/** What a round of watching takes. */
export interface Watch {
  seconds: number;
  clock: Clock;
  signal: AbortSignal;
}

/** Draws what `look` gives again and again in the same place, until the signal; the last picture then stays on the ordinary screen. */
export async function watchOn(screen: Screen, look: () => Promise<string>, watch: Watch): Promise<void> {
  let last: string | undefined;
  screen.write(BEGIN);
  try {
    await rounds(watch, async () => {
      last = await look();
      screen.write(frame(last, screen));
    });
  } finally {
    screen.write(END);
    if (last !== undefined) screen.write(`${last}\n`);
  }
}

/** Does it, and again after a pause, until the signal: that is how it is meant to end. */
export async function rounds({ seconds, clock, signal }: Watch, round: () => Promise<void>): Promise<void> {
  try {
    for (;;) {
      await round();
      await clock.sleep(seconds * 1000, signal);
    }
  } catch (error) {
    if (!(error instanceof Cancelled) && !signal.aborted) throw error;
  }
}
