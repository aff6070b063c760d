# The VPN client. It enrols once: its identity is in /var/lib/netbird, which has to be kept (V-16, V-28, V-29).
{ config, lib, ... }:
let
  cfg = config.nixvm;
in
{
  imports = [ ./options.nix ];

  config = lib.mkIf (cfg.enable && cfg.netbird.enable) { services.netbird.enable = true; };
}
