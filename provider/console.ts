import { open } from "node:fs/promises";

/** How much of a serial log is read: 40 lines of a terminal are far below it, and a log may be huge. */
const tailBytes = 64 * 1024;

/**
 * Last lines of a serial console log as plain text. Escape sequences and control characters are removed, since a boot
 * loader's "clear screen" would wipe the display of `pulumi up`.
 */
export function plainTail(text: string, lines: number): string[] {
  /* eslint-disable no-control-regex -- control characters are what this is about */
  const plain = text
    // CSI (colours, cursor), OSC (titles) and two-character escapes.
    .replace(/\u001b\[[0-?]*[ -/]*[@-~]/g, "")
    .replace(/\u001b\][^\u0007\u001b]{0,999}(?:\u0007|\u001b\\)/g, "")
    .replace(/\u001b[ -/]*[0-~]/g, "")
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/g, "");
  /* eslint-enable no-control-regex */
  const all = plain.split("\n").map((line) => {
    const shown = line.trimEnd();
    // A lone carriage return starts the line anew: what a terminal would show is the last part.
    return shown.slice(shown.lastIndexOf("\r") + 1);
  });
  return all.filter((line) => line !== "").slice(-lines);
}

/** What the end of a serial log shows: its lines, or why there are none. */
export type ConsoleTail = { lines: string[] } | { none: string };

/** Last 40 lines of the log at `path`. */
export async function consoleTail(path: string | undefined, lines = 40): Promise<ConsoleTail> {
  if (path === undefined) return { none: "no serial log is configured for this VM" };
  try {
    const file = await open(path, "r");
    try {
      const { size } = await file.stat();
      const buffer = Buffer.alloc(Math.min(size, tailBytes));
      const { bytesRead } = await file.read(buffer, 0, buffer.length, Math.max(0, size - tailBytes));
      const tail = plainTail(buffer.subarray(0, bytesRead).toString("utf8"), lines);
      return tail.length > 0 ? { lines: tail } : { none: `${path} is empty: the guest printed nothing` };
    } finally {
      await file.close();
    }
  } catch (error) {
    return { none: `the log cannot be read here: ${(error as Error).message}` };
  }
}

/** What the kernel of a guest says when it gives up; undefined when its console does not show that. */
export async function kernelPanic(path: string | undefined): Promise<string | undefined> {
  const tail = await consoleTail(path);
  const lines = "lines" in tail ? tail.lines : [];
  return lines.map((line) => /Kernel panic - not syncing: .*/.exec(line)?.[0]).find((line) => line !== undefined);
}
