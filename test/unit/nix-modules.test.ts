import { spawnSync } from "node:child_process";
import path from "node:path";

// The modules with nixpkgs' own module system, on stand-ins for the options of NixOS. No package registry has nixpkgs, so this
// runs where NIXPKGS_LIB names the folder `lib` of a copy.
const nix = path.resolve(__dirname, "../../nix");
const nixpkgsLib = process.env["NIXPKGS_LIB"];

const expression = (profile: string): string => `
  let
    lib = import ${JSON.stringify(nixpkgsLib)};
    free = lib.mkOption { type = lib.types.attrsOf lib.types.anything; default = { }; };
    off = lib.mkOption { type = lib.types.bool; default = false; };
    package = name: { inherit name; type = "derivation"; outPath = "/nix/store/" + name; };
    names = [ "bash" "coreutils" "curl" "diffutils" "e2fsprogs" "findutils" "gawk" "gnugrep" "gnused" "htop" "jq" "kmod"
      "nftables" "openssh" "systemd" "util-linux" "vim" ];
    pkgs = lib.genAttrs names package // {
      runtimeShell = "/nix/store/bash/bin/bash";
      callPackage = file: arguments: package "nixvm-guest";
    };
    evaluated = lib.evalModules {
      specialArgs = { inherit pkgs; modulesPath = "/nixpkgs/nixos/modules"; };
      modules = [
        ./modules
        ${profile}
        {
          options = lib.genAttrs [ "boot" "documentation" "environment" "fileSystems" "networking" "nix" "security" "time"
            "users" ] (_: free) // {
            assertions = lib.mkOption { type = lib.types.listOf lib.types.anything; };
            services = lib.genAttrs [ "openssh" "qemuGuest" "resolved" "udev" ] (_: free) // { userborn.enable = off; };
            system = {
              build = free;
              stateVersion = lib.mkOption { type = lib.types.str; default = ""; };
              etc.overlay.enable = off;
            };
            systemd = lib.genAttrs [ "network" "services" ] (_: free) // {
              packages = lib.mkOption { type = lib.types.listOf lib.types.anything; default = [ ]; };
              package = lib.mkOption { type = lib.types.anything; default = pkgs.systemd; };
              defaultUnit = lib.mkOption { type = lib.types.str; default = "multi-user.target"; };
              sysusers.enable = off;
            };
          };
          config.assertions = [ ];
          config.boot.initrd.systemd.enable = lib.mkDefault false;
        }
      ];
    };
    inherit (evaluated) config options;
    own = lib.collect lib.isOption options.nixvm;
  in
  {
    inherit (config) fileSystems networking;
    inherit (config.systemd) services defaultUnit;
    packages = map toString config.systemd.packages;
    etc = config.environment.etc or { };
    boot = removeAttrs (config.boot or { }) [ "kernelParams" ];
    ssh = config.services.openssh;
    users = config.users;
    refused = map (entry: entry.message) (lib.filter (entry: !entry.assertion) config.assertions);
    undocumented = map (option: option.name or (lib.showOption option.loc))
      (lib.filter (option: !(option ? description && option ? default && (option ? example || option.internal or false))) own);
  }`;

interface Unit {
  script?: string;
  after?: string[];
  before?: string[];
  wantedBy?: string[];
}
interface Evaluated {
  fileSystems: Record<string, { device: string; fsType: string; options: string[] }>;
  networking: Record<string, unknown>;
  services: Record<string, Unit & { path?: unknown[]; enable?: boolean }>;
  defaultUnit: string;
  packages: string[];
  etc: Record<string, { source?: string; text?: string }>;
  boot: {
    tmp: unknown;
    loader: Record<string, { enable?: boolean }>;
    initrd: { systemd: { services: Record<string, Unit> } };
  };
  ssh: { authorizedKeysFiles: string[]; hostKeys: { path: string }[]; settings: Record<string, unknown> };
  users: Record<string, unknown>;
  refused: string[];
  undocumented: string[];
}

function evaluate(profile: string): { value?: Evaluated; error: string } {
  const args = ["--eval", "--strict", "--json", "-E", expression(profile)];
  const { status, stdout, stderr, error } = spawnSync("nix-instantiate", args, { cwd: nix, encoding: "utf8" });
  if (error) throw new Error(`nix-instantiate cannot be run (${error.message}); the package is called nix-bin`);
  return status === 0 ? { value: JSON.parse(stdout) as Evaluated, error: "" } : { error: stderr };
}

function value(profile: string): Evaluated {
  const result = evaluate(profile);
  if (!result.value) throw new Error(result.error);
  return result.value;
}

if (nixpkgsLib) {
  describe("the template profile", () => {
    let template: Evaluated;
    beforeAll(() => {
      template = value("./profiles/template.nix");
    });

    test("mounts as the contract says (T-7, T-9, T-10, T-11)", () => {
      const { fileSystems: at, boot } = template;
      expect(Object.keys(at).sort()).toEqual(["/", "/boot", "/home"]);
      expect(at["/"]).toMatchObject({ fsType: "ext4", options: expect.arrayContaining(["ro"]) });
      expect(at["/boot"]).toMatchObject({ fsType: "vfat", options: expect.arrayContaining(["ro"]) });
      expect(at["/home"]).toMatchObject({ device: "/var/home", options: expect.arrayContaining(["bind"]) });
      expect(boot.tmp).toEqual({ useTmpfs: true });
      expect(boot.loader["systemd-boot"]!.enable).toBe(true);
    });

    test("has the disk before, and the seed's files after, NixOS's own activation in the initrd", () => {
      const { "nixvm-persist": persist, "nixvm-render": render } = template.boot.initrd.systemd.services;
      const activation = "initrd-nixos-activation.service";
      expect(persist!.before).toContain(activation);
      expect(render!.after).toContain(activation);
      for (const unit of [persist!, render!]) {
        expect(unit.wantedBy).toEqual(["initrd-switch-root.service"]);
        expect(unit.before).toContain("initrd-switch-root.service");
        expect(unit.after).toContain("initrd-switch-root.target");
        expect(unit.script).toContain("NIXVM_SHARE=/run/nixvm/share");
      }
      const calls = (unit: Unit) =>
        [...unit.script!.matchAll(/nixvm-guest\/lib\/nixvm\/([a-z ]+) \|\|/g)].map((m) => m[1]);
      expect(calls(persist!)).toEqual(["seed read", "persist"]);
      expect(calls(render!)).toEqual(["seed render"]);
      expect(render!.script!.trimEnd().split("\n").at(-1)).toBe("mount -o remount,ro /sysroot");
      for (const unit of [persist!, render!]) {
        const { status, stderr } = spawnSync("sh", ["-n"], { input: unit.script, encoding: "utf8" });
        expect([status, stderr]).toEqual([0, ""]);
      }
    });

    test("wants the units of the guest by what their own [Install] sections say", () => {
      expect(template.packages).toEqual(["/nix/store/nixvm-guest"]);
      expect(template.services["nixvm-seed"]!.wantedBy).toEqual(["sysinit.target"]);
      expect(template.services["nixvm-grow"]!.wantedBy).toEqual(["multi-user.target"]);
      expect(template.services["nixvm-status"]!.wantedBy).toEqual([template.defaultUnit]);
    });

    test("takes keys only, from the seed, and has no account of its own that can log in (T-109, T-112)", () => {
      expect(template.ssh.authorizedKeysFiles[0]).toBe("/run/nixvm/ssh/%u");
      expect(template.ssh.hostKeys).toEqual([{ type: "ed25519", path: "/var/lib/identity/ssh_host_ed25519_key" }]);
      expect(template.ssh.settings).toMatchObject({ PasswordAuthentication: false, PermitRootLogin: "no" });
      expect(template.users).toMatchObject({ mutableUsers: false, users: { root: { hashedPassword: "!" } } });
    });

    test("has links into the seed's folder in /etc", () => {
      for (const name of ["hostname", "hosts", "resolv.conf"])
        expect(template.etc[name]!.source).toBe(`/run/nixvm/etc/${name}`);
      // Not in the image: the installer of the boot loader could neither read nor make a machine id behind such a link.
      expect(template.etc["machine-id"]).toBeUndefined();
      expect(template.boot.initrd.systemd.services["nixvm-render"]!.script).toMatch(
        /^for file in passwd group shadow machine-id; do\n +ln -sfn "\/run\/nixvm\/etc\/\$file" "\/sysroot\/etc\/\$file"$/m,
      );
      expect(template.etc["nixvm/guest.env"]!.text).toContain(': "${NIXVM_SSH_UNIT:=sshd.service}"');
    });

    test("is refused by none of its own demands, and every option says what it is for", () => {
      expect(template.refused).toEqual([]);
      expect(template.undocumented).toEqual([]);
    });
  });

  test("without nixvm.enable nothing is changed", () => {
    const plain = value("{ }");
    expect([plain.fileSystems, plain.services, plain.packages, plain.etc]).toEqual([{}, {}, [], {}]);
  });

  test("another root mode is refused by name, and an unknown one too", () => {
    expect(value('{ nixvm.enable = true; nixvm.rootMode = "tmpfs"; }').refused).toEqual([
      expect.stringMatching(/^nixvm\.rootMode is "tmpfs", this release can build readonly;/),
    ]);
    expect(evaluate('{ nixvm.enable = true; nixvm.rootMode = "rw"; }').error).toMatch(/nixvm\.rootMode.*is not/);
  });
} else {
  test("modules are evaluated where NIXPKGS_LIB is set", () => {
    process.stdout.write(
      "NIXPKGS_LIB is not set to the folder lib of a nixpkgs: the NixOS modules were parsed, not evaluated\n",
    );
    expect(nixpkgsLib).toBeFalsy();
  });
}
