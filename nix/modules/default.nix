# The guest contract on NixOS: the same scripts and units as in the reference guest (images/).
{ config, lib, options, pkgs, ... }:
let
  cfg = config.nixvm;
  nixvm = import ./lib.nix;
  withPassword = user: (user.password or null) != null || (user.initialPassword or null) != null;
  checks = import ./demands.nix {
    inherit (cfg) rootMode store;
    inherit (cfg.facts) host;
    inherit (cfg.image) standalone;
    inherit (cfg.persist) mount fs;
    inherit (cfg.scratch) nixOverlay;
    home = cfg.home.mode;
    scratch = cfg.scratch.enable;
    update = cfg.update.mode;
    otherUpdater = config.system.autoUpgrade.enable or false;
    hostId = config.networking.hostId or null;
    zfsBroken = config.boot.zfs.modulePackage.meta.broken or false;
    systemdInitrd = config.boot.initrd.systemd.enable;
    userborn = config.services.userborn.enable;
    sysusers = config.systemd.sysusers.enable;
    etcOverlay = config.system.etc.overlay.enable;
    passwords = builtins.attrNames (lib.filterAttrs (_: withPassword) config.users.users);
    clearSwap = map (swap: swap.device) (
      builtins.filter (swap: !(swap.randomEncryption.enable or false)) config.swapDevices
    );
    allowlistFaults = (import ./allowlist.nix).faults cfg.persist.mount cfg.allowlist;
    allowlistUsed = (import ./allowlist.nix).entries cfg.allowlist != [ ];
    preservation = options ? preservation;
  };
in
{
  imports = [
    ./options.nix
    ./allow.nix
    ./ephemeral.nix
    ./hardening.nix
    ./home.nix
    ./home-manager.nix
    ./image.nix
    ./initrd.nix
    ./netbird.nix
    ./persist.nix
    ./persistent.nix
    ./readonly.nix
    ./rollback.nix
    ./scratch.nix
    ./ssh.nix
    ./store.nix
    ./updates.nix
    ./user.nix
  ];

  config = lib.mkIf cfg.enable {
    inherit (checks) assertions warnings;

    nixvm.guestSettings = {
      # Made at each start from what the system's own activation has written.
      NIXVM_SHARE = "/run/nixvm/share";
      NIXVM_ADMIN_GROUPS = builtins.concatStringsSep " " cfg.adminGroups;
      NIXVM_USER_GROUPS = builtins.concatStringsSep " " cfg.userGroups;
      NIXVM_SHELL = "/run/current-system/sw/bin/bash";
      NIXVM_SSH_UNIT = "sshd.service";
      NIXVM_SUDO = "/run/wrappers/bin/sudo";
      NIXVM_IMAGE_JSON = nixvm.imageJson { inherit (cfg) rootMode store; };
      NIXVM_ROOT_MODE = cfg.rootMode;
      NIXVM_PERSIST =
        if cfg.persist.mount == null then
          "none"
        else
          "${cfg.persist.mount}\t${cfg.persist.fs}\t${cfg.persist.label}";
    };
    nixvm.guestTools = with pkgs; [
      coreutils
      diffutils
      e2fsprogs
      findutils
      gawk
      gnugrep
      gnused
      kmod
      nftables
      openssh
      config.systemd.package
      util-linux
    ];

    environment.etc =
      # Links to what the seed renders; they point nowhere until it has, and NixOS's own content would win over it.
      lib.genAttrs nixvm.seedFiles (name: { source = lib.mkForce (nixvm.seedFile name); })
      // {
        "nixvm/guest.env".text = nixvm.guestEnv cfg.guestSettings;
        # Under emulation a start takes minutes where it takes seconds elsewhere; a limit must not turn slow into
        # broken.
        "systemd/system.conf.d/nixvm.conf".text = ''
          [Manager]
          DefaultTimeoutStartSec=300s
          DefaultDeviceTimeoutSec=600s
        '';
      };

    systemd.packages = [ cfg.guest ];
    systemd.services = lib.mkMerge [
      (lib.genAttrs [ "nixvm-seed" "nixvm-grow" "nixvm-status" ] (name: {
        wantedBy = nixvm.wantedBy (builtins.readFile (../guest/units + "/${name}.service"));
        path = cfg.guestTools;
      }))
      # It closes sudo where no account may use it, so that has to be there.
      { nixvm-seed.after = [ "suid-sgid-wrappers.service" ]; }
      # It notes every question that it is asked, and the gate and the verbs ask many.
      { qemu-guest-agent.serviceConfig.LogLevelMax = "notice"; }
    ];
    # The status record comes last, so there has to be a target after multi-user.target.
    systemd.defaultUnit = "graphical.target";

    # Accounts, keys and the root password come from the seed; until it is applied nobody can log in (T-112). Nobody is
    # root by a password of the image (Z-81).
    users.mutableUsers = false;
    users.allowNoPasswordLogin = true;
    users.users.root.hashedPassword = lib.mkDefault "!";
    security.sudo.enable = lib.mkDefault true;
    security.sudo.wheelNeedsPassword = lib.mkDefault false;

    # The seed writes the network's files, the resolver's and the firewall's rules.
    networking = {
      hostName = lib.mkDefault "";
      useDHCP = false;
      useNetworkd = true;
      firewall.enable = false;
      resolvconf.enable = false;
    };
    systemd.network.wait-online.enable = false;
    services.resolved.enable = false;

    services.qemuGuest.enable = true;
    # udev's own rule locks the tray of a drive with a medium, and then a new seed could not be put in while the guest
    # runs.
    services.udev.extraRules = ''
      SUBSYSTEM=="block", KERNEL=="sr[0-9]*", ENV{ID_CDROM_MEDIA}=="1", \
        RUN+="${pkgs.util-linux}/bin/eject -i off /dev/%k"
    '';

    boot.kernelParams = [
      "console=ttyS0,115200n8"
      "net.ifnames=0"
    ];
    boot.initrd = {
      systemd.enable = true;
      availableKernelModules = nixvm.initrdModules;
      kernelModules = nixvm.initrdModules;
    };
  };
}
