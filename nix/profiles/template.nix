# Preset "template": read-only root, /var and /home on the persistent disk, accounts admin and user from the seed, SSH
# with keys.
{ pkgs, ... }:
{
  nixvm.enable = true;
  nixvm.rootMode = "readonly";

  environment.systemPackages = with pkgs; [
    curl
    htop
    jq
    vim
  ];
  # The logs are data: they stay over an upgrade.
  environment.etc."systemd/journald.conf.d/nixvm.conf".text = ''
    [Journal]
    Storage=persistent
    SystemMaxUse=64M
  '';
  documentation.enable = false;
  time.timeZone = "UTC";
  system.stateVersion = "26.05";
}
