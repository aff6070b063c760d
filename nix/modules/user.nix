# The one human account of the presets that have one, with a group of its own name (V-4, V-5, V-19, Z-74 to Z-76).
{ config, lib, ... }:
let
  cfg = config.nixvm;
  inherit (cfg) user;
in
{
  imports = [ ./options.nix ];

  config = lib.mkIf (cfg.enable && user.enable) {
    users.users.${user.name} = {
      isNormalUser = true;
      group = user.name;
      extraGroups = if user.role == "admin" then cfg.adminGroups else cfg.userGroups;
      hashedPasswordFile = user.passwordFile;
    };
    users.groups.${user.name} = { };
  };
}
