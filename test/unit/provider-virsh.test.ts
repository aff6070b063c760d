import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { consoleTail, plainTail } from "../../provider/console";
import * as parse from "../../provider/parse";
import { Run, run, RunResult } from "../../provider/run";
import { parseStatus } from "../../provider/status";
import { Virsh } from "../../provider/virsh";

describe("virsh's output", () => {
  it("lists domains whatever their names", () => {
    const name = fc.string({ minLength: 1 }).filter((text) => text.trim() === text && !/[\r\n\u2028\u2029]/.test(text));
    fc.assert(
      fc.property(fc.array(fc.record({ uuid: fc.uuid(), name })), (domains) => {
        const text = domains.map((domain) => `${domain.uuid} ${domain.name}\n`).join("");
        expect(parse.parseDomains(`${text}\n`)).toEqual(domains);
      }),
    );
  });

  it.each([
    ["running (booted)\n\n", "running", "booted"],
    ["shut off (shutdown)\n", "shut off", "shutdown"],
    ["paused (I/O error)\n", "paused", "I/O error"],
    ["running\n", "running", ""],
  ])("reads the state %j", (text, state, reason) => {
    expect(parse.parseState(text)).toEqual({ state, reason });
  });

  it("reads sizes of domblkinfo and vol-info, and only those", () => {
    fc.assert(
      fc.property(fc.nat(), (bytes) => {
        expect(parse.parseCapacity(`Capacity:       ${bytes}\nAllocation:     7\nPhysical:       8\n`)).toBe(bytes);
        expect(parse.parseCapacity(`Name: x\nCapacity:       ${bytes} bytes\nAllocation:     7 bytes\n`)).toBe(bytes);
      }),
    );
    expect(parse.parseCapacity("Capacity:       1.00 GiB\n")).toBeUndefined();
  });

  it("reads forwarded ports from QEMU arguments", () => {
    const xml = `<qemu:arg value='user,id=n,hostfwd=tcp:127.0.0.1:2302-:22,hostfwd=tcp::8080-:80'/>`;
    expect(parse.parseForwardedPorts(xml)).toEqual([2302, 8080]);
    expect(parse.parseForwardedPorts("<domain/>")).toEqual([]);
  });

  it.each([
    [[{ name: "lo", "ip-addresses": [{ "ip-address-type": "ipv4", "ip-address": "127.0.0.1" }] }], undefined],
    [
      [{ name: "eth0" }, { name: "eth1", "ip-addresses": [{ "ip-address-type": "ipv6", "ip-address": "fe80::1" }] }],
      undefined,
    ],
    [[{ name: "eth0", "ip-addresses": [{ "ip-address-type": "ipv4", "ip-address": "10.0.2.15" }] }], "10.0.2.15"],
    [{}, undefined],
    [[null], undefined],
  ])("finds the first address in %j", (reply, expected) => {
    expect(parse.firstAddress(reply)).toBe(expected);
  });

  it("never shows two sizes alike", () => {
    const size = fc.oneof(
      fc.nat(),
      fc.integer({ min: 0, max: 2 ** 20 }).map((n) => n * 2 ** 20),
    );
    fc.assert(fc.property(size, size, (a, b) => a === b || parse.formatBytes(a) !== parse.formatBytes(b)));
  });
});

describe("Virsh", () => {
  const calls: Array<readonly string[]> = [];
  const answering = (result: Partial<RunResult>) =>
    new Virsh("qemu:///system", async (command, args) => {
      calls.push([command, ...args]);
      return { code: 0, stdout: "", stderr: "", ...result };
    });

  it("asks for a shutdown in a way, which the test driver does not know", async () => {
    const asked = async (uri: string): Promise<string> => {
      let seen = "";
      const run: Run = async (_, args) => {
        seen = args.join(" ");
        return { code: 0, stdout: "", stderr: "" };
      };
      await new Virsh(uri, run).shutdown("u", "acpi");
      return seen;
    };
    expect(await asked("qemu:///system")).toBe("-q -c qemu:///system shutdown u --mode acpi");
    expect(await asked("test+unix:///default")).toBe("-q -c test+unix:///default shutdown u");
  });

  it("passes arguments without a shell, sizes in bytes, and a limit to the agent", async () => {
    calls.length = 0;
    const virsh = answering({ stdout: '{"return":{"pid":1}}' });
    expect(await virsh.agent("u", { execute: "guest-ping" })).toEqual({ pid: 1 });
    await virsh.blockResize("u", "/pool/a b.qcow2", 1024);
    await virsh.volumeResize("/pool/a b.qcow2", 1024);
    const head = ["virsh", "-q", "-c", "qemu:///system"];
    expect(calls).toEqual([
      [...head, "qemu-agent-command", "u", "--timeout", "5", '{"execute":"guest-ping"}'],
      [...head, "blockresize", "u", "/pool/a b.qcow2", "1024b"],
      [...head, "vol-resize", "/pool/a b.qcow2", "1024b"],
    ]);
  });

  it.each<[Partial<RunResult>, string, string]>([
    [
      {
        code: 1,
        stderr:
          "error: failed to connect to the hypervisor\nerror: Failed to connect socket to '/run/libvirt/libvirt-sock': No such file or directory\n",
      },
      "unreachable",
      "libvirt at qemu:///system does not answer: Failed to connect socket to '/run/libvirt/libvirt-sock': No such file or directory",
    ],
    [{ code: undefined, failure: "missing" }, "missing", "virsh is not on PATH; install the package libvirt-clients"],
    [
      { code: undefined, failure: "timeout" },
      "timeout",
      'libvirt at qemu:///system did not answer "virsh domstate" in 180 s',
    ],
    [{ code: 1, stderr: "error: failed to get domain 'u'\n" }, "failed", "virsh domstate: failed to get domain 'u'"],
  ])("tells %j as %s", async (result, kind, message) => {
    await expect(answering(result).state("u")).rejects.toMatchObject({ kind, message });
  });

  it("tells a silent agent from a libvirt that refuses", async () => {
    const stderr = "error: Guest agent is not responding: QEMU guest agent is not connected\n";
    await expect(answering({ code: 1, stderr }).agent("u", { execute: "guest-ping" })).rejects.toMatchObject({
      kind: "agent",
    });
    await expect(answering({ stdout: "oops" }).agent("u", { execute: "guest-ping" })).rejects.toMatchObject({
      kind: "agent",
    });
  });

  it("really runs commands: exit codes, missing programs, time limits", async () => {
    expect(await run("sh", ["-c", 'printf "$LC_ALL"; exit 3'], 5000)).toMatchObject({ code: 3, stdout: "C" });
    expect(await run("nixvm-no-such-program", [], 5000)).toMatchObject({ failure: "missing" });
    expect(await run("sleep", ["20"], 50)).toMatchObject({ failure: "timeout" });
  });
});

describe("serial console", () => {
  it("is shown without anything that moves a cursor or changes a colour", () => {
    fc.assert(
      fc.property(
        fc.string({ unit: "binary" }),
        fc.constantFrom("\u001b[2J", "\u001b[1;31m", "\u001bc", "\u0007"),
        (text, code) => {
          // eslint-disable-next-line no-control-regex -- control characters are what this is about
          expect(plainTail(text + code + text, 40).join("")).not.toMatch(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/);
        },
      ),
    );
    expect(plainTail("\u001b[2J\u001b[01;01HBdsDxe\r\n10%\r50%\r100%\r\nlogin:", 40)).toEqual([
      "BdsDxe",
      "100%",
      "login:",
    ]);
  });

  it("says why there is none", async () => {
    expect(await consoleTail(undefined)).toEqual({ none: "no serial log is configured for this VM" });
    expect(await consoleTail("/nonexistent/web.log")).toMatchObject({
      none: expect.stringContaining("cannot be read here: ENOENT") as string,
    });
    const dir = mkdtempSync(join(tmpdir(), "nixvm-"));
    writeFileSync(join(dir, "log"), "");
    expect(await consoleTail(join(dir, "log"))).toMatchObject({ none: expect.stringContaining("is empty") as string });
    rmSync(dir, { recursive: true });
  });
});

it("reads a status record of a newer guest, and says what is wrong with a broken one", () => {
  expect(parseStatus('{"schema":1,"imageId":"a","healthy":true,"new":1}')).toMatchObject({
    record: { imageId: "a", new: 1 },
  });
  expect(parseStatus("{")).toMatchObject({ problem: expect.stringContaining("is not JSON") as string });
  expect(parseStatus('{"schema":1}')).toMatchObject({ problem: expect.stringContaining("imageId") as string });
});
