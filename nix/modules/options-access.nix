# Who may do what, and who brings new systems.
{ config, lib, ... }:
let
  cfg = config.nixvm;
  inherit (lib) mkOption types;
  switch =
    description:
    mkOption {
      type = types.bool;
      default = false;
      example = true;
      inherit description;
    };
in
{
  options.nixvm = {
    adminGroups = mkOption {
      type = types.listOf types.str;
      default = [ "wheel" ];
      example = [
        "wheel"
        "systemd-journal"
      ];
      description = "Groups of every account that the seed gives the role admin. Members of wheel have sudo.";
    };
    userGroups = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "docker" ];
      description = "Groups of every account that the seed gives the role user.";
    };
    user = {
      enable = switch ''
        Whether the configuration declares the account by itself. A seed that is there says whether it exists, with
        which role and keys; without one the image has it.
      '';
      name = mkOption {
        type = types.strMatching "[a-z_][a-z0-9_-]*";
        default = "user";
        example = "alice";
        description = "Name of the one human account: for the allowlist, the password file, what waits for home-manager.";
      };
      role = mkOption {
        type = types.enum [
          "admin"
          "user"
        ];
        default = "user";
        example = "admin";
        description = "Its groups are `adminGroups` or `userGroups`.";
      };
      passwordFile = mkOption {
        type = types.nullOr types.str;
        default = if cfg.persist.mount == null then null else "${cfg.facts.identity.passwords}/${cfg.user.name}";
        defaultText = "passwords/<name> on the persistent volume";
        example = "/persist/passwords/alice";
        description = "File with the crypt(3) hash of the password. While it is missing the password is locked.";
      };
    };
    hardening.enable = switch "Whether nobody can become root: no sudo, keys only, Nix for root alone.";
    netbird.enable = switch "Whether the VPN client NetBird runs. Its state has to be kept, by the allowlist or with /var.";
    update = {
      mode = mkOption {
        type = types.enum [
          "image"
          "pull"
        ];
        default = "image";
        example = "pull";
        description = ''
          `image`: a new system comes with a new image. `pull`: the image can fetch one itself, at each start and then
          hourly, when the seed says so. Nothing restarts by itself: another kernel waits for the next start.
        '';
      };
      flake = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "git+https://example.org/systems#zvm";
        description = "Where systems are pulled from unless the seed says. Public: no credential is used.";
      };
    };
  };
}
