import type { Command } from "commander";
import { examine } from "../doctor";
import type { Finding, Level } from "../doctorChecks";
import { EXIT } from "../errors";
import { does, verb } from "../verb";

const MARKS: Record<Level, string> = { ok: "ok  ", warn: "warn", fail: "FAIL" };

/** `nixvm doctor`: whether this machine, its hosts and the stack are fit for a run (T-19). */
export function addDoctor(program: Command): void {
  does(
    verb(program, "doctor", "look at this machine, the hosts and the stack: what is missing, what to do"),
    async (context) => {
      const findings = await examine(context);
      const counts = { ok: 0, warn: 0, fail: 0 };
      for (const { level } of findings) counts[level]++;
      return {
        json: { healthy: counts.fail === 0, counts, findings },
        text: [...findings.map(line), "", `${counts.ok} ok, ${counts.warn} to look at, ${counts.fail} in the way`].join(
          "\n",
        ),
        code: counts.fail > 0 ? EXIT.failed : 0,
      };
    },
  );
}

function line({ name, level, text, advice }: Finding): string {
  // A problem may be many lines; they stay below their own mark.
  const said = text.split("\n").join("\n       ");
  return `${MARKS[level]}  ${name}: ${said}${advice ? `\n       -> ${advice}` : ""}`;
}
