# The first session of an account waits until home-manager has written its files, so that no program starts without its
# settings. A want and not a requirement: when home-manager fails, logins still work (P-23 to P-29).
{ config, lib, options, ... }:
let
  cfg = config.nixvm;
  names = builtins.attrNames config.home-manager.users;
  units = map (name: "home-manager-${name}.service") (builtins.filter (name: name == cfg.user.name) names);
in
{
  imports = [ ./options.nix ];

  config = lib.optionalAttrs (options ? home-manager) (
    lib.mkIf (cfg.enable && units != [ ]) {
      # user@ is one of systemd's own units: a replacement of it would be without all that it has.
      systemd.services."user@" = {
        overrideStrategy = "asDropin";
        after = units;
        wants = units;
        serviceConfig.TimeoutStartSec = "90";
      };
    }
  );
}
