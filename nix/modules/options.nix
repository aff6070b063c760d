{ lib, pkgs, ... }:
let
  nixvm = import ./lib.nix;
  inherit (lib) mkOption types;
in
{
  options.nixvm = {
    rootMode = mkOption {
      type = types.enum nixvm.rootModes;
      default = "readonly";
      description = "How / is made at each start. The seed of a machine has to ask for the same mode.";
    };
    image = {
      name = mkOption {
        type = types.strMatching "[a-z0-9][a-z0-9-]*";
        example = "template";
        description = "Name of the image; part of its id and of its file name.";
      };
      version = mkOption {
        type = types.strMatching "[A-Za-z0-9][A-Za-z0-9._-]*";
        default = "v1";
        description = "Version that the status record shows; for people, as the id already tells two images apart.";
      };
    };
    adminGroups = mkOption {
      type = types.listOf types.str;
      default = [ "wheel" ];
      description = "Groups of every account that the seed gives the role admin.";
    };
    guest = mkOption {
      type = types.package;
      internal = true;
      default = pkgs.callPackage ./guest.nix { };
      defaultText = "the scripts of nix/guest";
      description = "Package with the guest scripts and their units.";
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
        systemd
        util-linux
      ];
      defaultText = "the tools the scripts of nix/guest call";
      description = "What is on the PATH of the guest scripts.";
    };
  };
}
