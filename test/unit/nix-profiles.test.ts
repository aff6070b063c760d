import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { factsOf, nix, nixpkgs, nixpkgsLib, notEvaluated, systemPathOf, type Facts } from "./nix-support";

const read = (name: string): string => readFileSync(path.join(nix, name), "utf8");
const profiles = readdirSync(path.join(nix, "profiles")).map((name) => path.parse(name).name);

/** One profile as the flake makes it, once. */
const seen = new Map<string, Facts>();
function profile(name: string, ...more: string[]): Facts {
  const key = [name, ...more].join("\n");
  const facts = seen.get(key) ?? factsOf(`./profiles/${name}.nix`, `{ nixvm.image.name = "${name}"; }`, ...more);
  seen.set(key, facts);
  return facts;
}

describe("profiles", () => {
  const parents = Object.fromEntries(
    profiles.map((name) => [
      name,
      [...read(`profiles/${name}.nix`).matchAll(/\.\/([\w-]+)\.nix/g)].map((match) => match[1]),
    ]),
  );

  test("each names its parent and its additions only (T-85)", () => {
    const { base, ...others } = parents;
    expect(base).toEqual([]);
    for (const [name, found] of Object.entries(others)) {
      expect([name, found]).toEqual([name, [expect.stringMatching(/^(base|core|docker|dev)$/)]]);
      // what a parent says is said there
      expect(read(`profiles/${name}.nix`)).not.toMatch(/stateVersion|nixvm\.enable/);
    }
    expect(parents).toMatchObject({
      core: ["base"],
      docker: ["core"],
      dev: ["docker"],
      agent: ["dev"],
      template: ["core"],
    });
  });
});

if (nixpkgs) {
  test("the same sources in another checkout are the same system, and a changed one is another (N2, V-59)", () => {
    const checkout = mkdtempSync(path.join(tmpdir(), "nixvm checkout "));
    try {
      cpSync(nix, checkout, { recursive: true });
      const zvm = ["./profiles/zvm.nix", '{ nixvm.image.name = "zvm"; }'];
      const here = systemPathOf(nix, ...zvm);
      expect(here).toMatch(/^\/nix\/store\/[0-9a-z]{32}-nixos-system-.*\.drv$/);
      expect(systemPathOf(checkout, ...zvm)).toBe(here);
      expect(systemPathOf(checkout, ...zvm, '{ environment.etc.more.text = "x"; }')).not.toBe(here);
    } finally {
      rmSync(checkout, { recursive: true, force: true });
    }
  });
}

if (nixpkgs || nixpkgsLib) {
  test.each(profiles)("%s meets all demands, and its swap is none", (name) => {
    const { refused, swap, kernelParams, loader, initrdModules } = profile(name);
    expect([name, refused, swap]).toEqual([name, [], []]);
    // The serial console, and hardware that an installer would have found out.
    expect(kernelParams).toContain("console=ttyS0,115200n8");
    expect(initrdModules).toEqual(expect.arrayContaining(["virtio_pci", "virtio_blk", "virtio_net", "ahci"]));
    expect(loader["systemd-boot"]).toEqual({ enable: true, editor: false, consoleMode: "max" });
  });

  describe("what every profile is", () => {
    test("no account of its own that anybody could log in to, and none that is root by a password (T-112, Z-73, Z-81)", () => {
      for (const name of profiles) {
        const { users } = profile(name);
        expect([name, users.mutableUsers, users.root]).toEqual([name, false, "!"]);
      }
    });

    test("its image holds no secret: no password, no key, no token (P-1)", () => {
      for (const name of profiles) {
        const { users, ssh, nix: packages } = profile(name);
        expect([name, users.hashes, packages.settings["access-tokens"] ?? ""]).toEqual([name, [], ""]);
        // kept on the persistent volume or in memory, and made there
        const kept = [
          ...Object.values(users.people).map((one) => one.hashedPasswordFile),
          ...(ssh.hostKeys ?? []).map((key) => key.path),
        ];
        for (const file of kept)
          if (file !== null) expect([name, file]).toEqual([name, expect.stringMatching(/^\/(persist|var|run)\//)]);
      }
    });

    test("an SSH server, where there is one, takes keys only and never root (T-109, V-7, Z-84)", () => {
      const found = profiles.map((name) => [name, profile(name).ssh] as const).filter(([, ssh]) => ssh.enable);
      expect(found.map(([name]) => name).sort()).toEqual(
        profiles.filter((name) => !["base", "rollback"].includes(name)).sort(),
      );
      for (const [name, ssh] of found)
        expect([name, ssh.settings]).toEqual([
          name,
          {
            PermitRootLogin: "no",
            PasswordAuthentication: false,
            KbdInteractiveAuthentication: false,
            AuthenticationMethods: "publickey",
          },
        ]);
    });

    test("the units of the guest are wanted as their own [Install] sections say", () => {
      const { services, timers } = profile("zvm");
      const units = readdirSync(path.join(nix, "guest/units"));
      expect(units.length).toBeGreaterThan(3);
      for (const unit of units) {
        const target = /^WantedBy=(.*)$/m.exec(read(`guest/units/${unit}`))?.[1];
        const facts = unit.endsWith(".timer") ? timers : services;
        expect([unit, facts[path.parse(unit).name]!.wantedBy]).toEqual([unit, target === undefined ? [] : [target]]);
      }
      expect(profile("template").services["nixvm-status"]!.wantedBy).toEqual([profile("template").defaultUnit]);
      // who does not pull has neither the unit's programs nor its hour
      expect([profile("template").timers, profile("template").services["nixvm-update"]]).toEqual([{}, undefined]);
    });
  });

  describe("the profiles of the VM template", () => {
    test("base has neither an SSH server nor Docker (T-80); core has the first (T-81)", () => {
      const { ssh, docker, podman, users } = profile("base");
      expect([ssh.enable, docker, podman, users.people]).toEqual([false, false, false, {}]);
      expect([profile("core").ssh.enable, profile("core").docker]).toEqual([true, false]);
    });

    test("docker is for admins (T-82), in dev for both accounts (T-83), and agent has the coding agent (T-84)", () => {
      const groups = (name: string): unknown[] => {
        const { docker, settings } = profile(name);
        return [docker, settings["NIXVM_ADMIN_GROUPS"], settings["NIXVM_USER_GROUPS"]];
      };
      expect(groups("docker")).toEqual([true, "wheel docker", ""]);
      expect(groups("dev")).toEqual([true, "wheel docker", "docker"]);
      expect(groups("agent")).toEqual([true, "wheel docker", "docker"]);
      expect(profile("dev").packages).toEqual(expect.arrayContaining(["git", "gnumake", "nodejs"]));
      expect(profile("dev").packages).not.toContain("claude-code");
      expect(profile("agent").packages).toContain("claude-code");
      expect([profile("podman").podman, profile("podman").docker]).toEqual([true, false]);
    });

    test("template: read-only root and boot files, /home on /var, /tmp in memory (T-7, T-9, T-10, T-11, T-13)", () => {
      const { fileSystems: at, tmp, nix: packages, loader } = profile("template");
      expect(Object.keys(at).sort()).toEqual(["/", "/boot", "/home"]);
      expect(at["/"]).toMatchObject({ fsType: "ext4", options: expect.arrayContaining(["ro"]) });
      expect(at["/boot"]).toMatchObject({ fsType: "vfat", options: expect.arrayContaining(["ro"]) });
      expect(at["/home"]).toMatchObject({ device: "/var/home", options: expect.arrayContaining(["bind"]) });
      expect([tmp, packages.enable, loader.efi["canTouchEfiVariables"]]).toEqual([true, false, false]);
    });

    test("template: admins have sudo without a password by their group, others have not (T-110, T-111)", () => {
      const { sudo, settings, users, ssh } = profile("template");
      expect([sudo, settings["NIXVM_ADMIN_GROUPS"], settings["NIXVM_USER_GROUPS"]]).toEqual([true, "wheel", ""]);
      expect(users.people).toEqual({});
      expect(ssh.hostKeys).toEqual([{ type: "ed25519", path: "/var/lib/identity/ssh_host_ed25519_key" }]);
      expect(ssh.files![0]).toBe("/run/nixvm/ssh/%u");
    });
  });

  describe("zvm", () => {
    test("/ is a tmpfs, the store and what is kept are file systems found by label (V-2, V-52, V-53, V-54)", () => {
      const { fileSystems: at } = profile("zvm");
      expect([at["/"]!.fsType, at["/home"]!.fsType]).toEqual(["tmpfs", "tmpfs"]);
      expect(at["/nix"]).toMatchObject({ device: "/dev/disk/by-label/nix", fsType: "ext4", neededForBoot: true });
      expect(at["/persist"]).toMatchObject({
        device: "/dev/disk/by-label/persist",
        fsType: "ext4",
        neededForBoot: true,
      });
      for (const { device } of Object.values(at)) expect(device).toMatch(/^none$|^\/dev\/disk\/by-label\//);
    });

    test("one account named zvm, not in wheel, no sudo, Nix is root's (V-4, V-5, V-6, V-8)", () => {
      const { users, sudo, nix: packages } = profile("zvm");
      expect(users.people).toEqual({
        zvm: { group: "zvm", extraGroups: [], hashedPasswordFile: "/persist/passwords/zvm" },
      });
      expect(sudo).toBe(false);
      expect(packages.settings).toMatchObject({ "trusted-users": ["root"], "allowed-users": ["root"] });
    });

    test("seven paths are kept, and no other (V-14 to V-20)", () => {
      const { allowlist, kept, preserved } = profile("zvm");
      expect(allowlist).toEqual({
        directories: ["/etc/ssh", "/var/lib/nixos", "/var/lib/netbird", "/var/log"],
        files: ["/etc/machine-id", "/persist/passwords/zvm"],
        users: { zvm: { directories: [".config/netbird"], files: [] } },
      });
      // The three others are kept with the machine's identity, under paths of their own (C-13).
      expect([preserved, kept]).toEqual([
        true,
        {
          "/persist": {
            directories: [
              "/var/lib/netbird root:root 0755 bindmount",
              "/var/lib/nixos root:root 0755 bindmount early",
              "/var/log root:root 0755 bindmount",
            ],
            files: [],
            users: { zvm: [".config/netbird zvm:zvm 0755 bindmount"] },
          },
        },
      ]);
    });

    test("keys of the seed, of the volume and of the configuration work together; the host key is kept (V-13, V-21, V-22)", () => {
      const { ssh } = profile("zvm");
      expect(ssh.files).toEqual([
        "/run/nixvm/ssh/%u",
        ".ssh/authorized_keys",
        "/persist/home/%u/.ssh/authorized_keys",
        "/etc/ssh/authorized_keys.d/%u",
      ]);
      expect(ssh.hostKeys).toEqual([{ type: "ed25519", path: "/persist/etc/ssh/ssh_host_ed25519_key" }]);
    });

    test("the VPN client is a service (V-28)", () => {
      expect([profile("zvm").netbird, profile("core").netbird]).toEqual([true, false]);
    });

    test("an update comes at every start and within each hour, after the network, and nothing restarts the VM (V-30, V-31, V-33, V-39, V-41)", () => {
      const { services, timers, settings, polkit } = profile("zvm");
      expect(services["nixvm-update"]!.wantedBy).toEqual(["multi-user.target"]);
      expect(timers["nixvm-update"]!.wantedBy).toEqual(["timers.target"]);
      const timer = read("guest/units/nixvm-update.timer");
      const seconds = ["OnUnitActiveSec", "RandomizedDelaySec"].map((key) =>
        Number(new RegExp(`^${key}=(\\d+)$`, "m").exec(timer)![1]),
      );
      expect(seconds[0]! + seconds[1]!).toBeLessThanOrEqual(3600);
      expect(read("guest/units/nixvm-update.service")).toMatch(/^After=network-online\.target /m);
      expect(settings["NIXVM_UPDATE_FETCH"]).toMatch(/^\/nix\/store\//);
      for (const text of [read("guest/update"), read("modules/updates.nix"), read("modules/text.nix")])
        expect(text).not.toMatch(/\b(reboot|shutdown|kexec)\b.*(\n|$)(?<!#.*\n)/);
      // but the person can
      expect(polkit).toMatch(/login1\\\.reboot.*\n.*subject\.user == "zvm"/);
      expect(profile("template").timers).toEqual({});
    });

    test("the source's address is said once, and no credential for it is in the image (V-37, V-42)", () => {
      const flake = "git+https://example.org/systems";
      const { settings, nix: packages } = profile("zvm", `{ nixvm.update.flake = "${flake}"; }`);
      expect(Object.entries(settings).filter(([, value]) => value.includes(flake))).toEqual([
        ["NIXVM_UPDATE_FLAKE", flake],
      ]);
      expect(packages.settings["access-tokens"] ?? "").toBe("");
      expect(profile("zvm").settings["NIXVM_UPDATE_FLAKE"]).toBeUndefined();
    });
  });

  describe("workbench", () => {
    test("/home is a tmpfs of 4 GiB, and its size an option (P-3, P-4, P-5)", () => {
      expect(profile("workbench").fileSystems["/home"]).toMatchObject({
        device: "none",
        fsType: "tmpfs",
        options: ["defaults", "size=4G", "mode=755"],
      });
      const { options } = profile("workbench", '{ nixvm.home.size = "8G"; }').fileSystems["/home"]!;
      expect(options).toEqual(["defaults", "size=8G", "mode=755"]);
    });

    test("two folders of the account are kept by preservation, history and tokens are not (P-12 to P-15, P-36)", () => {
      const { preserved, kept } = profile("workbench");
      expect([preserved, kept]).toEqual([
        true,
        {
          "/persist": {
            directories: [],
            files: [],
            users: { user: [".ssh user:user 0700 bindmount", "Documents user:user 0755 bindmount"] },
          },
        },
      ]);
    });

    test("the volume is there before what is kept on it, and the rest of the root stays (P-31)", () => {
      const { fileSystems: at } = profile("workbench");
      expect(at["/persist"]!.neededForBoot).toBe(true);
      expect(at["/"]!.fsType).toBe("ext4");
      expect(at["/"]!.options).not.toContain("ro");
    });

    test("the account cannot become root, and what is in memory does not reach a disk by swap (P-21, P-40)", () => {
      const { users, sudo, swap } = profile("workbench");
      expect(users.people).toEqual({
        user: { group: "user", extraGroups: [], hashedPasswordFile: "/persist/passwords/user" },
      });
      expect([sudo, swap]).toEqual([false, []]);
    });

    test("the image has nothing that cleans /home, and /tmp is not in memory (P-9)", () => {
      const { services, initrd, timers, tmp } = profile("workbench");
      expect([timers, tmp]).toEqual([{}, false]);
      for (const { script } of [...Object.values(services), ...Object.values(initrd)])
        expect(script ?? "").not.toMatch(/\b(rm|find)\b[^\n]*\/home/);
    });

    test("the module is preservation's own, taken from the flake's input (P-11)", () => {
      expect(read("flake.nix")).toContain("inputs.preservation.nixosModules.preservation");
    });
  });

  describe("sealed", () => {
    test("root and /home are tmpfs, the store is a read-only squashfs (E-9, E-33)", () => {
      const { fileSystems: at } = profile("sealed");
      expect(Object.keys(at).sort()).toEqual(["/", "/boot", "/home", "/nix/store"]);
      expect([at["/"]!.fsType, at["/home"]!.fsType]).toEqual(["tmpfs", "tmpfs"]);
      expect(at["/nix/store"]).toMatchObject({ fsType: "squashfs", options: expect.arrayContaining(["ro"]) });
    });

    test("Nix is there as the store gets its layer on the scratch disk (E-7), and not without (E-8)", () => {
      expect(profile("sealed").nix.enable).toBe(true);
      expect(profile("sealed", "{ nixvm.scratch.nixOverlay = false; }").nix.enable).toBe(false);
      expect(profile("sealed").initrd["nixvm-scratch"]).toBeDefined();
    });

    test("programs that need room find it on the scratch disk (P-34)", () => {
      expect(profile("sealed").extraInit).toContain(". /run/nixvm/environment && export TMPDIR");
      expect(read("guest/scratch")).toContain("TMPDIR=/scratch");
    });

    test("nothing is kept: that is said as a warning, and no list is there", () => {
      const { warnings, kept, ssh } = profile("sealed");
      expect(warnings).toEqual([expect.stringMatching(/^host sealed: nixvm\.persist\.mount is null/)]);
      expect(kept).toEqual({});
      expect(ssh.hostKeys![0]!.path).toMatch(/^\/run\//);
    });
  });

  describe("rollback", () => {
    test("root, /nix, /boot, /home and /persist are datasets, mounted by entries (Z-38, Z-40)", () => {
      const { fileSystems: at } = profile("rollback");
      expect(
        Object.entries(at)
          .map(([where, { device, fsType }]) => `${where} ${device} ${fsType}`)
          .sort(),
      ).toEqual([
        "/ rpool/local/root zfs",
        "/boot rpool/local/boot zfs",
        "/boot/efi /dev/disk/by-label/EFI vfat",
        "/home rpool/safe/home zfs",
        "/nix rpool/local/nix zfs",
        "/persist rpool/safe/persist zfs",
      ]);
      expect(at["/persist"]!.neededForBoot).toBe(true);
      expect(at["/boot/efi"]!.options).toContain("umask=0077");
      for (const { options } of Object.values(at)) expect(options).not.toContain("zfsutil");
    });

    test("the boot loader is as in its document (Z-43, Z-44, Z-45, Z-46, Z-47)", () => {
      expect(profile("rollback").loader).toEqual({
        timeout: 0,
        efi: expect.objectContaining({ canTouchEfiVariables: true, efiSysMountPoint: "/boot/efi" }),
        "systemd-boot": { enable: true, editor: false, consoleMode: "max" },
      });
    });

    test("ZFS is there, looks for the pool in /dev/ and takes no foreign one by force (Z-48, Z-49)", () => {
      const { zfs, hostId, tools, etc } = profile("rollback");
      expect(zfs).toEqual({ supported: true, devNodes: "/dev/", force: false });
      expect(hostId).toMatch(/^[0-9a-f]{8}$/);
      expect(hostId).not.toBe("a1b2c3d4");
      expect(etc["hostid"]).toBe("/run/nixvm/hostid");
      expect(tools.some((tool) => tool.startsWith("zfs"))).toBe(true);
    });

    test("serial console and disks of a virtio machine are in the module (Z-9, Z-94)", () => {
      expect(profile("rollback").kernelParams).toContain("console=ttyS0,115200n8");
      expect(profile("rollback").initrdModules).toEqual(
        expect.arrayContaining(["virtio_pci", "virtio_blk", "virtio_net"]),
      );
    });

    test("one person in wheel, with a group of the same name and a password from the volume (Z-73 to Z-76)", () => {
      const { users } = profile("rollback");
      expect(users.mutableUsers).toBe(false);
      expect(users.people).toEqual({
        admin: {
          group: "admin",
          extraGroups: ["wheel"],
          hashedPasswordFile: "/persist/etc/nixos-secrets/passwords/admin",
        },
      });
      expect(users.groups).toContain("admin");
    });

    test("SSH is off unless chosen, and then has the key of the volume, by a type in quotes (Z-83, Z-84, Z-86)", () => {
      expect(profile("rollback").ssh).toEqual({ enable: false });
      const { ssh } = profile("rollback", "{ services.openssh.enable = true; }");
      expect(ssh.hostKeys).toEqual([{ type: "ed25519", path: "/persist/etc/ssh/ssh_host_ed25519_key" }]);
      expect(ssh.settings!["PermitRootLogin"]).toBe("no");
      const chosen = profile(
        "rollback",
        '{ services.openssh = { enable = true; settings.PermitRootLogin = "prohibit-password"; }; }',
      );
      expect([chosen.refused, chosen.ssh.settings!["PermitRootLogin"]]).toEqual([[], "prohibit-password"]);
    });

    test("a link from /etc/ssh to the key of the volume is possible too (Z-89)", () => {
      const link = '{ environment.etc."ssh/ssh_host_ed25519_key".source = "/persist/etc/ssh/ssh_host_ed25519_key"; }';
      expect(profile("rollback", link).refused).toEqual([]);
    });
  });
} else {
  test("profiles are evaluated where NIXPKGS_LIB or NIXPKGS is set", notEvaluated);
}
