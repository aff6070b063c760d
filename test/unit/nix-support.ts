import { spawnSync } from "node:child_process";
import path from "node:path";

/** The NixOS side. */
export const nix = path.resolve(__dirname, "../../nix");

/** The folder `lib` of a nixpkgs, and a whole nixpkgs: no package registry has them, so tests that need one run where it is named. */
export const nixpkgsLib = process.env["NIXPKGS_LIB"];
export const nixpkgs = process.env["NIXPKGS"];

interface Outcome {
  /** What the expression came to. */
  readonly value?: unknown;
  /** What Nix said when it did not come to anything. */
  readonly error: string;
}

/** Evaluates an expression, completely, in a folder like nix/. */
export function attempt(expression: string, cwd = nix): Outcome {
  const args = ["--store", "dummy://", "--eval", "--strict", "--json", "-E", expression];
  const run = spawnSync("nix-instantiate", args, { cwd, encoding: "utf8", maxBuffer: 1 << 26 });
  if (run.error) throw new Error(`nix-instantiate cannot be run (${run.error.message}); the package is called nix-bin`);
  return run.status === 0 ? { value: JSON.parse(run.stdout) as unknown, error: "" } : { error: run.stderr };
}

export function evaluate<T>(expression: string, cwd?: string): T {
  const { value, error } = attempt(expression, cwd);
  if (error !== "") throw new Error(error);
  return value as T;
}

/** A value as Nix reads it. */
export const toNix = (value: unknown): string => `(builtins.fromJSON ${JSON.stringify(JSON.stringify(value))})`;

/** Options of NixOS that our modules set or read, when all there is of nixpkgs is its `lib`. */
const standIns = `
  { lib, ... }:
  let
    option = type: default: lib.mkOption { inherit type default; };
    free = option (lib.types.attrsOf lib.types.anything) { };
    deep = option (lib.types.attrsOf (lib.types.attrsOf lib.types.anything)) { };
    list = option (lib.types.listOf lib.types.anything) [ ];
    off = option lib.types.bool false;
    text = option lib.types.lines "";
  in
  {
    options = lib.genAttrs [ "documentation" "time" "fileSystems" ] (_: free) // {
      assertions = list;
      warnings = list;
      swapDevices = list;
      boot = lib.genAttrs [ "loader" "tmp" ] (_: free) // {
        zfs = free;
        kernelParams = list;
        supportedFilesystems = list;
        initrd = lib.genAttrs [ "kernelModules" "availableKernelModules" "supportedFilesystems" ] (_: list) // {
          luks.cryptoModules = list;
          postMountCommands = text;
          systemd = { enable = off; services = deep; mounts = list; targets = deep; tmpfiles.settings = deep; };
        };
      };
      environment = { etc = deep; systemPackages = list; extraInit = text; };
      networking = lib.genAttrs [ "useDHCP" "useNetworkd" ] (_: off) // {
        hostName = option lib.types.str "";
        hostId = option (lib.types.nullOr lib.types.str) null;
        firewall = free;
        resolvconf = free;
      };
      nix = { enable = option lib.types.bool true; package = option lib.types.anything "nix"; settings = free; };
      nixpkgs = free;
      security = { sudo = free; polkit = { enable = off; extraConfig = text; }; };
      users = { mutableUsers = option lib.types.bool true; allowNoPasswordLogin = off; users = deep; groups = deep; };
      virtualisation = free;
      services = lib.genAttrs [ "qemuGuest" "resolved" "netbird" ] (_: free) // {
        udev.extraRules = text;
        userborn.enable = off;
        openssh = lib.genAttrs [ "enable" "openFirewall" ] (_: off) // { hostKeys = list; authorizedKeysFiles = list; settings = free; };
      };
      system = {
        build = free;
        boot = free;
        stateVersion = option lib.types.str "";
        autoUpgrade.enable = off;
        etc.overlay.enable = off;
      };
      systemd = {
        network = free;
        services = deep;
        timers = deep;
        targets = deep;
        mounts = list;
        tmpfiles.settings = deep;
        packages = list;
        package = option lib.types.anything { outPath = "/nix/store/systemd"; type = "derivation"; name = "systemd"; };
        defaultUnit = option lib.types.str "multi-user.target";
        sysusers.enable = off;
      };
    };
    config.boot.zfs.package = { outPath = "/nix/store/zfs"; type = "derivation"; name = "zfs"; };
  }`;

/** What a test looks at in a configuration, the same with stand-ins and with NixOS itself. */
const facts = `
  let
    unit = names: unit: lib.filterAttrs (name: _: builtins.elem name names) unit;
    units = unit [ "script" "after" "before" "wantedBy" "requiredBy" "wants" "unitConfig" "serviceConfig" "overrideStrategy" "enable" ];
    ours = lib.filterAttrs (name: _: lib.hasInfix "nixvm" name || lib.hasPrefix "zfs-import" name || name == "user@" || name == "initrd-find-nixos-closure");
    zfs = value: if builtins.isList value then builtins.elem "zfs" value else value.zfs or false;
    ssh = config.services.openssh;
    paths = builtins.map (entry: "\${entry.directory or entry.file} \${entry.user}:\${entry.group} \${entry.mode} \${entry.how}\${lib.optionalString entry.inInitrd " early"}");
    kept = config.preservation.preserveAt or { };
  in
  {
    fileSystems = lib.mapAttrs (_: unit [ "device" "fsType" "options" "neededForBoot" ]) config.fileSystems;
    refused = map (entry: entry.message) (lib.filter (entry: !entry.assertion) config.assertions);
    inherit (config) warnings;
    initrd = lib.mapAttrs (_: units) (ours config.boot.initrd.systemd.services);
    initrdMounts = map (mount: "\${mount.what} \${mount.where}") config.boot.initrd.systemd.mounts;
    initrdModules = config.boot.initrd.kernelModules;
    services = lib.mapAttrs (_: units) (ours config.systemd.services);
    timers = lib.mapAttrs (_: unit [ "wantedBy" ]) (ours config.systemd.timers);
    inherit (config.systemd) defaultUnit;
    kernelParams = config.boot.kernelParams;
    loader = { timeout = config.boot.loader.timeout or null; efi = config.boot.loader.efi or { }; systemd-boot = unit [ "enable" "editor" "consoleMode" ] (config.boot.loader.systemd-boot or { }); };
    tmp = config.boot.tmp.useTmpfs or false;
    hostId = config.networking.hostId or null;
    zfs = { supported = zfs config.boot.supportedFilesystems; devNodes = config.boot.zfs.devNodes or null; force = config.boot.zfs.forceImportRoot or null; };
    ssh = { inherit (ssh) enable; } // lib.optionalAttrs ssh.enable {
      hostKeys = map (unit [ "type" "path" ]) ssh.hostKeys;
      files = ssh.authorizedKeysFiles;
      settings = unit [ "PermitRootLogin" "PasswordAuthentication" "KbdInteractiveAuthentication" "AuthenticationMethods" ] ssh.settings;
    };
    users = {
      inherit (config.users) mutableUsers;
      root = config.users.users.root.hashedPassword or null;
      hashes = builtins.filter (hash: hash != null && hash != "!" && hash != "*") (builtins.concatMap
        (user: [ (user.hashedPassword or null) (user.initialHashedPassword or null) (user.initialPassword or null) (user.password or null) ])
        (builtins.attrValues config.users.users));
      people = lib.mapAttrs (_: unit [ "group" "extraGroups" "hashedPasswordFile" ]) (lib.filterAttrs (_: user: user.isNormalUser or false) config.users.users);
      groups = builtins.filter (name: config.users.users ? \${name}) (builtins.attrNames config.users.groups);
    };
    sudo = config.security.sudo.enable or true;
    polkit = config.security.polkit.extraConfig;
    nix = { inherit (config.nix) enable; settings = unit [ "trusted-users" "allowed-users" "access-tokens" "experimental-features" ] config.nix.settings; };
    docker = config.virtualisation.docker.enable or false;
    podman = config.virtualisation.podman.enable or false;
    netbird = config.services.netbird.enable or false;
    packages = map (package: lib.getName package) config.environment.systemPackages;
    swap = map (swap: swap.device) config.swapDevices;
    etc = lib.mapAttrs (_: entry: toString (entry.source or "")) (lib.filterAttrs (name: _: builtins.elem name [ "hostname" "hosts" "resolv.conf" "machine-id" "hostid" ]) config.environment.etc);
    settings = config.nixvm.guestSettings or { };
    tools = map (package: lib.getName package) config.nixvm.guestTools or [ ];
    kept = lib.mapAttrs (_: at: { directories = paths at.directories; files = paths at.files; users = lib.mapAttrs (name: user: map (lib.removePrefix "/home/\${name}/") (paths (builtins.filter (entry: entry.how != "_intermediate") user.directories))) at.users; }) kept;
    preserved = config.preservation.enable or false;
    allowlist = config.nixvm.allowlist or { };
    extraInit = config.environment.extraInit or "";
    imageName = config.nixvm.image.name;
  }`;

const text = (value: string): string => JSON.stringify(value);

/** With nixpkgs' lib alone (N1): our modules on stand-ins, and every package a name. */
function withLib(lib: string, modules: readonly string[]): string {
  return `
    let
      lib = import ${text(lib)};
      package = name: { inherit name; type = "derivation"; outPath = "/nix/store/" + name; };
      names = [ "bash" "buildah" "claude-code" "coreutils" "cryptsetup" "curl" "diffutils" "e2fsprogs" "findutils" "gawk" "gcc" "git"
        "gitMinimal" "gnugrep" "gnumake" "gnused" "htop" "jq" "kmod" "nftables" "nodejs" "openssh" "python3" "ripgrep" "skopeo"
        "tmux" "util-linux" "vim" ];
      pkgs = lib.genAttrs names package // {
        runtimeShell = "/nix/store/bash/bin/bash";
        writeShellScript = name: _: "/nix/store/" + name;
        callPackage = file: arguments: package "nixvm-guest";
      };
      inherit (lib.evalModules {
        specialArgs = { inherit pkgs; modulesPath = "/nixpkgs/nixos/modules"; };
        modules = [ (${standIns}) ${modules.join(" ")} ];
      }) config options;
    in`;
}

/** With a whole nixpkgs (N2): NixOS itself. */
function withNixpkgs(tree: string, modules: readonly string[]): string {
  return `
    let
      lib = import ${text(`${tree}/lib`)};
      inherit (import ${text(`${tree}/nixos/lib/eval-config.nix`)} {
        system = "x86_64-linux";
        modules = [ ${modules.join(" ")} ];
      }) config options;
    in`;
}

/** The options of the module preservation, without what it does. */
export const preservationOptions = `({ lib, ... }: {
  options.preservation.enable = lib.mkOption { type = lib.types.bool; default = false; };
  options.preservation.preserveAt = lib.mkOption { type = lib.types.attrsOf lib.types.anything; default = { }; };
})`;

/** The module itself where PRESERVATION names its folder, else its options. */
export const preservation = process.env["PRESERVATION"]
  ? `(${text(path.resolve(process.env["PRESERVATION"]))} + "/module.nix")`
  : preservationOptions;

export interface Unit {
  readonly script?: string;
  readonly after?: readonly string[];
  readonly before?: readonly string[];
  readonly wants?: readonly string[];
  readonly wantedBy?: readonly string[];
  readonly requiredBy?: readonly string[];
  readonly overrideStrategy?: string;
  readonly enable?: boolean;
  readonly unitConfig?: Readonly<Record<string, unknown>>;
  readonly serviceConfig?: Readonly<Record<string, unknown>>;
}

export interface Facts {
  readonly fileSystems: Readonly<
    Record<string, { device: string; fsType: string; options: string[]; neededForBoot?: boolean }>
  >;
  readonly refused: readonly string[];
  readonly warnings: readonly string[];
  readonly initrd: Readonly<Record<string, Unit>>;
  readonly initrdMounts: readonly string[];
  readonly initrdModules: readonly string[];
  readonly services: Readonly<Record<string, Unit>>;
  readonly timers: Readonly<Record<string, Unit>>;
  readonly defaultUnit: string;
  readonly kernelParams: readonly string[];
  readonly loader: { timeout: number | null; efi: Record<string, unknown>; "systemd-boot": Record<string, unknown> };
  readonly tmp: boolean;
  readonly hostId: string | null;
  readonly zfs: { supported: boolean; devNodes: string | null; force: boolean | null };
  readonly ssh: {
    enable: boolean;
    hostKeys?: { type: string; path: string }[];
    files?: string[];
    settings?: Record<string, unknown>;
  };
  readonly users: {
    mutableUsers: boolean;
    root: string | null;
    hashes: string[];
    people: Record<string, { group: string; extraGroups: string[]; hashedPasswordFile: string | null }>;
    groups: string[];
  };
  readonly sudo: boolean;
  readonly polkit: string;
  readonly nix: { enable: boolean; settings: Record<string, unknown> };
  readonly docker: boolean;
  readonly podman: boolean;
  readonly netbird: boolean;
  readonly packages: readonly string[];
  readonly swap: readonly string[];
  readonly etc: Readonly<Record<string, string>>;
  readonly settings: Readonly<Record<string, string>>;
  readonly tools: readonly string[];
  readonly kept: Readonly<Record<string, { directories: string[]; files: string[]; users: Record<string, string[]> }>>;
  readonly preserved: boolean;
  readonly allowlist: unknown;
  readonly extraInit: string;
  readonly imageName: string;
}

/** Beginning of an expression in which `config` and `options` are of a system of these modules, on stand-ins for NixOS. */
export function onStandIns(modules: readonly string[]): string {
  const lib = nixpkgsLib ?? (nixpkgs && path.join(nixpkgs, "lib"));
  if (!lib) throw new Error("neither NIXPKGS nor NIXPKGS_LIB is set");
  return withLib(path.resolve(lib), modules);
}

/** The same with NixOS where it can be had. */
const system = (modules: readonly string[]): string =>
  nixpkgs ? withNixpkgs(path.resolve(nixpkgs), modules) : onStandIns(modules);

/** A system of all our modules and these. */
export const factsOf = (...modules: string[]): Facts =>
  evaluate(`${system([preservation, "./modules", ...modules])} ${facts}`);

/** Store path of the derivation of a whole system of all our modules and these, as a copy of nix/ has them; only with NixOS. */
export const systemPathOf = (folder: string, ...modules: string[]): string =>
  evaluate(
    `${withNixpkgs(path.resolve(nixpkgs ?? ""), [preservation, "./modules", ...modules])}
      builtins.unsafeDiscardStringContext config.system.build.toplevel.drvPath`,
    folder,
  );

/** A system of these modules only, on stand-ins. */
export const factsAlone = (...modules: string[]): Facts => evaluate(`${onStandIns(modules)} ${facts}`);

/** Why Nix refuses a system of all our modules and these by itself, before any assertion. */
export const faultsOf = (...modules: string[]): string =>
  attempt(`${system([preservation, "./modules", ...modules])} ${facts}`).error;

/** Says that tests were left out, in a test's place. */
export function notEvaluated(): void {
  process.stdout.write(
    "NIXPKGS_LIB is not set to the folder lib of a nixpkgs, nor NIXPKGS to one: the NixOS modules were parsed, not evaluated\n",
  );
  expect(nixpkgsLib ?? nixpkgs).toBeFalsy();
}
