// The scripts of health checks in real shells, against real servers on this machine: a guest has the same shells.
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { AddressInfo, createServer, Server, Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { GuestResult } from "../../provider/agent";
import { Check, checkInput, faultOf, quote, scriptOf } from "../../provider/checkScript";

let folder: string;
/** Folder of programs without curl. */
let bare: string;
/** Folder without bash and curl. */
let empty: string;
/** What the server says after a request; undefined: nothing at all. */
let answer: string | undefined;
let requests: string[];
let server: Server;
let port: number;
let closed: number;
const sockets = new Set<Socket>();

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "nixvm-checks-"));
  bare = programs("bare", ["bash", "head", "timeout"]);
  empty = programs("empty", ["head", "timeout"]);
  server = createServer((socket) => {
    sockets.add(socket.on("error", () => undefined).on("close", () => sockets.delete(socket)));
    let request = "";
    socket.setEncoding("latin1").on("data", (text: string) => {
      request += text;
      if (!request.endsWith("\r\n\r\n")) return;
      requests.push(request.split("\r\n")[0]!);
      if (answer !== undefined) socket.end(answer);
    });
  });
  port = await listen(server);
  const gone = createServer();
  closed = await listen(gone);
  await new Promise((resolve) => gone.close(resolve));
});
beforeEach(() => {
  answer = "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nall is well";
  requests = [];
});
afterAll(async () => {
  for (const socket of sockets) socket.destroy();
  await new Promise((resolve) => server.close(resolve));
  rmSync(folder, { recursive: true });
});

function programs(name: string, wanted: string[]): string {
  const path = join(folder, name);
  mkdirSync(path);
  for (const program of wanted) symlinkSync(`/usr/bin/${program}`, join(path, program));
  return path;
}

async function listen(target: Server): Promise<number> {
  await new Promise<void>((resolve) => target.listen(0, "127.0.0.1", resolve));
  return (target.address() as AddressInfo).port;
}

/** `sh` stands for /bin/sh of the guest: dash on Debian, bash on NixOS. As with the agent, there is no input. */
function run(script: string, path = "/usr/bin:/bin", sh = ["/bin/dash"]): Promise<GuestResult> {
  return new Promise((resolve, reject) => {
    const inside = script.replaceAll("/bin/sh", sh.join(" "));
    const child = spawn(sh[0]!, [...sh.slice(1), "-c", inside], {
      cwd: folder,
      env: { PATH: path },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let [out, err] = ["", ""];
    child.stdout.setEncoding("utf8").on("data", (text: string) => (out += text));
    child.stderr.setEncoding("utf8").on("data", (text: string) => (err += text));
    child.on("error", reject).on("close", (code) => resolve({ code: code ?? 255, out, err }));
  });
}

const limits = { name: "web", timeoutSeconds: 10, withinSeconds: 60 };
const command = (text: string): Check => ({ ...limits, kind: "command", command: text });
const tcp = (to: number): Check => ({ ...limits, kind: "tcp", address: "127.0.0.1", port: to });
const http = (more: object = {}): Check => ({
  ...limits,
  ...{ kind: "http", address: "127.0.0.1", port, path: "/", ...more },
});
const whyOf = async (check: Check, path?: string, sh?: string[]): Promise<string | undefined> =>
  faultOf(check, await run(scriptOf(check), path, sh))?.why;

const shells: [string, string[]][] = [
  ["dash", ["/bin/dash"]],
  ["bash as sh", ["/bin/bash", "--posix"]],
];

describe.each(shells)("with %s", (_name, sh) => {
  test("a command is good when it exits with 0, and its last line tells why it is not", async () => {
    expect(await whyOf(command("test -d / && printf '%s' \"it's\""), undefined, sh)).toBeUndefined();
    expect(await whyOf(command("echo one; echo inactive; exit 3"), undefined, sh)).toBe("exit code 3: inactive");
    expect(await whyOf(command("echo out; echo '\x1b[31mbad\x1b[0m' >&2; false"), undefined, sh)).toBe(
      "exit code 1: bad",
    );
  });

  test("a command of several lines is one script", async () => {
    expect(await whyOf(command("a=2\nif test $a = 2\nthen exit 5\nfi\n"), undefined, sh)).toBe("exit code 5");
  });

  test("a command that is not there is a fault for good", async () => {
    const check = command("no-such-program --now");
    const fault = faultOf(check, await run(scriptOf(check), undefined, sh));
    expect(fault).toEqual({ why: expect.stringMatching(/^a command is not in the guest .*not found$/), final: true });
  });

  test("a command that does not end is ended, with what it has started", async () => {
    const check = { ...command("sleep 60 & sleep 60"), timeoutSeconds: 0.2 };
    expect(await whyOf(check, undefined, sh)).toBe("took longer than 0.2 s");
  });

  test("a port is good when it takes a connection", async () => {
    expect(await whyOf(tcp(port), undefined, sh)).toBeUndefined();
    expect(await whyOf(tcp(closed), undefined, sh)).toBe(`port ${closed}: Connection refused`);
  });

  test("without bash there is nothing to ask a port with", async () => {
    const result = await run(scriptOf(tcp(port)), empty, sh);
    expect(faultOf(tcp(port), result)).toEqual({ why: expect.stringContaining("neither bash nor curl"), final: true });
  });
});

describe.each([
  ["curl", () => "/usr/bin:/bin"],
  ["bash, where there is no curl", () => bare],
])("HTTP with %s", (_name, path) => {
  test.each([
    ["200 OK", {}, undefined],
    ["302 Found, Location: http://127.0.0.1:1/", {}, undefined],
    ["503 Service Unavailable", {}, "HTTP 503"],
    ["503 Service Unavailable", { status: 503 }, undefined],
    ["200 OK", { status: 204 }, "HTTP 200, wanted 204"],
    ["200 OK", { contains: "is well" }, undefined],
    ["200 OK", { contains: "it's bad" }, 'HTTP 200, but without "it\'s bad": all is well'],
    ["200 OK, X-Word: secret-of-the-head", { contains: "secret-of-the-head" }, expect.stringContaining("without")],
  ])("%s, wanted %j", async (head, more, why) => {
    answer = `HTTP/1.1 ${head.replace(", ", "\r\n")}\r\nContent-Length: 11\r\n\r\nall is well`;
    expect(await whyOf(http(more), path())).toEqual(why);
  });

  test("asks for the path as it is written", async () => {
    await whyOf(http({ path: "/a/../b?x=[1]{2}&y=%20" }), path());
    expect(requests).toEqual([expect.stringMatching(/^GET \/a\/\.\.\/b\?x=\[1\]\{2\}&y=%20 HTTP\/1\.[01]$/)]);
  });

  test("a refused port is told", async () => {
    expect(await whyOf(http({ port: closed }), path())).toMatch(/^no HTTP answer: .*(refused|connect)/);
  });

  test("a server that says nothing is given up", async () => {
    answer = undefined;
    expect(await whyOf({ ...http(), timeoutSeconds: 0.5 }, path())).toBe("took longer than 0.5 s");
  });

  test("something else than HTTP is no answer", async () => {
    answer = "SSH-2.0-OpenSSH_9.2\r\n";
    expect(await whyOf(http(), path())).toMatch(/^no HTTP answer/);
  });

  test("an endless answer is read up to 64 KiB", async () => {
    answer = `HTTP/1.1 200 OK\r\n\r\nbegin${"x".repeat(1_000_000)}end`;
    expect(await whyOf(http({ contains: "begin" }), path())).toBeUndefined();
    expect(await whyOf(http({ contains: "end" }), path())).toMatch(/^HTTP 200, but without "end": x{199}…$/);
  });
});

test("an IPv6 address is in brackets where an address with a port is", () => {
  expect(scriptOf(http({ address: "::1", port: 80 }))).toContain("http://[::1]:80/");
  expect(scriptOf(http({ address: "::1", port: 80 }))).toContain("[::1]:80");
});

test("HTTP needs curl or bash", async () => {
  const result = await run(scriptOf(http()), empty);
  expect(faultOf(http(), result)).toMatchObject({ why: expect.stringContaining("neither bash nor curl"), final: true });
});

test("an interim answer is not the answer", () => {
  const out = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 503 Sorry\r\n\r\nbusy";
  expect(faultOf(http(), { code: 0, out, err: "" })?.why).toBe("HTTP 503");
  expect(faultOf(http({ status: 503, contains: "busy" }), { code: 0, out, err: "" })).toBeUndefined();
  expect(faultOf(http({ status: 503, contains: "Link" }), { code: 0, out, err: "" })?.why).toMatch(/without "Link"/);
});

// What a shell, curl, printf or an HTTP request could take for something else than text.
const part = fc.oneof(
  fc.constantFrom("'", '"', "\\", "$(touch broken)", "`touch broken`", "; touch broken;", "&& touch broken"),
  fc.constantFrom(
    "'; touch broken; '",
    "$PATH",
    "%s",
    "%n",
    "-o",
    "|touch broken",
    ">broken",
    "*",
    "#",
    "!",
    "~",
    "é😀",
  ),
  fc.string({ maxLength: 8 }).map((text) => text.replaceAll("\0", "")),
);
const nasty = fc.array(part, { minLength: 1, maxLength: 5 }).map((parts) => parts.join(""));
const untouched = (): void => expect(existsSync(join(folder, "broken"))).toBe(false);

describe("whatever a user writes", () => {
  test("a quoted word is read back as it was, by each shell", async () => {
    // All in one process: a shell each would take most of the time.
    const words = fc.sample(fc.oneof(nasty, fc.constantFrom("", "\n", "\r\n\t", "'\\''", " ")), {
      seed: 5,
      numRuns: 500,
    });
    const script = `printf '%s\\001' ${words.map(quote).join(" ")}`;
    for (const [, sh] of shells) {
      expect((await run(script, undefined, sh)).out.split("\x01").slice(0, -1)).toEqual(words);
    }
    untouched();
  });

  test("a command gets to the shell as it is written", async () => {
    await fc.assert(
      fc.asyncProperty(nasty, async (text) => {
        expect((await run(scriptOf(command(`printf %s ${quote(text)}`)))).out).toBe(text);
      }),
      { seed: 5, numRuns: 30 },
    );
    untouched();
  });

  test("a path is asked for as it is written, and breaks out of nothing", async () => {
    const word = nasty.map((text) => `/${text.replace(/[^!"$-~]/g, "")}`);
    await fc.assert(
      fc.asyncProperty(word, fc.constantFrom("/usr/bin:/bin", bare), async (path, programs) => {
        requests = [];
        await run(scriptOf(http({ path })), programs);
        expect(requests.map((line) => line.replace(/HTTP\/1\.[01]$/, ""))).toEqual([`GET ${path} `]);
      }),
      { seed: 5, numRuns: 40 },
    );
    untouched();
  });

  test("even a path that the stack file refuses runs nothing", async () => {
    await fc.assert(
      fc.asyncProperty(nasty, fc.constantFrom("/usr/bin:/bin", bare), async (text, programs) => {
        const result = await run(scriptOf(http({ path: `/${text}` })), programs);
        expect(result.code).not.toBe(2);
      }),
      { seed: 6, numRuns: 30 },
    );
    untouched();
  });

  test("the wanted text is not in the script at all", () => {
    fc.assert(
      fc.property(nasty, (contains) => {
        expect(scriptOf(http({ contains }))).toBe(scriptOf(http()));
      }),
    );
  });

  test("a fault is one short line, whatever the guest prints", () => {
    const check = fc.constantFrom(command("x"), tcp(1), http({ contains: "y" }), http({ status: 204 }));
    const result = fc.record({ code: fc.constantFrom(0, 1, 124, 127, 255), out: fc.string(), err: fc.string() });
    fc.assert(
      fc.property(check, result, (one, left) => {
        const why = faultOf(one, left)?.why ?? "";
        // eslint-disable-next-line no-control-regex -- this is what must not be there
        expect(why).not.toMatch(/[\u0000-\u001f\u007f-\u009f]/);
        expect(why.length).toBeLessThan(300);
        if (left.code !== 0 && one.kind !== "http") expect(why).not.toBe("");
      }),
      { numRuns: 300 },
    );
  });
});

describe("inputs of a Guest", () => {
  test("take each kind", () => {
    const checks = [command("true"), tcp(22), http({ port: 1, status: 200, contains: "x" })];
    for (const check of [...checks, http({ port: 1, address: "::1" })]) expect(checkInput.parse(check)).toEqual(check);
  });

  test.each<[string, object]>([
    ["an unknown kind", { ...limits, kind: "udp", port: 1 }],
    ["an address that is a script", { ...tcp(1), address: "$(reboot)" }],
    ["a port that is a text", { ...tcp(1), port: "1;reboot" }],
    ["an empty command", command("")],
    ["a time limit that is a text", { ...command("true"), timeoutSeconds: "1;reboot" }],
    ["a field of another kind", { ...command("true"), port: 1 }],
  ])("refuse %s", (_what, check) => expect(checkInput.safeParse(check).success).toBe(false));
});
