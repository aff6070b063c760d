import fc from "fast-check";
import { frame, rounds, watchOn } from "../../cli/watch";
import { Cancelled } from "../../provider/clock";
import { FakeClock } from "./provider-fake";

const ESC = "\u001b[";
const PARTS = new RegExp(`${ESC.replace("[", "\\[")}[?\\d]*[A-Za-z]|\\r\\n|[^]`, "gu");

/** What a terminal of that size shows after it was written to: escapes are the ones that are used here, all else is a fault. */
function shown(written: string, rows: number, columns: number): string[] {
  const screen = Array.from({ length: rows }, () => "?".repeat(columns));
  let [row, column] = [0, 0];
  for (const [part] of written.matchAll(PARTS)) {
    const line = screen[row] ?? "";
    if (part === `${ESC}H`) [row, column] = [0, 0];
    else if (part === `${ESC}K`) screen[row] = line.slice(0, column);
    else if (part === `${ESC}J`) screen.fill("", row);
    else if (part === "\r\n") [row, column] = [row + 1, 0];
    else {
      if (part.startsWith(ESC) || part === "\n" || row >= rows || column >= columns)
        throw new Error(`scrolls: ${part}`);
      screen[row] = line.slice(0, column) + part + line.slice(column + 1);
      column++;
    }
  }
  return screen;
}

describe("a live table", () => {
  test("takes the place of the former one, and leaves nothing of it", () => {
    expect(shown(frame("one\ntwo", { rows: 4, columns: 5 }), 4, 5)).toEqual(["one", "two", "", ""]);
  });

  test("is cut to the terminal, and says so", () => {
    expect(shown(frame("a\nb\nc\nd", { rows: 3, columns: 9 }), 3, 9)).toEqual(
      ["a", "b", "… 2 more"].map((line) => (line.startsWith("…") ? "… 2 more " : line)),
    );
    expect(shown(frame("abcdef", { rows: 1, columns: 3 }), 1, 3)).toEqual(["abc"]);
  });

  test("never scrolls, whatever its size", () => {
    const line = fc.stringMatching(/^[a-z -]{0,40}$/);
    const size = fc.integer({ min: 1, max: 30 });
    fc.assert(
      fc.property(fc.array(line, { minLength: 1, maxLength: 40 }), size, size, (lines, rows, columns) => {
        const screen = shown(frame(lines.join("\n"), { rows, columns }), rows, columns);
        const kept = lines.length > rows ? lines.slice(0, rows - 1) : lines;
        expect(screen.slice(0, kept.length)).toEqual(kept.map((one) => one.slice(0, columns)));
      }),
    );
  });

  /** Ctrl-C after so many rounds. */
  async function watched(count: number, look: (round: number) => Promise<string>) {
    const stop = new AbortController();
    const clock = new FakeClock();
    clock.at((count - 0.5) * 5, () => stop.abort());
    let [round, written] = [0, ""];
    const screen = { write: (text: string) => void (written += text), rows: 5, columns: 20 };
    const done = watchOn(screen, () => look(++round), { seconds: 5, clock, signal: stop.signal });
    return { done, rounds: () => round, written: () => written, stop };
  }

  test("ends cleanly at Ctrl-C: the shell's screen is back, with the last picture on it (G-14)", async () => {
    const { done, rounds: count, written } = await watched(3, async (round) => `round ${round}`);
    await done;
    expect(count()).toBe(3);
    expect(written().startsWith(`${ESC}?1049h${ESC}?25l${ESC}?7l`)).toBe(true);
    expect(written().endsWith(`${ESC}?7h${ESC}?25h${ESC}?1049lround 3\n`)).toBe(true);
  });

  test("ends cleanly in the middle of a look", async () => {
    const { done, stop, written } = await watched(9, async (round) => {
      if (round < 2) return "first";
      stop.abort();
      throw new Cancelled();
    });
    await done;
    expect(written().endsWith(`${ESC}?1049lfirst\n`)).toBe(true);
  });

  test("gives the screen back when a look fails, and fails", async () => {
    const { done, written } = await watched(3, () => Promise.reject(new Error("no virsh")));
    await expect(done).rejects.toThrow("no virsh");
    expect(written().endsWith(`${ESC}?7h${ESC}?25h${ESC}?1049l`)).toBe(true);
  });
});

test("rounds come at their time, the first one at once", async () => {
  const clock = new FakeClock();
  const stop = new AbortController();
  const at: number[] = [];
  await rounds({ seconds: 2, clock, signal: stop.signal }, async () => {
    at.push(clock.now());
    if (at.length === 3) stop.abort();
  });
  expect(at).toEqual([0, 2000, 4000]);
});
