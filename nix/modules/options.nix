{ config, lib, pkgs, ... }:
let
  nixvm = import ./lib.nix;
  inherit (lib) mkOption types;
in
{
  options.nixvm = {
    enable = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Whether this system is a nixvm guest. Without it nothing of these modules has any effect.";
    };
    rootMode = mkOption {
      type = types.enum nixvm.knownRootModes;
      default = "readonly";
      example = "readonly";
      description = ''
        How / is made at each start. The seed of a machine has to ask for the same mode. This release builds `readonly`
        and refuses the others.
      '';
    };
    image = {
      name = mkOption {
        type = types.strMatching "[a-z0-9][a-z0-9-]*";
        default = "nixos";
        example = "template";
        description = "Name of the image; part of its id and of its file name. The flake sets the name of the profile.";
      };
      version = mkOption {
        type = types.strMatching "[A-Za-z0-9][A-Za-z0-9._-]*";
        default = "v1";
        example = "2026-11";
        description = "Version that the status record shows; for people, as the id already tells two images apart.";
      };
    };
    persist = {
      label = mkOption {
        type = types.str;
        readOnly = true;
        default = nixvm.persist.label;
        example = "var";
        description = ''
          Label of the file system on the persistent disk while no seed names one (the stack file does). To be read by
          other modules; the guest scripts hold the value.
        '';
      };
      mount = mkOption {
        type = types.path;
        readOnly = true;
        default = nixvm.persist.mount;
        example = "/var";
        description = ''
          Where the persistent disk is mounted; root mode `readonly` has /var only. To be read by other modules, which
          put below it what has to outlive an upgrade.
        '';
      };
    };
    adminGroups = mkOption {
      type = types.listOf types.str;
      default = [ "wheel" ];
      example = [
        "wheel"
        "systemd-journal"
      ];
      description = "Groups of every account that the seed gives the role admin. Members of wheel have sudo.";
    };
    guest = mkOption {
      type = types.package;
      internal = true;
      default = pkgs.callPackage ./guest.nix { };
      defaultText = "the scripts of nix/guest";
      description = "Package with the guest scripts and their units.";
    };
    guestSettings = mkOption {
      type = types.attrsOf types.str;
      internal = true;
      default = { };
      example = { NIXVM_SHELL = "/run/current-system/sw/bin/bash"; };
      description = "Variables of nix/guest/lib.sh that are not at their default on this system.";
    };
    guestTools = mkOption {
      type = types.listOf types.package;
      internal = true;
      default = with pkgs; [
        coreutils
        diffutils
        e2fsprogs
        findutils
        gawk
        gnugrep
        gnused
        jq
        kmod
        nftables
        openssh
        config.systemd.package
        util-linux
      ];
      defaultText = "the tools the scripts of nix/guest call";
      description = "What is on the PATH of the guest scripts.";
    };
  };
}
