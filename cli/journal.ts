import { plainTail } from "../provider/console";

/** What `nixvm logs` can be asked for. */
export interface LogOptions {
  lines?: string;
  unit?: string;
  since?: string;
  boot?: boolean;
  follow?: boolean;
  json: boolean;
}

/** Arguments of journalctl, the program included. A value cannot become an option: each is part of the word that names it. */
export function journalArguments({ lines, unit, since, boot, follow, json }: LogOptions): string[] {
  // Whoever says from when on wants all of it.
  const last = lines ?? (follow ? "10" : since === undefined ? "100" : "all");
  return [
    "journalctl",
    "--no-pager",
    "--quiet",
    `--output=${json ? "json" : "short-iso"}`,
    `--lines=${last}`,
    ...(unit === undefined ? [] : [`--unit=${unit}`]),
    ...(since === undefined ? [] : [`--since=${since}`]),
    ...(boot ? ["--boot"] : []),
    ...(follow ? ["--follow"] : []),
  ];
}

/** Whether `--lines` is a number of lines, or all of them. */
export const isLines = (text: string): boolean => /^(all|[1-9][0-9]{0,6})$/.test(text);

/** Lines of a serial log as they are shown; with JSON each is a document with the journal's own key for it. */
export function serialLines(text: string, lines: number, json: boolean): string {
  return plainTail(text, lines)
    .map((line) => `${json ? JSON.stringify({ MESSAGE: line }) : line}\n`)
    .join("");
}
