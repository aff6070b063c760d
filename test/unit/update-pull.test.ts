// Who brings a new system: the program an image, or the guest itself what it pulls; and that the two do not fight.
import { identityOf, PRESETS, seedFiles } from "../../components/plan";
import { diffGuest } from "../../provider/diff";
import { applyGuest, readGuest } from "../../provider/lifecycle";
import type { Props } from "../../provider/inputs";
import { one, planOf, sshKey, textsOf, vmOf } from "./plan-support";
import { Scene, want } from "./provider-fake";

const FLAKE = "git+https://forge.example/fleet?ref=main#vm";
const zvm = (update?: unknown) =>
  one({ preset: "zvm", userKeys: [sshKey], ...(update === undefined ? {} : { update }) });
const seedOf = (config: unknown): unknown => {
  const { userData } = seedFiles(vmOf(config), identityOf("0123456789abcdef".repeat(4), "web"));
  return (JSON.parse(userData.replace("#cloud-config\n", "")) as { nixvm: { update?: unknown } }).nixvm.update;
};

describe("the way to update", () => {
  test.each(PRESETS)("of preset %s is an image, but for zvm (C-20)", (preset) => {
    expect(vmOf(one({ preset })).update.mode).toBe(preset === "zvm" ? "pull" : "image");
    expect(vmOf(one({ preset, update: "image" })).update).toEqual({ mode: "image" });
    expect(seedOf(one({ preset, update: "image" }))).toBeUndefined();
  });

  test("is refused as pull where nothing can be written (C-20)", () => {
    expect(textsOf(one({ update: "pull" })).join()).toContain("needs a writable system, and rootMode is readonly");
    const sealed = textsOf(one({ preset: "workbench", store: "image", update: "pull" })).join();
    expect(sealed).toContain("needs a writable store, and store is image");
    expect(textsOf(one({ preset: "workbench", store: "partition", update: "pull" }))).toEqual([]);
  });

  test("is once an hour unless the stack file says otherwise (V-30)", () => {
    expect(seedOf(zvm({ mode: "pull", flake: FLAKE }))).toEqual({ mode: "pull", flake: FLAKE, everySeconds: 3600 });
    expect(seedOf(zvm({ mode: "pull", flake: FLAKE, every: "1m" }))).toMatchObject({ everySeconds: 60 });
    const [text, ...others] = textsOf(zvm({ mode: "pull", flake: FLAKE, every: "59s" }));
    expect(others).toEqual([]);
    expect(text).toMatch(/fleet\.web\.update\.every.*"59s".*is too short.*1m to 24h/s);
  });

  test("takes its address from the stack file; none is built in, and a missing one is said (V-37, V-38)", () => {
    expect(seedOf(zvm({ mode: "pull", flake: FLAKE }))).toMatchObject({ flake: FLAKE });
    const about = (config: unknown) => planOf(config).warnings.filter(({ path }) => path === "fleet.web.update.flake");
    expect(about(zvm({ mode: "pull", flake: FLAKE }))).toEqual([]);
    for (const config of [zvm(), zvm("pull"), zvm({ mode: "pull", every: "2h" })]) {
      expect(seedOf(config)).toMatchObject({ flake: null });
      expect(about(config)).toHaveLength(1);
    }
    expect(about(one({}))).toEqual([]);
  });
});

describe("a guest that has updated itself", () => {
  const inputs: Props = { ...want };
  let scene: Scene;
  let first: Props;
  const pulled = (state: string, staged = "") => ({
    mode: "pull",
    state,
    reason: "",
    running: `/nix/store/${state}-system`,
    staged,
  });
  /** What a refresh sees and a preview makes of it. */
  async function preview(): Promise<string[]> {
    const found = await readGuest(want, first, scene.deps);
    const { replaces, updates, drift } = diffGuest(found?.inputs ?? {}, { ...inputs }, found?.outputs);
    return [...replaces, ...updates, ...drift];
  }
  beforeEach(async () => {
    scene = new Scene();
    scene.libvirt.status!["update"] = pulled("current");
    first = await applyGuest(want, 0, scene.deps);
  });

  test.each<[string, () => void]>([
    ["while it runs", () => (scene.libvirt.status!["update"] = pulled("switched"))],
    [
      "for the next start",
      () => Object.assign(scene.libvirt.status!, { update: pulled("staged", "/nix/store/b"), rebootPending: true }),
    ],
    [
      "and was restarted by a person",
      () =>
        Object.assign(scene.libvirt.status!, {
          update: pulled("current"),
          bootId: "boot-2",
          bootedAt: "2026-01-02T00:00:00Z",
        }),
    ],
    ["in vain, as the source was away", () => (scene.libvirt.status!["update"] = pulled("failed"))],
  ])("%s is as the program wants it (V-43)", async (_what, change) => {
    change();
    expect(await preview()).toEqual([]);
  });

  test("passes the gate of the next change, which looks at the image alone (V-43)", async () => {
    Object.assign(scene.libvirt.status!, { update: pulled("staged", "/nix/store/b"), rebootPending: true });
    const outputs = await applyGuest({ ...want, stopTimeoutSeconds: 90 }, 0, scene.deps);
    expect(outputs).toMatchObject({ healthy: true, imageId: "image-2" });
    expect(scene.warnings).toEqual(["the update /nix/store/b takes effect only when it restarts"]);
  });

  test("is still not free to run another image: that one is the program's (V-43)", async () => {
    Object.assign(scene.libvirt.status!, { update: pulled("switched"), imageId: "image-1" });
    expect(await preview()).toEqual(["imageId"]);
  });
});
