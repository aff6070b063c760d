import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import fc from "fast-check";
import { buildFlake, type BuildOptions } from "../../cli/flakeBuild";
import { buildImages, parseBuildHost } from "../../cli/imageBuild";
import { unusedCache } from "../../cli/imageCache";
import { listedImage, packageDiff, packageDiffText } from "../../cli/imageDiff";
import { type BaseVolume, hostImages, unusedBases } from "../../cli/hostImages";
import { imageViews } from "../../cli/imageList";
import { profilesOf } from "../../cli/profiles";
import type { Context } from "../../cli/context";
import type { StateResource } from "../../cli/fleet";
import { inputsDigest, lastBuilt, parseFlake } from "../../components/flakes";
import { resolveImages } from "../../components/images";
import { diffPackages, packagesOf, rememberedPackages } from "../../components/packageLists";
import { config as fleetConfig, image, planned } from "../helpers/fleets";

// Many short processes, and a machine may be busy.
jest.setTimeout(60_000);

const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm image verbs "));
const oldPath = process.env.PATH;
afterAll(() => {
  process.env.PATH = oldPath;
  fs.rmSync(dir, { recursive: true, force: true });
});

let root: string;
let log: string;
let notes: string[];
beforeEach(() => {
  root = fs.mkdtempSync(path.join(dir, "project "));
  log = path.join(root, "calls");
  notes = [];
  for (const part of ["bin", "nix/profiles", "stacks"]) fs.mkdirSync(path.join(root, part), { recursive: true });
  fs.writeFileSync(path.join(root, "nix/flake.nix"), "{ }");
  fs.writeFileSync(path.join(root, "nix/flake.lock"), "1");
  for (const profile of ["base", "core", "docker"]) {
    fs.writeFileSync(path.join(root, `nix/profiles/${profile}.nix`), `# What ${profile} is (T-80). More.\n{ }\n`);
  }
  process.env.PATH = `${path.join(root, "bin")}:${oldPath}`;
  // Nix as it is seen from outside: it prints the path of what it has built, which depends on the content of the flake only.
  script(
    "nix",
    `printf '%s\\n' "$*" >> '${log}'
    for arg; do last=$arg; done
    folder=\${last#path:}; folder=\${folder%#*}; attr=\${last##*#}
    [ "$attr" != broken ] || { echo 'error: attribute broken is missing' >&2; exit 1; }
    sum=$(cat "$folder"/flake.lock 2> /dev/null | cksum | cut -d' ' -f1)
    out='${root}'/store/$sum-$attr
    mkdir -p "$out"
    [ "$attr" = empty ] || { truncate -s 1M "$out/$attr.raw"; printf '\\125\\252' | dd of="$out/$attr.raw" bs=1 seek=510 conv=notrunc status=none; }
    printf '%s' "$sum" | dd of="$out/$attr.raw" bs=1 seek=4096 conv=notrunc status=none
    [ "$attr" != empty ] || rm -f "$out/$attr.raw"
    echo '{ "schema": 1, "id": "nixvm-'$attr'-'$sum'", "version": "1", "contract": 1, "rootModes": ["readonly"] }' > "$out/$attr.json"
    echo '{ "schema": 1, "kind": "nix", "paths": ["/nix/store/'$(printf %032d $sum)'-bash-5.2"] }' > "$out/$attr.packages.json"
    chmod a-w "$out"/*
    echo "$out"`,
  );
});

function script(name: string, text: string): void {
  fs.writeFileSync(path.join(root, "bin", name), `#!/bin/bash\nset -e\n${text}\n`, { mode: 0o755 });
}

const calls = (): string[] => (fs.existsSync(log) ? fs.readFileSync(log, "utf8").trim().split("\n") : []);
const cacheDir = (): string => path.join(root, ".nixvm", "cache");
const options = (more: Partial<BuildOptions> = {}): BuildOptions => ({
  cacheDir: cacheDir(),
  force: false,
  signal: new AbortController().signal,
  note: (line) => notes.push(line),
  ...more,
});
/** What the verbs use of a context, on a project of this test. */
const context = (config: Record<string, unknown> = {}, resources: StateResource[] = []): Context =>
  ({
    root,
    signal: new AbortController().signal,
    note: (line: string) => notes.push(line),
    path: (given: string) => path.resolve(root, given),
    config: () => Promise.resolve(config),
    resources: () => Promise.resolve(resources),
    stackFile: () => Promise.resolve({ get: () => config.images }),
  }) as unknown as Context;

describe("a flake", () => {
  test("is built once for the same files, and again when one of them changes (T-27)", async () => {
    const flake = parseFlake("./nix#core", root);
    const first = await buildFlake(flake, options());
    expect(first).toMatchObject({ made: true, record: { file: expect.stringMatching(/-core\/core\.raw$/) } });
    expect(calls()).toHaveLength(1);
    expect((await buildFlake(flake, options())).made).toBe(false);
    expect(calls()).toHaveLength(1);
    expect((await buildFlake(flake, options({ force: true }))).made).toBe(true);
    fs.writeFileSync(path.join(root, "nix/flake.lock"), "2");
    const second = await buildFlake(flake, options());
    expect(second.made).toBe(true);
    expect(second.record.storePath).not.toBe(first.record.storePath);
    expect(calls()).toHaveLength(3);
    // An image that Nix's garbage collection took is no image.
    fs.rmSync(path.join(root, "store"), { recursive: true });
    expect(await lastBuilt(flake, cacheDir())).toBeUndefined();
    expect((await buildFlake(flake, options())).made).toBe(true);
  });

  test("in a repository has the files that git tracks, as they lie there", async () => {
    const git = (...args: string[]) =>
      execFileSync("git", ["-C", root, "-c", "user.name=t", "-c", "user.email=t@t", ...args]);
    git("init", "-q");
    git("add", "nix");
    const flake = parseFlake("./nix#core", root);
    const before = await inputsDigest(flake);
    fs.writeFileSync(path.join(root, "nix/notes"), "not tracked");
    fs.writeFileSync(path.join(root, "outside"), "not of the flake");
    expect(await inputsDigest(flake)).toBe(before);
    git("add", "nix/notes");
    const tracked = await inputsDigest(flake);
    expect(tracked).not.toBe(before);
    fs.chmodSync(path.join(root, "nix/notes"), 0o755);
    expect(await inputsDigest(flake)).not.toBe(tracked);
  });

  test("that was not built is refused with the verb that builds it; one that has changed since is a warning", async () => {
    const sources = { core: { flake: "./nix#core" } };
    const resolve = () => resolveImages(sources, { projectDir: root, cacheDir: cacheDir(), history: [] });
    const none = await resolve();
    expect(none.problems).toEqual([
      expect.objectContaining({
        path: "images.core.flake",
        allowed: expect.stringContaining('"nixvm image build core"'),
      }),
    ]);
    await buildImages(context({ images: sources }), [], { force: false });
    const built = await resolve();
    expect(built).toMatchObject({ problems: [], warnings: [], images: { core: { format: "raw", version: "1" } } });
    fs.writeFileSync(path.join(root, "nix/profiles/own.nix"), "{ }");
    const stale = await resolve();
    expect(stale.images).toEqual(built.images);
    expect(stale.warnings).toEqual([
      expect.objectContaining({ path: "images.core.flake", message: expect.stringContaining("has changed since") }),
    ]);
  });

  test("that fails says the end of what Nix said, and the image before stays", async () => {
    await buildFlake(parseFlake("./nix#core", root), options());
    await expect(buildFlake(parseFlake("./nix#broken", root), options())).rejects.toThrow(
      /attribute broken is missing/,
    );
    await expect(buildFlake(parseFlake("./nix#empty", root), options())).rejects.toThrow(/is no image: one \.qcow2/);
    await expect(buildFlake(parseFlake("./stacks#core", root), options())).rejects.toMatchObject({ code: 2 });
    expect(await lastBuilt(parseFlake("./nix#core", root), cacheDir())).toBeDefined();
  });

  test("without Nix is one line that names the ways out, and no failure of the program", async () => {
    process.env.PATH = path.join(root, "bin");
    fs.rmSync(path.join(root, "bin/nix"));
    await expect(buildFlake(parseFlake("github:owner/repo#image", root), options())).rejects.toMatchObject({
      code: 3,
      message: expect.stringMatching(/nix is not on the PATH.*install it, or name a build host/),
    });
  });

  test("is built on a build host over one SSH connection, with its key in no file and no argument (T-27)", async () => {
    const keyFile = path.join(root, "key");
    execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", keyFile]);
    const privateKey = fs.readFileSync(keyFile, "utf8");
    fs.rmSync(keyFile);
    const said = path.join(root, "ssh");
    script(
      "ssh",
      `{ printf '%s ' "$@"; echo; ssh-add -l; grep -rlF "$(sed -n 2p '${root}/needle')" "$(dirname "$SSH_AUTH_SOCK")" || true; } >> '${said}'
      for arg; do last=$arg; done
      cd /; exec sh -c "$last"`,
    );
    fs.writeFileSync(path.join(root, "needle"), privateKey);
    const on = { host: "builder.example", user: "nix", port: 2200, privateKey };
    const { record } = await buildFlake(parseFlake("./nix#core", root), options({ on }));
    expect(record).toMatchObject({ builtOn: "nix@builder.example", storePath: expect.stringMatching(/-core$/) });
    expect(record.file).toContain(path.join(".nixvm", "cache", "flakes"));
    const text = fs.readFileSync(said, "utf8");
    expect(text).toMatch(/^-p 2200 -o BatchMode=yes -T -- nix@builder\.example sh -c /);
    expect(text).toMatch(/\(ED25519\)\s*$/);
    expect(text).not.toContain(privateKey.split("\n")[1]);
    // The host has built from the files, and its image is one here.
    expect(calls()).toEqual([
      expect.stringMatching(/build --print-out-paths --no-link --no-write-lock-file path:\S+\/source#core$/),
    ]);
    const { images, problems } = await resolveImages(
      { core: { flake: "./nix#core" } },
      { projectDir: root, cacheDir: cacheDir(), history: [] },
    );
    expect([problems, images.core?.id]).toEqual([[], expect.stringMatching(/^nixvm-core-/)]);
    // The next one takes the place of the former one.
    fs.writeFileSync(path.join(root, "nix/flake.lock"), "2");
    const next = await buildFlake(parseFlake("./nix#core", root), options({ on }));
    expect([fs.existsSync(record.file), fs.existsSync(next.record.file)]).toEqual([false, true]);
  });

  test("a build host that refuses is said in its own words, and leaves nothing behind", async () => {
    script("ssh", "echo 'Permission denied (publickey).' >&2; exit 255");
    const flake = parseFlake("./nix#core", root);
    await expect(buildFlake(flake, options({ on: { host: "b" } }))).rejects.toThrow(/on b failed.*Permission denied/);
    expect(fs.readdirSync(path.join(cacheDir(), "flakes", flake.key))).toEqual([]);
  });
});

describe("image build", () => {
  test("builds profile core by default, another by name, all of them on request (T-27, T-28)", async () => {
    const built = async (names: string[], choice: object) =>
      (await buildImages(context(), names, { force: false, ...choice })).map(({ name }) => name);
    expect(await built([], {})).toEqual(["core"]);
    expect(await built([], { profile: true })).toEqual(["core"]);
    expect(await built([], { profile: "docker" })).toEqual(["docker"]);
    expect(await built([], { allProfiles: true })).toEqual(["base", "core", "docker"]);
    expect(calls().map((line) => line.replace(/.*#/, ""))).toEqual(["core", "docker", "base"]);
    await expect(built([], { profile: "nope" })).rejects.toMatchObject({
      code: 2,
      message: expect.stringContaining("base, core, docker"),
    });
    await expect(built(["x"], { profile: "core" })).rejects.toMatchObject({ code: 2 });
  });

  test("a profile of one's own is one added file: it is listed, built, and used by an image (T-29, T-87)", async () => {
    fs.writeFileSync(path.join(root, "nix/profiles/mine.nix"), "# My own.\n{ imports = [ ./core.nix ]; }\n");
    expect(profilesOf(root).map(({ name, about }) => [name, about])).toEqual([
      ["base", "What base is."],
      ["core", "What core is."],
      ["docker", "What docker is."],
      ["mine", "My own."],
    ]);
    await buildImages(context(), [], { profile: "mine", force: false });
    const sources = { own: { flake: "./nix#mine" } };
    const { images, problems } = await resolveImages(sources, { projectDir: root, cacheDir: cacheDir(), history: [] });
    expect([problems, images.own?.id]).toEqual([[], expect.stringContaining("nixvm-mine-")]);
  });

  test("one image that fails does not keep the others from being built", async () => {
    const images = { bad: { flake: "./nix#broken" }, good: { flake: "./nix#core" }, file: { path: "x.qcow2" } };
    await expect(buildImages(context({ images }), [], { force: false })).rejects.toThrow(
      /1 of 2 images were not built \(built: good\):\nbad: /,
    );
    const named = (...names: string[]) => buildImages(context({ images }), names, { force: false });
    expect((await named("good")).map(({ made }) => made)).toEqual([false]);
    await expect(named("file")).rejects.toMatchObject({
      code: 2,
      message: expect.stringContaining("is not built of a flake"),
    });
    await expect(named("other")).rejects.toMatchObject({
      code: 2,
      message: expect.stringContaining("allowed: bad, good"),
    });
  });

  test("a build host is read as user, host and port, and nothing else", () => {
    expect(parseBuildHost("nix@builder:2200")).toEqual({ host: "builder", user: "nix", port: 2200 });
    expect(parseBuildHost("[fd00::1]:22")).toEqual({ host: "fd00::1", port: 22 });
    for (const wrong of ["", "-oProxyCommand=x", "a b", "host:0", "host:70000", "@host", "u@"]) {
      expect(() => parseBuildHost(wrong)).toThrow(/is not a build host/);
    }
    fc.assert(
      fc.property(fc.string(), (text) => {
        try {
          expect(parseBuildHost(text).host).toMatch(/^[A-Za-z0-9.:_-]+$/);
          expect(text.startsWith("-")).toBe(false);
        } catch (error) {
          expect((error as { code?: number }).code).toBe(2);
        }
      }),
    );
  });
});

describe("packages", () => {
  const nix = (...paths: string[]) =>
    packagesOf(
      JSON.stringify({ schema: 1, kind: "nix", paths: paths.map((name) => `/nix/store/${"a".repeat(32)}-${name}`) }),
    );

  test("of a closure have names and versions as Nix splits them, and several versions of one", () => {
    expect([...nix("bash-5.2-p37", "bash-5.3", "systemd-minimal-257.1", "unit-sshd.service", "source")]).toEqual([
      ["bash", ["5.2-p37", "5.3"]],
      ["source", [""]],
      ["systemd-minimal", ["257.1"]],
      ["unit-sshd.service", [""]],
    ]);
  });

  test("of two images are told apart: what came, what went, what has another version", () => {
    expect(diffPackages(nix("a-1", "b-1", "c-1"), nix("b-2", "c-1", "d-1"))).toEqual({
      added: [{ name: "d", versions: ["1"] }],
      removed: [{ name: "a", versions: ["1"] }],
      changed: [{ name: "b", from: ["1"], to: ["2"] }],
    });
    const names = fc.array(fc.tuple(fc.constantFrom("a", "b", "c", "d"), fc.constantFrom("1", "2", "3")));
    fc.assert(
      fc.property(names, names, (from, to) => {
        const [one, other] = [from, to].map((pairs) => nix(...pairs.map(([name, version]) => `${name}-${version}`)));
        const there = diffPackages(one!, other!);
        const back = diffPackages(other!, one!);
        expect([there.added, there.changed.length]).toEqual([back.removed, back.changed.length]);
        expect(diffPackages(one!, one!)).toEqual({ added: [], removed: [], changed: [] });
      }),
    );
  });

  test("an image that was built anew can still be compared with the one before, by digest and by id", async () => {
    const images = { core: { flake: "./nix#core" } };
    const on = context({ images });
    const resolve = () => resolveImages(images, { projectDir: root, cacheDir: cacheDir(), history: [] });
    await buildImages(on, [], { force: false });
    const before = (await resolve()).images.core!;
    fs.writeFileSync(path.join(root, "nix/flake.lock"), "2");
    script("nix", fs.readFileSync(path.join(root, "bin/nix"), "utf8").replace("bash-5.2", "bash-5.3"));
    await buildImages(on, [], { force: false });
    await resolve();
    expect(await rememberedPackages(cacheDir())).toHaveLength(2);
    for (const name of [before.digest, before.digest.slice(0, 12), before.id!]) {
      const diff = packageDiff(await listedImage(on, name), await listedImage(on, "core"));
      expect(packageDiffText(diff)).toBe("~ bash 5.2 -> 5.3\n1 changed, 0 added, 0 removed");
    }
  });

  test("an image without a list is a state that says why, an unknown one a mistake that names those there are", async () => {
    fs.writeFileSync(path.join(root, "cloud image.qcow2"), "");
    const on = context({ images: { core: { path: "none.qcow2" } } });
    await expect(listedImage(on, "cloud image.qcow2")).rejects.toMatchObject({
      code: 3,
      message: expect.stringContaining("cloud image.packages.json"),
    });
    await expect(listedImage(on, "0123456789ab")).rejects.toMatchObject({ code: 3 });
    await expect(listedImage(on, "core")).rejects.toMatchObject({ code: 3 });
    await expect(listedImage(on, "web")).rejects.toMatchObject({
      code: 2,
      message: expect.stringContaining("allowed: core"),
    });
    fs.writeFileSync(path.join(root, "cloud image.packages.json"), "{}");
    const broken = await listedImage(on, "cloud image.qcow2");
    expect(() => packageDiff(broken, broken)).toThrow(/not of schema 1/);
  });
});

describe("image prune", () => {
  const base = (digest: string, usedBy: string[] = []): BaseVolume => {
    const name = `nixvm-test-base-${digest}.qcow2`;
    return { host: "local", name, path: `/pool & co/${name}`, digest, bytes: 10, usedBy };
  };
  const [a, b, c, d, e] = ["a", "b", "c", "d", "e"].map((digit) => digit.repeat(12)) as [
    string,
    string,
    string,
    string,
    string,
  ];

  test("removes a base that neither the state, nor an overlay, nor the kept images know, and says why others stay", () => {
    const volume = (digest: string, more: object = {}): StateResource => ({
      urn: `urn:pulumi:test::nixvm::libvirt:index/volume:Volume::base-local-${digest}-volume`,
      type: "libvirt:index/volume:Volume",
      id: base(digest).path,
      ...more,
    });
    const found = unusedBases(
      [{ host: "local", bases: [base(a), base(b, ["other-overlay"]), base(c), base(d), base(e)] }],
      [volume(a), volume(d, { delete: true })],
      [{ digest: c.padEnd(64, "c"), format: "qcow2", hosts: ["local"] }],
    );
    expect(found.unused.map(({ digest }) => digest)).toEqual([e]);
    expect(found.kept.map(({ base, why }) => [base.digest, why])).toEqual([
      [a, "in the stack's state"],
      [b, "used by other-overlay"],
      [c, "kept by rollout.keepImages"],
      [d, "the next run removes it"],
    ]);
  });

  test("sees what stands on a base in overlays and domains of anybody, and bases of this stack only", async () => {
    const volumes = [a, b, c].map((digest) => base(digest)).map(({ name, path }) => ({ name, path }));
    const others = ["nixvm-test-web-base-0123456789ab.raw", "nixvm-test2-base-aaaaaaaaaaaa.qcow2", "by hand.qcow2"];
    const xml: Record<string, string> = {
      "/p/by hand.qcow2": `<backingStore><path>/pool &amp; co/nixvm-test-base-${a}.qcow2</path></backingStore>`,
    };
    const libvirt = {
      volumes: () => Promise.resolve([...volumes, ...others.map((name) => ({ name, path: `/p/${name}` }))]),
      volumeXml: (path: string) => Promise.resolve(xml[path] ?? "<volume/>"),
      volumeSizes: () => Promise.resolve({ capacity: 20, allocation: 10 }),
      domains: () => Promise.resolve([{ uuid: "u", name: "foreign" }]),
      xml: () => Promise.resolve(`<source file='/pool &amp; co/nixvm-test-base-${b}.qcow2'/>`),
    };
    const on = { libvirt: () => libvirt } as unknown as Context;
    const [host] = await hostImages(on, planned(fleetConfig(["web"])));
    expect(host?.bases.map(({ digest, usedBy }) => [digest, usedBy])).toEqual([
      [a, ["by hand.qcow2"]],
      [b, ["foreign"]],
      [c, []],
    ]);
  });

  test("takes from the cache what no stack file of the project names, and what a dead process left", async () => {
    const put = (name: string): string => {
      const file = path.join(cacheDir(), name);
      fs.mkdirSync(path.dirname(file), { recursive: true });
      fs.writeFileSync(file, "x");
      return file;
    };
    const sha = "ab".repeat(32);
    put(`downloads/${sha}-os.qcow2.zst`);
    // Its unpacked form is known by the digest of what it was unpacked of.
    const unpacked = `2d711642b726b044-${sha}-os.qcow2`;
    put(`unpacked/${unpacked}`);
    put(`downloads/x.part-${process.pid}`);
    const gone = [put("downloads/0000-old.qcow2"), put("downloads/y.part-999999999"), put("unpacked/0000-old.qcow2")];
    await buildImages(context(), [], { allProfiles: true, force: false });
    const stack = (name: string, images: object) =>
      fs.writeFileSync(
        path.join(root, `stacks/Pulumi.${name}.yaml`),
        JSON.stringify({ config: { "nixvm:images": images } }),
      );
    stack("one", { os: { url: "https://example.org/os.qcow2.zst", sha256: sha } });
    stack("two", { core: { flake: "./nix#core" } });
    const found = (await unusedCache(root)).map((entry) =>
      path.relative(cacheDir(), entry.path).replace(/-[0-9a-f]{12}$/, ""),
    );
    expect(found.sort()).toEqual(
      [...gone.map((file) => path.relative(cacheDir(), file)), "flakes/base", "flakes/docker"].sort(),
    );
    fs.writeFileSync(path.join(root, "stacks/Pulumi.bad.yaml"), "a: [");
    await expect(unusedCache(root)).rejects.toMatchObject({ code: 3 });
  });
});

test("image list has each image once: where it is, who uses it, what is kept, what failed", () => {
  const [a, b, c] = ["a", "b", "c"].map((digit) => digit.repeat(12)) as [string, string, string];
  const views = imageViews({
    declared: {
      images: { os: image("a"), same: image("a") },
      remarks: { far: ["is not downloaded yet"], os: ["has changed"] },
    },
    history: [{ digest: "b".repeat(64), format: "qcow2", hosts: ["local"], version: "v-b" }],
    hosts: [
      {
        host: "local",
        bases: [a, b, c].map((digest) => ({ host: "local", name: "", path: "", digest, bytes: 5, usedBy: [] })),
      },
      { host: "far", bases: [], problem: "does not answer" },
    ],
    vms: [
      { name: "web", imageDigest: a, quarantined: [c] },
      { name: "db", imageDigest: b, quarantined: [] },
    ] as never,
  });
  expect(
    views.map(({ digest, names, hosts, usedBy, status, quarantined, remarks }) => [
      digest,
      names,
      hosts.length,
      usedBy,
      status,
      quarantined,
      remarks,
    ]),
  ).toEqual([
    [a, ["os", "same"], 1, ["web"], "declared", [], ["has changed"]],
    [b, [], 1, ["db"], "kept", [], []],
    [c, [], 1, [], "left", ["web"], []],
    ["", ["far"], 0, [], "declared", [], ["is not downloaded yet"]],
  ]);
});
