# Nobody can become root, and Nix is root's (V-5 to V-8, V-35, P-21).
{ config, lib, ... }:
let
  cfg = config.nixvm;
in
{
  imports = [ ./options.nix ];

  config = lib.mkIf (cfg.enable && cfg.hardening.enable) {
    security.sudo.enable = false;
    services.openssh.settings = {
      PasswordAuthentication = false;
      KbdInteractiveAuthentication = false;
    };
    nix.settings = {
      trusted-users = lib.mkForce [ "root" ];
      allowed-users = lib.mkForce [ "root" ];
    };
    # A system that was staged waits for a restart, and without sudo nobody else could ask for one.
    security.polkit = {
      enable = true;
      extraConfig = ''
        polkit.addRule(function (action, subject) {
          var reboot = /^org\.freedesktop\.login1\.reboot(-multiple-sessions)?$/;
          if (reboot.test(action.id) && subject.user == "${cfg.user.name}") return polkit.Result.YES;
        });
      '';
    };
  };
}
