import { spawn, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { pathToFileURL } from "node:url";
import { evaluate, inNode, plant, root, scratch } from "./tools-support";

let dir: string;
beforeEach(() => {
  dir = scratch();
});
afterEach(() => {
  fs.rmSync(dir, { recursive: true, force: true });
});

describe("a recorded file", () => {
  const record = () => evaluate<object>("files", "m.fingerprint(input, 'tool')", dir);
  const state = (known: object, thorough = false) =>
    evaluate<string>("files", "m.compare(...input)", [dir, known, thorough]);

  beforeEach(() => plant(dir, { tool: "content" }));

  it("is the same as long as nothing changed", () => {
    expect(state(record())).toBe("same");
    expect(state(record(), true)).toBe("same");
  });

  it("is only touched when its time changed", () => {
    const known = record();
    fs.utimesSync(path.join(dir, "tool"), 1, 1);
    expect(state(known)).toBe("touched");
  });

  it("is changed when cut off, or rewritten at the same length", () => {
    const known = record();
    plant(dir, { tool: "conten" });
    expect(state(known)).toBe("changed");
    plant(dir, { tool: "CONTENT" });
    expect(state(known)).toBe("changed");
  });

  it("is found to be changed behind size and time by a thorough look", () => {
    const file = path.join(dir, "tool");
    fs.utimesSync(file, 1000, 1000);
    const known = record();
    plant(dir, { tool: "CONTENT" });
    fs.utimesSync(file, 1000, 1000);
    expect(state(known)).toBe("same");
    expect(state(known, true)).toBe("changed");
  });

  it("is missing when deleted, or when a folder is in its place", () => {
    const known = record();
    fs.rmSync(path.join(dir, "tool"));
    expect(state(known)).toBe("missing");
    fs.mkdirSync(path.join(dir, "tool"));
    expect(state(known)).toBe("missing");
  });
});

describe("an atomic write", () => {
  it("leaves the old content and no rest when it fails", () => {
    plant(dir, { "record.json": "old" });
    const body = "try { m.writeAtomically(input, undefined) } catch { process.exit(3) }";
    expect(inNode("files", body, path.join(dir, "record.json")).status).toBe(3);
    expect(fs.readdirSync(dir)).toEqual(["record.json"]);
    expect(fs.readFileSync(path.join(dir, "record.json"), "utf8")).toBe("old");
  });

  it("sets the mode before the content can be read by others", () => {
    inNode("files", "m.writeAtomically(input, 'secret', 0o600)", path.join(dir, "a/passphrase"));
    expect(fs.statSync(path.join(dir, "a/passphrase")).mode & 0o777).toBe(0o600);
  });

  it("counts a broken record as none", () => {
    plant(dir, { "record.json": '{"schema": 1' });
    expect(evaluate("files", "m.readJson(input)", path.join(dir, "record.json"))).toBeNull();
  });
});

describe("the lock", () => {
  const lock = () => path.join(dir, "setup.lock");

  /** A process that appends `in` and `out` around a pause while it holds the lock. */
  function worker(): Promise<number | null> {
    const url = pathToFileURL(path.join(root, "tools/lock.mjs")).href;
    const code = `import { withLock } from ${JSON.stringify(url)}; import { appendFileSync } from "node:fs";
      const log = ${JSON.stringify(path.join(dir, "log"))};
      await withLock(${JSON.stringify(lock())}, () => {}, async () => {
        appendFileSync(log, "in "); await new Promise((r) => setTimeout(r, 150)); appendFileSync(log, "out ");
      });`;
    const child: ChildProcess = spawn(process.execPath, ["--input-type=module", "-e", code], { stdio: "inherit" });
    return new Promise((resolve) => child.on("exit", resolve));
  }

  it("lets one in at a time, also past a lock that was left behind", async () => {
    plant(dir, { "setup.lock": "999999999 1\n" });
    expect(await Promise.all([worker(), worker(), worker(), worker()])).toEqual([0, 0, 0, 0]);
    expect(fs.readFileSync(path.join(dir, "log"), "utf8")).toBe("in out ".repeat(4));
    expect(fs.readdirSync(dir)).toEqual(["log"]);
  });

  it("is not held by another process that got the same id", () => {
    plant(dir, { "setup.lock": `${process.pid} 1\n` });
    expect(evaluate("lock", "m.holder(input)", lock())).toBeNull();
  });

  it("is free again after an error", () => {
    const body = "await m.withLock(input, () => {}, async () => { throw new Error('x') }).catch(() => {});";
    expect(inNode("lock", body, lock()).status).toBe(0);
    expect(fs.existsSync(lock())).toBe(false);
  });

  it("says once who holds it", () => {
    const body = `let told = [];
      await m.withLock(input, () => {}, () => {
        const second = m.withLock(input, (pid) => told.push(pid), () => {});
        return new Promise((r) => setTimeout(r, 1200)).then(() => void second);
      });
      console.log(JSON.stringify(told.length));`;
    expect(inNode("lock", body, lock()).stdout.trim()).toBe("1");
  });
});
