# Preset "template": read-only root, /var and /home on the persistent disk, accounts admin and user from the seed, SSH with keys.
{ pkgs, ... }:
{
  nixvm.rootMode = "readonly";

  environment.systemPackages = with pkgs; [
    curl
    htop
    jq
    vim
  ];
  # The logs are data: they stay over an upgrade.
  services.journald.extraConfig = ''
    Storage=persistent
    SystemMaxUse=64M
  '';
  services.getty.autologinUser = null;
  documentation.enable = false;
  time.timeZone = "UTC";
  system.stateVersion = "25.05";
}
