// Made-up input for what reads a seed in the guest. A seed is taken as a whole or not at all, and nothing that it says breaks a script. The
// inputs are the same in each run; those for the list in a stack file are in allowlist.test.ts.
import { spawn } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import fc from "fast-check";
import { identityOf, PRESETS, seedDigest, type SeedFiles, seedFiles } from "../../components/plan";
import { kept } from "./allowlist-table";
import { guestDir, Sandbox } from "./guest-sandbox";
import { one, sshKey, vmOf } from "./plan-support";

const SEED = 4;
const identity = identityOf("ab".repeat(32), "web");
const lan = { networks: { lan: { subnet: "192.168.77.0/24" } } };
const keys = { adminKeys: [sshKey], userKeys: [sshKey] };

const good: SeedFiles[] = [
  ...PRESETS.map((preset) => ({
    preset,
    ...keys,
    udpPorts: [53],
    network: { network: "lan", address: "192.168.77.9" },
  })),
  ...kept.map(({ list }) => ({
    preset: "sealed",
    persist: {},
    accounts: ["zvm", "ann"].map((name) => ({ name, role: "user" })),
    allowlist: list,
  })),
].map((vm) => seedFiles(vmOf(one(vm, lan)), identity));

// --- what is done to a good seed

const odd = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.constantFrom<unknown>(
      ...[undefined, null, true, false, 0, -1, 1.5, 22, 65536, 1e300, [], {}, [null], [[]], [{}], { path: "/a" }],
      ...[
        "",
        "x",
        "..",
        "/",
        "/etc",
        "/srv/a",
        "/srv/a/b",
        "/srv/../b",
        "/srv//a",
        "srv",
        "/persist/x",
        "a\tb",
        "a\nb",
        "\0",
        "\u0001",
        "\u007f",
      ],
      ...[
        "é",
        "😀",
        "\\",
        '"',
        "'",
        "$(reboot)",
        "`reboot`",
        "--",
        "root",
        "root:x",
        "0755",
        "0999",
        "symlink",
        "file",
        "$6$a b",
        "x".repeat(5000),
      ],
    ),
  },
  { weight: 1, arbitrary: fc.jsonValue({ maxDepth: 2 }) },
);

/** Replaces the value at the n-th place of a tree; a name may be taken twice, an item doubled. */
function mutate(tree: unknown, n: number, value: unknown): unknown {
  const places: [Record<string, unknown>, string][] = [];
  const walk = (node: unknown): void => {
    if (typeof node !== "object" || node === null) return;
    for (const key of Object.keys(node)) {
      places.push([node as Record<string, unknown>, key]);
      walk((node as Record<string, unknown>)[key]);
    }
  };
  walk(tree);
  const place = places[n % Math.max(places.length, 1)];
  if (place === undefined) return tree;
  const [parent, key] = place;
  if (Array.isArray(parent) && n % 3 === 0) parent.push(structuredClone(parent[Number(key)]));
  else parent[key] = structuredClone(value);
  return tree;
}

const damage = fc.record({
  at: fc.nat(),
  length: fc.integer({ min: 0, max: 40 }),
  text: fc.constantFrom(
    "",
    '"',
    "{",
    "}",
    "[",
    ",",
    ":",
    "\\",
    "\\u0000",
    "\\ud800",
    "\0",
    "\u0001",
    "\t",
    "\n",
    "#",
    "1",
    "null",
    "é",
  ),
});
const spoilt = fc
  .record({
    from: fc.constantFrom(...good),
    changes: fc.array(fc.tuple(fc.nat(), odd), { maxLength: 3 }),
    which: fc.constantFrom("userData", "userData", "userData", "userData", "userData", "networkConfig", "metaData"),
    damages: fc.oneof(
      { weight: 3, arbitrary: fc.constant([]) },
      { weight: 1, arbitrary: fc.array(damage, { maxLength: 2 }) },
    ),
  })
  .map(({ from, changes, which, damages }): SeedFiles => {
    const [, head, body] = /^(#cloud-config\n)?([^]*)$/.exec(from[which])!;
    const tree = changes.reduce<unknown>((each, [at, value]) => mutate(each, at, value), JSON.parse(body!));
    let text = (head ?? "") + JSON.stringify(tree, null, changes.length);
    for (const { at, length, text: put } of damages) {
      const start = at % (text.length + 1);
      text = text.slice(0, start) + put + text.slice(start + length);
    }
    return { ...from, [which]: text };
  });

// --- running them

let box: Sandbox;
beforeEach(() => (box = new Sandbox()));
afterEach(() => box.done());

/** Runs a shell loop over numbered inputs, one process of the loop for each CPU. */
async function loop(count: number, body: string): Promise<void> {
  const workers = availableParallelism();
  const script = (worker: number) => `set -u; cd "$1" || exit 9
n=${worker}
while [ $n -lt ${count} ]; do
${body}
n=$((n + ${workers}))
done`;
  const runs = Array.from({ length: workers }, async (_, worker) => {
    const child = spawn("dash", ["-c", script(worker), "loop", box.dir], {
      stdio: ["ignore", "ignore", "pipe"],
      env: { PATH: `${process.env["PATH"]}:/usr/sbin:/sbin`, LC_ALL: "C", GUEST: guestDir },
    });
    let said = "";
    child.stderr.on("data", (data: Buffer) => (said += data.toString()));
    const code = await new Promise((resolve) => child.on("close", resolve));
    return [code, said];
  });
  // All have to have ended before one of them is judged: the folder is removed after a failure.
  expect(await Promise.all(runs)).toEqual(runs.map(() => [0, ""]));
}

const FIELDS: Record<string, number> = {
  hostname: 1,
  rootMode: 1,
  rootSize: 1,
  home: 2,
  scratch: 1,
  hostId: 1,
  machineId: 1,
  sshHostKey: 1,
};
Object.assign(FIELDS, {
  allow: 7,
  rootHash: 1,
  account: 3,
  key: 2,
  tcp: 1,
  udp: 1,
  dns: 1,
  nic: 6,
  address: 2,
  route: 4,
  nameserver: 2,
});

/** What is wrong with what a seed became: nothing, when it was refused with its faults or is there to its last item. */
function trouble(files: SeedFiles, out: string): string | undefined {
  const lines = out.split("\n");
  if (lines.pop() !== "" || lines.length === 0) return "no lines";
  // eslint-disable-next-line no-control-regex
  if (/[\u0000-\u0008\u000b-\u001f\u007f]/.test(out)) return "a control character";
  if (lines.some((line) => line.startsWith("error\t"))) {
    return lines.every((line) => /^error\t./.test(line)) ? undefined : "faults and a plan";
  }
  const count = new Map<string, number>();
  for (const line of lines) {
    const [kind, ...fields] = line.split("\t");
    count.set(kind!, (count.get(kind!) ?? 0) + 1);
    if (fields.includes("")) return `an empty field in ${line}`;
    const wanted = kind === "persist" ? (fields[0] === "none" ? 1 : 3) : kind === "update" ? 3 : FIELDS[kind!];
    if (fields.length !== wanted) return `${fields.length} fields in ${line}`;
  }
  interface Body {
    nixvm: Record<"accounts" | "tcpPorts" | "udpPorts" | "dns", unknown[] | null | undefined> & {
      allowlist?: Record<"directories" | "files", unknown[] | null | undefined> | null;
    };
  }
  const { nixvm } = JSON.parse(files.userData.replace(/^(#[^\n]*\n|[ \t]*\n)+/, "")) as Body;
  const listed = [...(nixvm.allowlist?.directories ?? []), ...(nixvm.allowlist?.files ?? [])];
  const due = {
    allow: listed.length,
    account: nixvm.accounts?.length ?? 0,
    tcp: new Set(nixvm.tcpPorts).size,
    udp: new Set(nixvm.udpPorts).size,
    dns: nixvm.dns?.length ?? 0,
  };
  for (const [kind, wanted] of Object.entries(due))
    if ((count.get(kind) ?? 0) !== wanted) return `${count.get(kind)} lines ${kind}, the seed has ${wanted}`;
  return undefined;
}

test("10,000 made-up seeds: each is refused with its faults, or becomes a plan to its last item", async () => {
  const seeds = fc.sample(spoilt, { numRuns: 10_000, seed: SEED });
  // What goes in and comes out of each, in few files: tens of thousands take longer than the reading of them.
  seeds.forEach((files, n) => {
    writeFileSync(box.path(`u${n}`), files.userData);
    if (files.metaData !== good[0]!.metaData) writeFileSync(box.path(`m${n}`), files.metaData);
    writeFileSync(box.path(`n${n}`), files.networkConfig);
  });
  box.write("m", good[0]!.metaData);
  box.write("i", JSON.stringify({ rootModes: ["readonly", "tmpfs", "persistent", "zfs-rollback"] }));
  await loop(
    seeds.length,
    `m=m; if [ -e m$n ]; then m=m$n; fi
awk -f "$GUEST/json.awk" -f "$GUEST/plan.awk" -f "$GUEST/seed.awk" u$n $m n$n i > o$n || echo "$n ended with $?" >&2`,
  );
  let taken = 0;
  const wrong = seeds.flatMap((files, n) => {
    const out = box.read(`o${n}`);
    if (!out.startsWith("error\t")) taken++;
    const what = trouble(files, out);
    return what === undefined ? [] : [{ what, out: out.slice(0, 300), files }];
  });
  expect(wrong.slice(0, 3)).toEqual([]);
  // enough of both kinds, or the test would say little
  expect(taken).toBeGreaterThan(2000);
  expect(taken).toBeLessThan(8000);
}, 600_000);

test("made-up seeds on a running guest: what is in effect is the new one, or the former to the last byte", () => {
  const before = (): Record<string, string> =>
    Object.fromEntries(
      ["run/etc", "run/ssh", "networkd"].flatMap((folder) =>
        readdirSync(box.path(folder)).map((name) => [
          `${folder}/${name}`,
          readFileSync(box.path(`${folder}/${name}`), "hex"),
        ]),
      ),
    );
  const put = (files: SeedFiles) =>
    box.medium({ "user-data": files.userData, "meta-data": files.metaData, "network-config": files.networkConfig });
  box.write("image/image.json", JSON.stringify({ rootModes: ["readonly", "tmpfs", "persistent", "zfs-rollback"] }));
  put(good[0]!);
  for (const step of [["read"], ["render"], []]) expect(box.guest("seed", ...step).code).toBe(0);
  const states = new Map<string, number>();
  for (const files of fc.sample(spoilt, { numRuns: 60, seed: SEED + 1 })) {
    const former = before();
    put(files);
    expect(box.guest("seed").code).toBe(0);
    const { state, digest, reason } = box.state("seed");
    states.set(state!, (states.get(state!) ?? 0) + 1);
    if (state === "applied") {
      expect([digest, reason]).toEqual([seedDigest(files), ""]);
    } else {
      expect(state).toBe("failed");
      expect(reason).toMatch(/\S/);
      expect(before()).toEqual(former);
      expect(digest).not.toBe(seedDigest(files));
    }
  }
  expect(states.get("applied")).toBeGreaterThan(10);
  expect(states.get("failed")).toBeGreaterThan(10);
}, 300_000);

test("500 made-up lists of plan lines: refused before anything is made, or applied to the last entry", async () => {
  const part = (...texts: string[]) => fc.constantFrom(...texts);
  const rare = fc.string({ unit: fc.constantFrom(..."/.\\ *?[]$`'\"~#-é:\u0001a"), maxLength: 6 });
  const mostly = (usual: fc.Arbitrary<string>) =>
    fc.oneof({ weight: 30, arbitrary: usual }, { weight: 1, arbitrary: rare });
  const name = mostly(part("a", "b", "c d", "é", "x\\y", "*", "$(touch x)", "-rf"));
  const line = fc
    .tuple(
      mostly(part("directory", "directory", "file")),
      fc.array(name, { minLength: 1, maxLength: 3 }).map((names) => `/srv/${names.join("/")}`),
      mostly(part("root")),
      mostly(part("root")),
      mostly(part("0755", "0700", "0644")),
      mostly(part("bindmount", "bindmount", "bindmount", "symlink")),
      mostly(part("true", "false")),
    )
    .map((fields) => ["allow", ...fields].join("\t"));
  const lists = fc.sample(fc.array(line, { minLength: 1, maxLength: 4 }), { numRuns: 500, seed: SEED });
  // Each in a root of its own.
  lists.forEach((list, n) => {
    box.write(`run${n}/seed/current/plan`, `hostname\tweb\n${list.join("\n")}\n`);
    box.write(`run${n}/state/layout`, "mount\t/persist\n");
    box.write(`run${n}/etc/passwd`, "root:x:0:0::/root:/bin/sh\n");
    box.write(`run${n}/etc/group`, "root:x:0:\n");
    mkdirSync(box.path(`r${n}/persist`), { recursive: true });
  });
  await loop(
    lists.length,
    `NIXVM_ENV=/dev/null NIXVM_KMSG=/nowhere/kmsg NIXVM_RUN="$1/run$n" NIXVM_TARGET="$1/r$n" unshare -rm dash "$GUEST/allowlist" 2> "$1/run$n/log" || echo "$n ended with $?" >&2`,
  );
  const count = { applied: 0, failed: 0 };
  lists.forEach((list, n) => {
    const read = (name: string) => box.read(`run${n}/${name}`);
    const state = Object.fromEntries(
      read("state/allowlist")
        .split("\n")
        .map((each) => each.split("\t")),
    ) as Record<string, string>;
    count[state["state"] as keyof typeof count]++;
    if (state["state"] === "applied") {
      expect([list, state]).toEqual([
        list,
        { "": undefined, state: "applied", reason: "", entries: String(list.length) },
      ]);
    } else {
      expect([list, state["reason"]]).toEqual([
        list,
        expect.stringMatching(/^the allowlist is refused, no path of it is kept: ./),
      ]);
      expect([list, readdirSync(box.path(`r${n}`), { recursive: true })]).toEqual([list, ["persist"]]);
    }
  });
  expect(Math.min(count.applied, count.failed)).toBeGreaterThan(100);
  expect(box.has("x")).toBe(false);
}, 300_000);
