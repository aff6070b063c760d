# A minimal system: what the seed and the status record need, and nobody who could log in over a network (T-80).
{ lib, ... }:
{
  nixvm.enable = true;

  # The logs are data: they stay where /var/log does.
  environment.etc."systemd/journald.conf.d/nixvm.conf".text = ''
    [Journal]
    Storage=persistent
    SystemMaxUse=64M
  '';
  documentation.enable = false;
  time.timeZone = lib.mkDefault "UTC";
  system.stateVersion = "26.05";
}
