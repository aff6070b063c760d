import { basesOf, layersOf, totals } from "../../cli/graphFacts";
import { graphPage } from "../../cli/graphPage";
import { escaped, Html, markup } from "../../cli/markup";
import { pendingWaves } from "../../cli/pending";
import { rowOf } from "../../cli/statusRow";
import { LibvirtError } from "../../provider/virsh";
import { AT, DIGEST, factsOf, graphOf, sampleFacts, stateVm } from "../helpers/sampleFleet";

const MIB = 2 ** 20;
const volume = (name: string, id: string, inputs: object = {}) => ({
  urn: `urn:pulumi:prod::nixvm::x$libvirt:index/volume:Volume::${name}`,
  ...{ type: "libvirt:index/volume:Volume", id, inputs: { ...inputs } },
});

describe("layers", () => {
  const [a, b, far] = [stateVm("a"), stateVm("b"), stateVm("far", { host: "attic" })];
  const facts = [factsOf(a), factsOf(b), { vm: far, at: AT, hostProblem: "no route" }];
  const look = { facts, rows: facts.map((one) => rowOf(one)) };
  const base = "/pool/base.qcow2";
  const state = [
    volume(`base-rack-1-${DIGEST.v2}-volume`, base),
    ...[a, b, far].map((vm) =>
      volume(`${vm.name}-overlay-${DIGEST.v2}-volume`, vm.overlayPath, { baseVolumeId: base }),
    ),
  ];

  test("count a base image once, however many stand on it, and are asked of no host that does not answer", async () => {
    const asked: string[] = [];
    const sizes = async (uri: string, path: string) => {
      asked.push(`${uri} ${path}`);
      return path === base ? { diskBytes: 9, usedBytes: 100 } : { diskBytes: 9, usedBytes: 1 };
    };
    const layers = await layersOf(look, state, new Map([[DIGEST.v2, "25.11.2"]]), sizes);
    expect(layers.bases).toEqual([
      { path: base, host: "rack-1", digest: DIGEST.v2, version: "25.11.2", diskBytes: 9, usedBytes: 100 },
      { path: base, host: "attic", digest: DIGEST.v2, version: "25.11.2" },
    ]);
    expect(asked.filter((one) => one.endsWith(base))).toHaveLength(1);
    expect(asked.filter((one) => one.includes("attic"))).toEqual([]);
    expect(totals(layers)).toEqual({ shared: 100, own: 6, unshared: 206 });
  });

  test("are known without their sizes where libvirt does not say them", async () => {
    const failing = () => Promise.reject(new LibvirtError("failed", "virsh vol-info: pool is not active"));
    const { vms } = await layersOf(look, state, new Map(), failing);
    expect(vms[0]).toMatchObject({ base, overlay: { path: a.overlayPath } });
    expect(vms[0]?.overlay).not.toHaveProperty("usedBytes");
  });

  test("of an overlay that no state knows stand on nothing known", async () => {
    const { vms, bases } = await layersOf(look, [], new Map(), async () => undefined);
    expect(vms.map((vm) => vm.base)).toEqual([undefined, undefined, undefined]);
    expect(bases).toEqual([]);
    expect(basesOf([volume("a-persist-volume", "/p")]).below.size).toBe(0);
  });
});

test("what is pending is VMs that are new or change their image, and no others", () => {
  const wave = { group: null, changes: false, vms: ["a"], lanes: 1 };
  expect(
    pendingWaves(
      [
        { ...wave, kind: "new", vms: ["fresh", "off"], lanes: 2 },
        { ...wave, kind: "canary", changes: true, group: "web" },
        { ...wave, kind: "batch" },
      ],
      new Set(["off"]),
    ),
  ).toEqual([
    { kind: "new", vms: ["fresh"], lanes: 1 },
    { kind: "canary", group: "web", vms: ["a"], lanes: 1 },
  ]);
  // One that is off, and is to stay so, waits for nothing.
  expect(pendingWaves([{ ...wave, kind: "new", vms: ["off"] }], new Set(["off"]))).toEqual([]);
});

describe("markup", () => {
  test("is escaped, but for what templates made", () => {
    expect(markup`<p title="${`"'<>&`}">${["<b>", markup`<i>${1}</i>`]}${undefined}</p>`.text).toBe(
      '<p title="&quot;&#39;&lt;&gt;&amp;">&lt;b&gt;<i>1</i></p>',
    );
    expect(escaped("a\u0000b")).toBe("a b");
    expect(markup`${new Html("<hr>")}`.text).toBe("<hr>");
  });
});

describe("the page", () => {
  const hostile = `"><script>window.hit=1</script><img src=x onerror=window.hit=1>'</style>`;
  const text = graphPage(graphOf(sampleFacts()));

  test("names no address that anything could be fetched from", () => {
    expect(text).not.toMatch(/\b(src|srcset|href)="(?!#)|url\(|@import|<script|<link|https?:/i);
  });

  test("has only what is escaped of what libvirt, guests and the stack file say", () => {
    const vm = {
      ...stateVm("web"),
      name: hostile,
      host: hostile,
      domain: hostile,
      overlayPath: hostile,
      seedPath: hostile,
    };
    const facts = [{ ...factsOf(vm), group: hostile }];
    const wave = { kind: "canary" as const, group: hostile, vms: [hostile], lanes: 1 };
    for (const pending of [{ waves: [wave] }, { unknown: hostile }]) {
      const page = graphPage(graphOf(facts, { pending, stack: hostile }));
      expect(page).not.toMatch(/<script|<img|onerror=window\.hit=1>'<\/style>/);
      expect(page.match(/<\/style>/g)).toHaveLength(1);
    }
  });

  test("says why it cannot be told what is pending", () => {
    const page = graphPage(graphOf(sampleFacts(), { pending: { unknown: "image x is not downloaded yet" } }));
    expect(page).toContain("What is pending cannot be told: image x is not downloaded yet");
  });

  test("counts what is shared once", () => {
    const page = graphPage({ ...graphOf([factsOf(stateVm("a")), factsOf(stateVm("b"))]), pending: { waves: [] } });
    const own = (14 + 700 + (14 + 37) + 700 + 613) * MIB + 2 * 372 * 1024;
    expect(own / 2 ** 30).toBeCloseTo(2.03, 2);
    expect(page).toContain("1.4 GiB shared, 2.0 GiB own");
    expect(page).toContain("shared by 2 VMs");
  });

  test("of a stack without VMs says so", () => {
    expect(graphPage({ stack: "new", at: AT, vms: [], bases: [], pending: { waves: [] } })).toContain("no VMs yet");
  });
});
