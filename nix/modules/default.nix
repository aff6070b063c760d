# The guest contract on NixOS: the same scripts and units as in the reference guest (images/).
{ config, lib, pkgs, ... }:
let
  cfg = config.nixvm;
  nixvm = import ./lib.nix;
in
{
  imports = [
    ./options.nix
    ./image.nix
    ./readonly.nix
  ];

  config = lib.mkIf cfg.enable {
    assertions = nixvm.demands {
      inherit (cfg) rootMode;
      userborn = config.services.userborn.enable;
      sysusers = config.systemd.sysusers.enable;
      etcOverlay = config.system.etc.overlay.enable;
      systemdInitrd = config.boot.initrd.systemd.enable;
    };

    nixvm.guestSettings = {
      # Made at each start from what the system's own activation has written.
      NIXVM_SHARE = "/run/nixvm/share";
      NIXVM_ADMIN_GROUPS = builtins.concatStringsSep " " cfg.adminGroups;
      NIXVM_SHELL = "/run/current-system/sw/bin/bash";
      NIXVM_SSH_UNIT = "sshd.service";
    };

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
    # Units of a package bring no [Install] section into effect.
    systemd.services = {
      nixvm-seed = {
        wantedBy = [ "sysinit.target" ];
        path = cfg.guestTools;
      };
      nixvm-grow = {
        wantedBy = [ "multi-user.target" ];
        path = cfg.guestTools;
      };
      nixvm-status = {
        wantedBy = [ "graphical.target" ];
        path = cfg.guestTools;
      };
      sshd.after = [ "nixvm-seed.service" ];
      # The key in hostKeys is the seed's, or was made by its script. Only where both failed this one may make it.
      sshd-keygen.after = [ "nixvm-seed.service" ];
    };
    # The status record comes last, so there has to be a target after multi-user.target.
    systemd.defaultUnit = "graphical.target";

    # Accounts, keys and the root password come from the seed; until it is applied nobody can log in (T-109, T-112).
    users.mutableUsers = false;
    users.allowNoPasswordLogin = true;
    users.users.root.hashedPassword = "!";
    security.sudo.enable = true;
    security.sudo.wheelNeedsPassword = false;
    services.openssh = {
      enable = true;
      openFirewall = false;
      hostKeys = [
        {
          type = "ed25519";
          path = "${cfg.persist.mount}/lib/identity/ssh_host_ed25519_key";
        }
      ];
      authorizedKeysFiles = lib.mkForce [
        "/run/nixvm/ssh/%u"
        ".ssh/authorized_keys"
      ];
      settings = {
        PermitRootLogin = "no";
        PasswordAuthentication = false;
        KbdInteractiveAuthentication = false;
        AuthenticationMethods = "publickey";
      };
    };

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
