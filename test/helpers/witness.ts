import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";

/** Programs that are started with something to do with secrets; each call of theirs is put on record, however short it is. */
const WATCHED = ["virsh", "mkisofs", "xsltproc", "qemu-img"];

/**
 * What anybody on this machine could see while commands run: arguments and environments of processes, and files below the folders for
 * temporary files. Searched afterwards, when all secrets are known.
 */
export class Witness {
  /** For commands to find before the real programs. */
  readonly bin: string;
  /** For their temporary files. */
  readonly tmp: string;
  /** Of the watched programs. */
  readonly records: string;
  private readonly commandLines = new Map<string, string>();
  private readonly environments = new Map<string, string>();
  private timer: NodeJS.Timeout | undefined;

  constructor(dir: string) {
    this.bin = path.join(dir, "bin");
    this.tmp = path.join(dir, "tmp");
    this.records = path.join(dir, "records");
    for (const folder of [this.bin, this.tmp, this.records]) fs.mkdirSync(folder);
    for (const name of WATCHED) this.shadow(name);
  }

  /** Looks at all processes every moment until it is called again with false. */
  watch(on: boolean): void {
    clearInterval(this.timer);
    if (on) this.timer = setInterval(() => this.look(), 15);
  }

  /** Calls of a program of which there is a record. */
  calls(name: string): number {
    return fs.readdirSync(this.records).filter((file) => file.startsWith(`${name}.`) && file.endsWith(".cmdline"))
      .length;
  }

  /** Processes seen. */
  get processes(): number {
    return this.commandLines.size;
  }

  /** Command lines with a secret in them. */
  arguments(secrets: readonly string[]): string[] {
    return [...this.commandLines.values(), ...this.recorded("cmdline")].filter((text) => holds(text, secrets));
  }

  /** The commands whose environment has a secret in it. */
  environmentsWith(secrets: readonly string[]): string[] {
    const seen = [...this.environments].filter(([, text]) => holds(text, secrets));
    return [
      ...seen.map(([key]) => this.commandLines.get(key) ?? key),
      ...fs
        .readdirSync(this.records)
        .filter((file) => file.endsWith(".environ"))
        .filter((file) => holds(fs.readFileSync(path.join(this.records, file), "utf8"), secrets)),
    ];
  }

  /** Temporary files that had a secret in them when one of the programs was called: `<mode> <mode of the folder> <path>`, each once. */
  temporary(secrets: readonly string[]): string[] {
    const found = fs
      .readdirSync(this.records)
      .filter((file) => file.endsWith(".files"))
      .flatMap((file) => JSON.parse(fs.readFileSync(path.join(this.records, file), "utf8")) as FileSeen[])
      .filter(({ text }) => holds(Buffer.from(text, "base64").toString("latin1"), secrets));
    return [...new Set(found.map(({ mode, folder, file }) => `${mode} ${folder} ${path.basename(file)}`))].sort();
  }

  private recorded(kind: string): string[] {
    return fs
      .readdirSync(this.records)
      .filter((file) => file.endsWith(`.${kind}`))
      .map((file) => fs.readFileSync(path.join(this.records, file), "utf8").replaceAll("\0", " "));
  }

  private shadow(name: string): void {
    const real = execFileSync("sh", ["-c", `command -v ${name}`], { encoding: "utf8" }).trim();
    // Node for the files: a shell would be quicker, and would read no binary file into JSON.
    const script = [
      "#!/bin/sh",
      `to="${this.records}/${name}.$$"`,
      'cat "/proc/$$/cmdline" > "$to.cmdline"',
      'cat "/proc/$$/environ" > "$to.environ"',
      // Of all its calls this is the one that has a file with secrets.
      ...(name === "virsh" ? [`case "$*" in *vol-upload*) ;; *) exec "${real}" "$@" ;; esac`] : []),
      `"${process.execPath}" "${path.dirname(this.records)}/look.js" "${this.tmp}" /dev/shm > "$to.files"`,
      `exec "${real}" "$@"`,
    ];
    fs.writeFileSync(path.join(this.bin, name), `${script.join("\n")}\n`, { mode: 0o755 });
    fs.writeFileSync(path.join(this.records, "..", "look.js"), LOOK);
  }

  private look(): void {
    for (const pid of fs.readdirSync("/proc")) {
      if (!/^[0-9]+$/.test(pid) || Number(pid) === process.pid) continue;
      try {
        const commandLine = fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
        const key = `${pid} ${commandLine}`;
        if (commandLine === "" || this.commandLines.has(key)) continue;
        this.commandLines.set(key, commandLine);
        this.environments.set(key, fs.readFileSync(`/proc/${pid}/environ`, "utf8"));
      } catch {
        // It has ended meanwhile.
      }
    }
  }
}

interface FileSeen {
  file: string;
  mode: string;
  folder: string;
  text: string;
}

const LOOK = `
const fs = require("node:fs"), path = require("node:path");
const found = [];
const walk = (dir) => {
  for (const entry of fs.readdirSync(dir, { withFileTypes: true })) {
    const file = path.join(dir, entry.name);
    try {
      if (entry.isDirectory()) walk(file);
      const { size, mode } = fs.statSync(file);
      if (!entry.isFile() || size > 2 ** 22) continue;
      const octal = (number) => (number & 0o777).toString(8);
      found.push({ file, mode: octal(mode), folder: octal(fs.statSync(dir).mode), text: fs.readFileSync(file).toString("base64") });
    } catch {}
  }
};
process.argv.slice(2).forEach(walk);
process.stdout.write(JSON.stringify(found));
`;

export const holds = (text: string, secrets: readonly string[]): boolean => secrets.some((one) => text.includes(one));

/** Files below a folder, links not followed, that have a secret in them. */
export function filesWith(dir: string, secrets: readonly string[]): string[] {
  return fs
    .readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(entry.parentPath ?? entry.path, entry.name))
    .filter((file) => holds(fs.readFileSync(file, "latin1"), secrets));
}
