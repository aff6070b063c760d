# What every module reads: the image and the scripts of the guest.
{ config, lib, pkgs, ... }:
let
  nixvm = import ./lib.nix;
  inherit (lib) mkOption types;
in
{
  imports = [
    ./options-state.nix
    ./options-access.nix
  ];

  options.nixvm = {
    enable = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Whether this system is a nixvm guest. Without it nothing of these modules has any effect.";
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
      standalone = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = ''
          Whether the image runs without nixvm on its host: then the persistent volume is a partition of its only disk. Such a
          disk cannot be replaced by one with a new image without losing what is kept. Only with root mode `tmpfs`.
        '';
      };
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
      default = [ ];
      defaultText = "the tools the scripts of nix/guest call";
      description = "What is on the PATH of the guest scripts. Each module adds what its scripts need.";
    };
    facts = mkOption {
      type = types.attrsOf types.anything;
      internal = true;
      readOnly = true;
      default = {
        identity = nixvm.identity config.nixvm.persist.mount;
        host =
          if (config.networking.hostName or "") != "" then config.networking.hostName else config.nixvm.image.name;
      };
      defaultText = "made from the other options";
      description = "Values that several modules derive from the options.";
    };
  };
}
