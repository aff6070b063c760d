import { Presets, SingleBar } from "cli-progress";
import { roughDuration, roughSize } from "./output";

/** How far something is, shown on a terminal. */
export interface Bar {
  at(bytes: number): void;
  stop(): void;
}

/** A bar on stderr with rate and rest; where nobody looks, or a program does, there is none. */
export function bar(what: string, total: number, json: boolean): Bar {
  if (json || !process.stderr.isTTY) return { at: () => undefined, stop: () => undefined };
  const began = performance.now();
  const made = new SingleBar(
    {
      format: `${what} {bar} {percentage}% {size}, {rate}/s, {rest} left`,
      stream: process.stderr,
      clearOnComplete: true,
      hideCursor: true,
    },
    Presets.shades_classic,
  );
  const words = (bytes: number): Record<string, string> => {
    const rate = bytes / Math.max(0.001, (performance.now() - began) / 1000);
    const rest = rate > 0 ? roughDuration((total - bytes) / rate) : "?";
    return { size: `${roughSize(bytes)} of ${roughSize(total)}`, rate: roughSize(rate), rest };
  };
  made.start(total, 0, words(0));
  return { at: (bytes) => made.update(Math.min(bytes, total), words(bytes)), stop: () => made.stop() };
}
