// What the set-up shows: one line a step, and a sign of life for whatever takes longer than two seconds.
//
// All of it goes to stderr: stdout belongs to the task (its last line may be JSON, or shell code for `eval`).
const QUIET_MS = 2000;
const REPEAT_MS = 15000;
const FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏";

/** 75 s -> "1 min 15 s" */
export function elapsed(ms) {
  const seconds = Math.round(ms / 1000);
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

/** @param stream where to write; a terminal gets a spinner, anything else a line every 15 s. */
export function progress(stream = process.stderr, prefix = "setup: ") {
  const line = (text) => stream.write(`${prefix}${text}\n`);

  /**
   * Shows `label` while `work` runs. `work` may call its argument with a word on where it is.
   *
   * @param quiet say nothing of work that found nothing to do, which is: was done at once.
   */
  async function step(label, work, { quiet = false } = {}) {
    const start = Date.now();
    let detail = "";
    let shown = 0;
    let frame = 0;
    const draw = () => {
      const ms = Date.now() - start;
      if (ms < QUIET_MS) return;
      if (stream.isTTY) {
        const text = `${FRAMES[frame++ % FRAMES.length]} ${prefix}${label} ${elapsed(ms)} ${detail}`;
        stream.write(`\r\x1b[2K${text.slice(0, (stream.columns ?? 80) - 1)}`);
      } else if (shown === 0 || Date.now() - shown >= REPEAT_MS) {
        const words = detail ? `, ${detail}` : "";
        line(shown === 0 ? `${label} ...` : `${label} ... ${elapsed(ms)}${words}`);
        shown = Date.now();
      }
    };
    const timer = setInterval(draw, stream.isTTY ? 120 : 1000);
    const clear = () => {
      clearInterval(timer);
      if (stream.isTTY) stream.write("\r\x1b[2K");
    };
    try {
      const result = await work((text) => (detail = text));
      clear();
      if (!quiet || Date.now() - start >= QUIET_MS) line(`${label}: done (${elapsed(Date.now() - start)})`);
      return result;
    } catch (err) {
      clear();
      line(`${label}: failed (${elapsed(Date.now() - start)})`);
      throw err;
    }
  }
  return { line, step };
}
