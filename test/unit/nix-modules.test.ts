import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import {
  evaluate,
  factsAlone,
  factsOf,
  faultsOf,
  nix,
  nixpkgs,
  nixpkgsLib,
  notEvaluated,
  onStandIns,
  preservation,
  preservationOptions,
  type Unit,
} from "./nix-support";

// The modules with nixpkgs' own module system (N1, on stand-ins for the options of NixOS) or with NixOS itself (N2).

const files = readdirSync(path.join(nix, "modules")).filter((name) => name.endsWith(".nix"));
const modules = files.filter(
  (name) =>
    /^\{[^}]*\.\.\. \}:$/m.test(readFileSync(path.join(nix, "modules", name), "utf8")) && !name.startsWith("options"),
);

/** Calls of the guest scripts in a unit of the initrd, in order. */
const calls = (unit: Unit | undefined): (string | undefined)[] =>
  [...unit!.script!.matchAll(/lib\/nixvm\/([a-z -]+) \|\|/g)].map((match) => match[1]);

const on = (text: string): string => `{ nixvm.enable = true; ${text} }`;
const zfs = 'nixvm.rootMode = "zfs-rollback"; networking.hostId = "0f1e2d3c";';

if (nixpkgs || nixpkgsLib) {
  describe("each module by itself", () => {
    const switches: Record<string, string> = {
      "ephemeral.nix": 'nixvm.rootMode = "tmpfs";',
      "hardening.nix": "nixvm.hardening.enable = true;",
      "home.nix": 'nixvm.home.mode = "tmpfs";',
      "netbird.nix": "nixvm.netbird.enable = true;",
      "persist.nix": 'nixvm.rootMode = "tmpfs";',
      "persistent.nix": 'nixvm.rootMode = "persistent";',
      "rollback.nix": zfs,
      "scratch.nix": "nixvm.scratch.enable = true;",
      "ssh.nix": "services.openssh.enable = true;",
      "updates.nix": 'nixvm.update.mode = "pull";',
      "user.nix": "nixvm.user.enable = true;",
    };
    const nothing = (): unknown => factsAlone(preservation, "./modules/options.nix", on(""));

    test("there are the five that the zvm document has (V-9)", () => {
      expect(modules).toEqual(
        expect.arrayContaining(["ephemeral.nix", "user.nix", "hardening.nix", "updates.nix", "netbird.nix"]),
      );
      expect(Object.keys(switches).filter((name) => !modules.includes(name))).toEqual([]);
    });

    test.each(modules)("%s can be imported alone (V-9)", (name) => {
      const alone = factsAlone(preservation, `./modules/${name}`, on(switches[name] ?? ""));
      expect(alone.kept).toEqual({});
      if (switches[name] !== undefined) expect(alone).not.toEqual(nothing());
    });

    test("without preservation, home-manager or libvirt, /home in memory can be had as well (P-41)", () => {
      const { fileSystems, services, initrd } = factsAlone("./modules/home.nix", on('nixvm.home.mode = "tmpfs";'));
      expect([Object.keys(fileSystems), services, initrd]).toEqual([["/home"], {}, {}]);
    });

    test("the ephemeral one is a root in memory and the allowlist, and nothing else (V-10)", () => {
      const list = 'nixvm.rootMode = "tmpfs"; nixvm.store = "partition"; nixvm.allowlist.directories = [ "/srv/x" ];';
      const { fileSystems, kept, preserved, ...rest } = factsAlone(
        preservationOptions,
        "./modules/ephemeral.nix",
        on(list),
      );
      const {
        fileSystems: none,
        kept: no,
        preserved: not,
        ...before
      } = factsAlone(preservationOptions, "./modules/options.nix", on(list));
      expect([none, no, not]).toEqual([{}, {}, false]);
      expect(rest).toEqual(before);
      expect(Object.keys(fileSystems).sort()).toEqual(["/", "/boot", "/nix", "/persist"]);
      expect([preserved, kept["/persist"]!.directories]).toEqual([true, ["/srv/x root:root 0755 bindmount"]]);
    });
  });

  describe("the image of a root that is made at each start", () => {
    const partitions = (config: string): string[] =>
      evaluate<string[]>(`${onStandIns([preservation, "./modules", on(config)])}
        lib.mapAttrsToList
          (_: { repartConfig, ... }: "\${repartConfig.Label} \${repartConfig.Format} \${repartConfig.SizeMinBytes or ""}")
          (import ./modules/image-parts.nix {
            inherit lib;
            config = lib.recursiveUpdate config {
              system = { build = { toplevel = "/toplevel"; uki = "/uki"; }; boot.loader.ukiFile = "nixos.efi"; };
            };
            pkgs = { closureInfo = _: "/closure"; writeText = name: _: name; systemd = "/systemd"; };
            modulesPath = "/modules";
            extendModules = null;
            recordFile = "/record";
            packagesFile = "/packages";
          }).partitions`);

    test("zvm has an EFI partition and one labelled nix; by itself also one labelled persist (V-51)", () => {
      const zvm = 'nixvm.rootMode = "tmpfs"; nixvm.store = "partition";';
      expect(partitions(zvm)).toEqual(["ESP vfat 1G", "nix ext4 19G"]);
      expect(partitions(`${zvm} nixvm.image.standalone = true;`)).toEqual([
        "ESP vfat 1G",
        "nix ext4 14G",
        "persist ext4 5G",
      ]);
    });

    test("the others have the store as a squashfs, found by the label of its partition", () => {
      expect(partitions('nixvm.rootMode = "tmpfs";')).toEqual(["ESP vfat 1G", "nixvm-store squashfs "]);
      expect(partitions(zfs)).toEqual(["EFI vfat 1G", "nixvm-store squashfs "]);
    });
  });

  test("every option says what it is for, with an example", () => {
    const undocumented = evaluate<string[]>(`${onStandIns([preservation, "./modules"])}
      map (option: lib.showOption option.loc) (lib.filter
        (option: !(option ? description && (option ? default) && (option ? example || option.internal or false)))
        (lib.collect lib.isOption options.nixvm))`);
    expect(undocumented).toEqual([]);
  });

  test("without nixvm.enable nothing is changed", () => {
    expect(factsAlone(preservation, "./modules")).toEqual(factsAlone(preservation, "./modules/options.nix"));
  });

  test("an unknown root mode is refused by name, a known one with what it lacks by that of the host", () => {
    expect(faultsOf(on('nixvm.rootMode = "rw";'))).toMatch(/nixvm\.rootMode.*is not of type/);
    expect(factsOf(on('nixvm.rootMode = "zfs-rollback"; networking.hostName = "db";')).refused).toContain(
      "host db: networking.hostId is null, allowed is 8 hexadecimal digits: ZFS marks an open pool with it",
    );
  });

  test.each([
    [
      "the sample host id of the manual (Z-52)",
      zfs.replace("0f1e2d3c", "a1b2c3d4"),
      /networking\.hostId is "a1b2c3d4"/,
    ],
    [
      "a password in the configuration (Z-81)",
      'users.users.root.initialPassword = "changeme";',
      /users\.users is with a password of root,/,
    ],
    [
      "swap in clear beside /home in memory (P-40)",
      'nixvm.rootMode = "persistent"; nixvm.home.mode = "tmpfs"; swapDevices = [ { device = "/dev/vdz"; } ];',
      /swapDevices is \["\/dev\/vdz"\]/,
    ],
    [
      "an update into a read-only root",
      'nixvm.update.mode = "pull";',
      /nixvm\.update\.mode is "pull", allowed is "image": nixvm\.rootMode readonly/,
    ],
    [
      "a wrong path",
      'nixvm.rootMode = "tmpfs"; nixvm.allowlist.directories = [ "x" ];',
      /nixvm\.allowlist is wrong \(directories\[0\]: "x" is not an absolute path\)/,
    ],
  ])("%s is refused", (_, config, message) => {
    const { refused } = factsOf(`({ lib, ... }: ${on(config)})`);
    expect(refused).toEqual(expect.arrayContaining([expect.stringMatching(message)]));
    for (const text of refused.filter((one) => one.startsWith("host "))) expect(text).toMatch(/^host nixos: /);
  });

  describe("the initrd", () => {
    const modes: [string, string, string[]][] = [
      ["readonly", "", ["seed read", "assemble-root", "persist", "home"]],
      ["persistent", 'nixvm.rootMode = "persistent";', ["seed read", "assemble-root", "persist", "home"]],
      ["tmpfs", 'nixvm.rootMode = "tmpfs";', ["seed read", "assemble-root", "persist", "home"]],
      ["zfs-rollback", zfs, ["persist", "home"]],
    ];

    test.each(modes)(
      "%s: the volume comes before NixOS's own activation, the seed's files and the list after it",
      (mode, config, first) => {
        const { initrd } = factsOf(on(config));
        const { "nixvm-persist": persist, "nixvm-render": render } = initrd;
        expect(calls(persist)).toEqual(first);
        expect(calls(render)).toEqual(["seed render", "allowlist"]);
        // the activation is after the first target, and part of what the second waits for
        expect(persist!.before).toEqual(expect.arrayContaining(["initrd-fs.target", "initrd.target"]));
        expect(persist!.wantedBy).toEqual(["initrd.target"]);
        expect(render!.after).toEqual(["initrd-switch-root.target", "initrd-nixos-activation.service"]);
        expect([render!.before, render!.wantedBy]).toEqual([
          ["initrd-switch-root.service"],
          ["initrd-switch-root.service"],
        ]);
        for (const unit of [persist!, render!]) {
          expect(unit.requiredBy ?? []).toEqual([]);
          expect(unit.serviceConfig!["Type"]).toBe("oneshot");
          expect(unit.script).toContain(`NIXVM_ROOT_MODE=${mode}`);
          expect(unit.script).toContain("NIXVM_ROOT_MADE=1");
          const { status, stderr } = spawnSync("bash", ["-n"], { input: unit.script, encoding: "utf8" });
          expect([status, stderr]).toEqual([0, ""]);
        }
        // Wanted and mounted whatever happens: a volume that is there is never in the way of the script that checks it.
        expect(persist!.before!.includes("sysroot-persist.mount")).toBe(mode === "tmpfs" || mode === "persistent");
      },
    );

    test("a root that never changes is open for the activation, and closed again before the system starts (T-7)", () => {
      const { "nixvm-persist": persist, "nixvm-render": render } = factsOf(on("")).initrd;
      expect(persist!.script!.trim().split("\n")[0]).toBe("mount -o remount,rw /sysroot");
      expect(render!.script!.trimEnd().split("\n").at(-1)).toBe("mount -o remount,ro /sysroot");
      expect(factsOf(on('nixvm.rootMode = "tmpfs";')).initrd["nixvm-render"]!.script).not.toContain("remount");
    });

    test("account files and the machine id become links to what the seed makes, there only", () => {
      const { etc, initrd } = factsOf(on(""));
      for (const name of ["hostname", "hosts", "resolv.conf"]) expect(etc[name]).toBe(`/run/nixvm/etc/${name}`);
      // Not in the image: the installer of the boot loader could neither read nor make a machine id behind such a link.
      expect(etc["machine-id"] ?? "").not.toContain("/run/nixvm");
      expect(initrd["nixvm-render"]!.script).toMatch(
        /^for file in passwd group shadow machine-id; do\n +ln -sfn "\/run\/nixvm\/etc\/\$file" "\/sysroot\/etc\/\$file"$/m,
      );
    });

    test("the scratch disk is set up by a oneshot before the system starts, which nothing needs (E-27, E-28)", () => {
      const { initrd, tools, initrdModules, services } = factsOf(
        on('nixvm.rootMode = "tmpfs"; nixvm.persist.mount = null; nixvm.scratch.enable = true;'),
      );
      const unit = initrd["nixvm-scratch"]!;
      expect(calls(unit)).toEqual(["scratch"]);
      expect(unit.serviceConfig!["Type"]).toBe("oneshot");
      expect([unit.wantedBy, unit.requiredBy ?? []]).toEqual([["initrd-switch-root.service"], []]);
      expect(unit.before).toEqual(["initrd-switch-root.service"]);
      expect(unit.after).toEqual(["nixvm-render.service"]);
      expect(tools).toContain("cryptsetup");
      expect(initrdModules).toEqual(expect.arrayContaining(["dm_crypt", "overlay"]));
      expect(services["nixvm-scratch"]).toBeUndefined();
      expect(factsOf(on("")).initrd["nixvm-scratch"]).toBeUndefined();
    });

    test("an image for itself has its volume mounted by systemd, at the partition of that label", () => {
      const { initrd, fileSystems } = factsOf(
        on('nixvm.rootMode = "tmpfs"; nixvm.store = "partition"; nixvm.image.standalone = true;'),
      );
      expect(calls(initrd["nixvm-persist"])).toEqual(["seed read", "assemble-root", "home"]);
      expect(initrd["nixvm-persist"]!.script).toContain("> /run/nixvm/state/persist");
      expect(fileSystems["/persist"]!.options).not.toContain("nofail");
      expect(fileSystems["/persist"]!.device).toBe("/dev/disk/by-label/persist");
    });
  });

  describe("a root on ZFS", () => {
    test("the pool is opened by the guest script, in the place of NixOS's own import", () => {
      const unit = factsOf(on(zfs)).initrd["zfs-import-rpool"]!;
      expect(calls(unit)).toEqual(["seed read", "assemble-root"]);
      for (const setting of ["NIXVM_TARGET=/sysroot", "NIXVM_ROLLBACK=on", "/payload/sysroot"])
        expect(unit.script).toContain(setting);
      expect(unit.script).not.toMatch(/zpool import/);
    });

    test("between the import and the mount of the root stands a oneshot that lets no other root through (Z-54, Z-56)", () => {
      const unit = factsOf(on(zfs)).initrd["nixvm-rollback"]!;
      expect(unit.serviceConfig!["Type"]).toBe("oneshot");
      expect([unit.after, unit.before, unit.requiredBy]).toEqual([
        ["zfs-import-rpool.service"],
        ["sysroot.mount"],
        ["sysroot.mount"],
      ]);
      expect(unit.unitConfig!["DefaultDependencies"]).toBe(false);
    });

    test("the rollback is a switch, off for the start in which one installs by hand and on otherwise (Z-59)", () => {
      const [off, normal] = ["nixvm.zfs.rollback = false;", ""].map((more) => factsOf(on(`${zfs} ${more}`)));
      expect([off!.settings["NIXVM_ROLLBACK"], normal!.settings["NIXVM_ROLLBACK"]]).toEqual(["off", "on"]);
      expect(off!.initrd["nixvm-rollback"]!.script).toContain('case " done off " in');
      expect(normal!.initrd["nixvm-rollback"]!.script).toContain('case " done " in');
    });

    test("the image's store goes to the pool before the system is looked for there", () => {
      const { initrd, initrdMounts } = factsOf(on(zfs));
      expect(initrdMounts).toContain("/dev/disk/by-partlabel/nixvm-store /payload/nix/store");
      expect(initrd["nixvm-payload"]!.before).toContain("initrd-find-nixos-closure.service");
      expect(initrd["nixvm-payload"]!.after).toContain("sysroot-nix.mount");
      // without a pool there is no such mount, and yet a system to start
      expect(initrd["initrd-find-nixos-closure"]!.unitConfig!["RequiresMountsFor"]).toBe("/sysroot");
    });

    test("another name of the pool goes everywhere", () => {
      const { initrd, fileSystems, settings } = factsOf(on(`${zfs} nixvm.persist.label = "tank";`));
      expect(Object.keys(initrd)).toContain("zfs-import-tank");
      expect(initrd["nixvm-rollback"]!.after).toEqual(["zfs-import-tank.service"]);
      expect(fileSystems["/"]!.device).toBe("tank/local/root");
      expect(settings["NIXVM_PERSIST"]).toBe("/persist\tzfs\ttank");
    });
  });

  describe("the allowlist", () => {
    const kept = (list: string): unknown =>
      factsOf(
        on(
          `nixvm.rootMode = "persistent"; nixvm.user = { enable = true; name = "alice"; }; nixvm.allowlist = { ${list} };`,
        ),
      ).kept["/persist"];

    test("a path and a record of the same say the same (P-18)", () => {
      const [short, long] = [
        'directories = [ "/srv/x" ]; users.alice.directories = [ "src" ];',
        'directories = [ { directory = "/srv/x"; mode = "0755"; } ]; users.alice.directories = [ { directory = "src/"; user = "alice"; } ];',
      ].map(kept);
      expect(short).toEqual(long);
      expect(short).toEqual({
        directories: ["/srv/x root:root 0755 bindmount"],
        files: [],
        users: { alice: ["src alice:alice 0755 bindmount"] },
      });
    });

    test("what is needed early can be listed so (P-32), and the numbers of accounts are early by themselves (V-15)", () => {
      expect(
        kept('files = [ { file = "/etc/adjtime"; inInitrd = true; } ]; directories = [ "/var/lib/nixos" ];'),
      ).toEqual({
        directories: ["/var/lib/nixos root:root 0755 bindmount early"],
        files: ["/etc/adjtime root:root 0644 bindmount early"],
        users: {},
      });
    });

    test("an empty list leaves preservation alone", () => {
      expect(factsOf(on('nixvm.rootMode = "tmpfs";')).preserved).toBe(false);
    });
  });

  describe("home-manager", () => {
    const manager = `({ lib, ... }: {
      options.home-manager.users = lib.mkOption { type = lib.types.attrsOf lib.types.anything; default = { }; };
    })`;
    const user = (name: string): string =>
      on(`nixvm.rootMode = "persistent"; nixvm.user = { enable = true; name = "${name}"; };`);
    const dropIn = (...more: string[]): Unit | undefined => factsOf(manager, ...more).services["user@"];

    test("the first session waits for it, by a drop-in that wants it and does not need it (P-23 to P-26)", () => {
      const unit = dropIn(user("alice"), "{ home-manager.users.alice = { }; }")!;
      expect(unit.overrideStrategy).toBe("asDropin");
      expect([unit.after, unit.wants]).toEqual([["home-manager-alice.service"], ["home-manager-alice.service"]]);
      expect(unit.serviceConfig!["TimeoutStartSec"]).toBe("90");
    });

    test("the account's name is said once (P-19)", () => {
      const named = (name: string): unknown[] => {
        const system = factsOf(
          manager,
          "./profiles/workbench.nix",
          `({ lib, config, ... }: { nixvm.user.name = "${name}"; home-manager.users.\${config.nixvm.user.name} = { }; })`,
        );
        return [
          system.services["user@"]!.after,
          Object.keys(system.kept["/persist"]!.users),
          Object.keys(system.users.people),
        ];
      };
      expect(named("alice")).toEqual([["home-manager-alice.service"], ["alice"], ["alice"]]);
      expect(named("bob")).toEqual([["home-manager-bob.service"], ["bob"], ["bob"]]);
    });

    test("without it, or for another account only, nothing waits (P-29)", () => {
      for (const unit of [
        dropIn(user("alice")),
        dropIn(user("alice"), "{ home-manager.users.bob = { }; }"),
        factsOf(user("alice")).services["user@"],
      ])
        expect([unit?.after ?? [], unit?.wants ?? []]).toEqual([[], []]);
    });
  });
} else {
  test("modules are evaluated where NIXPKGS_LIB or NIXPKGS is set", notEvaluated);
}
