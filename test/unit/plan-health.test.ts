import fc from "fast-check";
import type { HealthCheck } from "../../components/plan";
import { base, one, planOf, textsOf, vmOf } from "./plan-support";

const checksOf = (health: unknown, rest: object = {}) => vmOf(one({ health, ...rest })).health;
const tcg = { hosts: { local: { accelerator: "tcg" } } };

describe("a health check", () => {
  test("of each kind gets its defaults, and the list is sorted by name", () => {
    const health = { web: { http: {} }, nginx: { command: "systemctl is-active nginx" }, ssh: { tcp: 22 } };
    const limits = { timeoutSeconds: 10, withinSeconds: 60 };
    expect(checksOf(health)).toEqual([
      { ...limits, name: "nginx", kind: "command", command: "systemctl is-active nginx" },
      { ...limits, name: "ssh", kind: "tcp", address: "127.0.0.1", port: 22 },
      { ...limits, name: "web", kind: "http", address: "127.0.0.1", port: 80, path: "/" },
    ]);
  });

  test("is as it is written", () => {
    const http = { port: 8080, path: "/health?full=1", status: 204, contains: "it's ok" };
    const web = { http, address: "::1", timeout: "3s", within: "2m" };
    expect(checksOf({ web })).toEqual([
      { name: "web", kind: "http", address: "::1", ...http, timeoutSeconds: 3, withinSeconds: 120 },
    ]);
  });

  test("waits longer under emulation unless it is written (G-9)", () => {
    const [check] = vmOf(one({ health: { a: { tcp: 1 }, b: { tcp: 1, within: "9s" } } }, tcg)).health;
    expect(check).toMatchObject({ timeoutSeconds: 30, withinSeconds: 180 });
    expect(vmOf(one({ health: { b: { tcp: 1, within: "9s" } } }, tcg)).health[0]).toMatchObject({
      timeoutSeconds: 9,
      withinSeconds: 9,
    });
  });

  test("has time for one long try, but never more than the gate", () => {
    expect(checksOf({ a: { tcp: 1, timeout: "2m" } })[0]).toMatchObject({ timeoutSeconds: 120, withinSeconds: 120 });
    expect(checksOf({ a: { tcp: 1 } }, { gateTimeout: "5s" })[0]).toMatchObject({
      timeoutSeconds: 5,
      withinSeconds: 5,
    });
  });

  test("changes nothing of a VM but its checks", () => {
    const { health: before, ...rest } = vmOf(one({}));
    const { health: after, ...same } = vmOf(one({ health: { a: { tcp: 1 } } }));
    expect(same).toEqual(rest);
    expect([before, after]).toEqual([[], [expect.objectContaining({ name: "a" })]]);
  });
});

describe("layers of health checks", () => {
  const layered = (defaults: object, vm: object): readonly HealthCheck[] =>
    vmOf({ ...base, defaults: { ...base.defaults, health: defaults }, fleet: { web: { health: vm } } }).health;

  test("add to each other by name", () => {
    expect(layered({ a: { tcp: 1 } }, { b: { tcp: 2 } })).toMatchObject([{ port: 1 }, { port: 2 }]);
  });

  test("complete a check of one kind, down to its request", () => {
    const lower = { a: { http: { port: 8080, path: "/old" }, timeout: "4s" } };
    expect(layered(lower, { a: { http: { path: "/new" } } })).toMatchObject([
      { port: 8080, path: "/new", timeoutSeconds: 4 },
    ]);
    expect(layered(lower, { a: { within: "30s" } })).toMatchObject([{ path: "/old", withinSeconds: 30 }]);
  });

  test("replace a check by one of another kind", () => {
    const lower = { a: { http: { port: 8080 }, address: "10.0.0.1", timeout: "4s" } };
    expect(layered(lower, { a: { command: "true" } })).toEqual([
      { name: "a", kind: "command", command: "true", timeoutSeconds: 10, withinSeconds: 60 },
    ]);
  });

  test("take an inherited one away with null, also in the midst of others", () => {
    expect(layered({ a: { tcp: 1 }, b: { tcp: 2 } }, { a: null })).toMatchObject([{ name: "b" }]);
    expect(layered({}, { a: null })).toEqual([]);
  });

  test("reach every member of a group", () => {
    const config = { ...base, groups: { w: { count: 2, health: { a: { tcp: 1 } } } } };
    expect(planOf(config).vms.map(({ health }) => health.length)).toEqual([1, 1]);
  });
});

describe("mistakes in health checks", () => {
  type Row = [what: string, health: unknown, text: string, vm?: object];
  const rows: Row[] = [
    ["a list", [{ tcp: 1 }], "fleet.web.health: this list is not a map; allowed: a map from names to checks"],
    ["a check that is a text", { a: "true" }, 'fleet.web.health.a: "true" is not a map; allowed: a map with command'],
    ["nothing to ask for", { a: { within: "1m" } }, "fleet.web.health.a: asks for nothing; allowed: one of command"],
    ["two kinds", { a: { tcp: 1, command: "true" } }, "fleet.web.health.a: asks for command and tcp at once"],
    ["an unknown kind", { a: { htpp: {} } }, "fleet.web.health.a.htpp: is not a known key, did you mean http?"],
    ["port 0", { a: { tcp: 0 } }, "fleet.web.health.a.tcp: 0 is not a port; allowed: a whole number from 1 to 65535"],
    ["a port in quotes", { a: { http: { port: "80" } } }, 'health.a.http.port: "80" is not a port'],
    ["an empty command", { a: { command: " " } }, 'health.a.command: " " is not a command; allowed: a command for'],
    ["a NUL in a command", { a: { command: "a\0b" } }, "fleet.web.health.a.command"],
    ["a relative path", { a: { http: { path: "health" } } }, 'health.a.http.path: "health" is not a path; allowed:'],
    ["a path that ends the request line", { a: { http: { path: "/ HTTP/1.1" } } }, "health.a.http.path"],
    ["a status of two digits", { a: { http: { status: 20 } } }, "http.status: 20 is not an HTTP status; allowed:"],
    ["an empty text", { a: { http: { contains: "" } } }, 'health.a.http.contains: "" is not a text'],
    ["a host name", { a: { tcp: 1, address: "localhost" } }, 'a.address: "localhost" is not an IP address'],
    ["an address of a command", { a: { command: "true", address: "::1" } }, 'address: "::1" is for tcp and http'],
    ["no time at all", { a: { tcp: 1, timeout: "0s" } }, 'health.a.timeout: "0s" is not a duration'],
    [
      "a try longer than all tries",
      { a: { tcp: 1, timeout: "2m", within: "1m" } },
      'a.timeout: "2m" is longer than the check may take in total (1m); allowed: at most 1m, or a longer within',
    ],
    [
      "longer than the gate",
      { a: { tcp: 1, within: "2m" } },
      'a.within: "2m" is longer than gateTimeout (1m); allowed: at most 1m, or a longer gateTimeout',
      { gateTimeout: "1m" },
    ],
    ["a name with capitals", { Web: { tcp: 1 } }, 'fleet.web.health.Web: "Web" is not a name'],
  ];

  test.each(rows)("%s", (_what, health, text, vm = {}) => {
    expect(textsOf(one({ health, ...vm }))).toEqual([expect.stringContaining(text)]);
  });

  test("are told at the line that wrote them, with the VM", () => {
    const config = { ...base, defaults: { ...base.defaults, health: { a: { timeout: "1s" } } }, fleet: { web: {} } };
    expect(textsOf(config)).toEqual([expect.stringMatching(/^defaults\.health\.a: asks for nothing \(VM web\);/)]);
  });

  test("keep no other mistake from being told", () => {
    const texts = textsOf(one({ health: { a: { tcp: 0 } }, memory: "plenty" }));
    expect(texts.map((text) => text.split(": ")[0]).sort()).toEqual(["fleet.web.health.a.tcp", "fleet.web.memory"]);
  });
});

test("any health section gives checks that can be carried out, or mistakes with a path", () => {
  const port = fc.oneof({ weight: 9, arbitrary: fc.integer({ min: 1, max: 65_535 }) }, fc.constantFrom(0, 65_536));
  const kind = fc.oneof(
    fc.record({ command: fc.string({ minLength: 1 }) }),
    fc.record({ tcp: port }),
    fc.record({ http: fc.record({ port, path: fc.webPath(), contains: fc.string() }, { requiredKeys: [] }) }),
    fc.record({ command: fc.string(), tcp: port }, { requiredKeys: [] }),
  );
  const limits = fc.record(
    {
      address: fc.constantFrom("127.0.0.1", "::1", "web"),
      timeout: fc.constantFrom("1s", "30s", "5m", "6m"),
      within: fc.constantFrom("1s", "30s", "5m", "6m"),
    },
    { requiredKeys: [] },
  );
  const check = fc.tuple(kind, limits).map(([what, rest]) => ({ ...rest, ...what }));
  const health = fc.dictionary(fc.constantFrom("a", "b", "constructor", "__proto__"), fc.option(check), { maxKeys: 2 });
  let [good, bad] = [0, 0];
  fc.assert(
    fc.property(health, health, (lower, own) => {
      const config = { ...base, defaults: { ...base.defaults, health: lower }, fleet: { web: { health: own } } };
      const texts = textsOf(config);
      if (texts.length > 0) {
        bad++;
        for (const text of texts) expect(text).toMatch(/^(defaults|fleet\.web)\.health[.[].*: ./s);
        return;
      }
      good++;
      for (const check of vmOf(config).health) {
        expect(check.timeoutSeconds).toBeLessThanOrEqual(check.withinSeconds);
        expect(check.withinSeconds).toBeLessThanOrEqual(300);
        expect(own[check.name] ?? lower[check.name]).toBeTruthy();
        if (check.kind === "command") expect(check.command.trim()).not.toBe("");
        else expect(check.port).toBeGreaterThan(0);
      }
    }),
    { seed: 5, numRuns: 300 },
  );
  expect([good > 20, bad > 20]).toEqual([true, true]);
});
