import { spawn } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { result } from "../../cli/verbs/exec";
import { type GuestCommand, runInGuest } from "../../cli/guestCommand";
import { systemClock } from "../../provider/clock";
import { FakeClock } from "./provider-fake";
import { type AgentCommand, LibvirtError, type Virsh } from "../../provider/virsh";

jest.setTimeout(60_000);

const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm-exec-test-"));
afterAll(() => fs.rmSync(dir, { recursive: true, force: true }));

/**
 * A guest agent that does on this machine what QEMU's does in a guest: starts processes, and reads files in parts. Its /run is a folder
 * of the test.
 */
class Agent {
  asked: string[] = [];
  /** What an answer may hold, as libvirt limits it. */
  largest = 0;
  private readonly ended = new Map<number, { exitcode?: number; signal?: number }>();
  private readonly files: { fd: number; at: number }[] = [];

  async agent(_uuid: string, { execute, arguments: given = {} }: AgentCommand): Promise<unknown> {
    this.asked.push(execute);
    const at = (text: string): string => text.replace("/run/nixvm-exec", `${dir}/nixvm-exec`);
    const answer = this.answer(execute, given, at);
    this.largest = Math.max(this.largest, JSON.stringify(answer).length);
    return answer;
  }

  private answer(execute: string, given: Record<string, any>, at: (text: string) => string): unknown {
    switch (execute) {
      case "guest-exec": {
        const child = spawn(given.path, given.arg.map(at), { stdio: "ignore" });
        child.on("exit", (exitcode, signal) => {
          const ended = signal === null ? { exitcode: exitcode ?? 0 } : { signal: os.constants.signals[signal] };
          this.ended.set(child.pid!, ended);
        });
        return { pid: child.pid };
      }
      case "guest-exec-status":
        return { exited: this.ended.has(given.pid), ...this.ended.get(given.pid) };
      case "guest-file-open":
        if (!fs.existsSync(at(given.path)))
          throw new LibvirtError("agent", `failed to open: No such file or directory`);
        return this.files.push({ fd: fs.openSync(at(given.path), given.mode), at: 0 }) - 1;
      case "guest-file-read": {
        const file = this.files[given.handle]!;
        const buffer = Buffer.alloc(given.count);
        const count = fs.readSync(file.fd, buffer, 0, given.count, file.at);
        file.at += count;
        return { count, "buf-b64": buffer.subarray(0, count).toString("base64"), eof: count < given.count };
      }
      case "guest-file-close":
        fs.closeSync(this.files[given.handle]!.fd);
        return {};
    }
    throw new Error(execute);
  }
}

async function exec(
  argv: string[],
  more: Partial<GuestCommand> = {},
  signal = new AbortController().signal,
): Promise<{ code: number; out: Buffer; err: Buffer; agent: Agent }> {
  const [out, err]: [Buffer[], Buffer[]] = [[], []];
  const agent = new Agent();
  const command = {
    argv,
    onOut: (data: Buffer) => void out.push(data),
    onErr: (data: Buffer) => void err.push(data),
    ...more,
  };
  const code = await runInGuest(agent as unknown as Virsh, "u", command, systemClock, signal);
  return { code, out: Buffer.concat(out), err: Buffer.concat(err), agent };
}

/** Folders that commands have left; removing the last one is not waited for. */
async function left(): Promise<string[]> {
  for (let tries = 0; tries < 100 && fs.readdirSync(dir).length > 0; tries++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return fs.readdirSync(dir);
}

test("a command's output and exit code come back as they are, and nothing stays", async () => {
  const { code, out, err } = await exec(["sh", "-c", "echo out; echo err >&2; exit 7"]);
  expect([code, out.toString(), err.toString()]).toEqual([7, "out\n", "err\n"]);
  expect(await left()).toEqual([]);
});

test("arguments are a list: no shell looks at them", async () => {
  const words = ["a b", "$HOME", "`id`", "'\"", "*", "", "-n", "é\n"];
  const { out } = await exec(["printf", "%s\\0", ...words]);
  expect(out.toString().split("\0").slice(0, -1)).toEqual(words);
});

test("a program that is not there is 127, one that a signal ended 128 and its number", async () => {
  const none = await exec(["no-such-program"]);
  expect(none.code).toBe(127);
  expect(none.err.toString()).toContain("no-such-program");
  expect((await exec(["sh", "-c", "kill -9 $$"])).code).toBe(137);
});

test("output of any size and any bytes comes whole, in answers that libvirt lets through", async () => {
  const script = "head -c 7000001 /dev/zero; printf '\\377\\000\\201' >&2";
  const { code, out, err, agent } = await exec(["sh", "-c", script]);
  expect([code, out.length, [...err]]).toEqual([0, 7_000_001, [255, 0, 129]]);
  expect(agent.largest).toBeLessThan(4 * 2 ** 20);
});

test("output is handed on while the command still runs", async () => {
  const flag = path.join(os.tmpdir(), `nixvm-flag-${process.pid}`);
  const script = `echo first; while [ ! -e ${flag} ]; do sleep 0.05; done; echo second; rm ${flag}`;
  const lines: string[] = [];
  const onOut = (data: Buffer): void => {
    lines.push(data.toString());
    // Only what has been read so far lets it go on.
    if (lines.length === 1) fs.writeFileSync(flag, "");
  };
  expect((await exec(["sh", "-c", script], { onOut })).code).toBe(0);
  expect(lines).toEqual(["first\n", "second\n"]);
});

test("the time limit and Ctrl-C end the command with all that it has started", async () => {
  const script = (file: string): string => `sleep 600 & echo $! > ${file}; sleep 600; true`;
  const alive = (file: string): boolean => {
    // A zombie is at its end: whoever started it has yet to hear of it.
    const stat = path.join("/proc", fs.readFileSync(file, "utf8").trim(), "stat");
    return fs.existsSync(stat) && !/\) [ZX] /.test(fs.readFileSync(stat, "utf8"));
  };
  const pids = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm-pids-"));
  const [late, cut] = [path.join(pids, "late"), path.join(pids, "cut")];
  await expect(exec(["sh", "-c", script(late)], { limitMs: 1000 })).rejects.toThrow("did not end within 1 s");
  const controller = new AbortController();
  setTimeout(() => controller.abort(), 1000);
  await expect(exec(["sh", "-c", script(cut)], {}, controller.signal)).rejects.toMatchObject({ code: 130 });
  expect(await left()).toEqual([]);
  expect([alive(late), alive(cut)]).toEqual([false, false]);
  fs.rmSync(pids, { recursive: true });
});

test("a command that is followed is seldom asked whether it has ended: each question is a line in the journal", async () => {
  const clock = new FakeClock();
  let asked = 0;
  const agent = async (_uuid: string, { execute }: AgentCommand): Promise<unknown> => {
    if (execute === "guest-exec-status") asked++;
    const status = { exited: clock.now() > 3_600_000, exitcode: 0 };
    return { pid: 1, count: 0, "buf-b64": "", eof: true, ...status };
  };
  const nothing = (): void => undefined;
  const command = { argv: ["x"], onOut: nothing, onErr: nothing, patienceMs: 60_000 };
  expect(await runInGuest({ agent } as unknown as Virsh, "u", command, clock, new AbortController().signal)).toBe(0);
  expect(asked).toBeLessThan(120);
});

test("JSON has text as it is, and says so when it is none (G-14)", () => {
  expect(result(7, Buffer.from("é\n"), Buffer.from(""))).toEqual({
    json: { code: 7, stdout: "é\n", stderr: "" },
    text: "",
    code: 7,
  });
  expect(result(0, Buffer.from([255, 0]), Buffer.from("x")).json).toEqual({
    ...{ code: 0, stdout: "/wA=", stderr: "eA==", encoding: "base64" },
  });
});
