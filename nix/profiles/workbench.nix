# Preset "workbench": all stays but /home, which is in memory with two folders that are kept; the account cannot become
# root (P rows).
{ config, ... }:
{
  imports = [ ./core.nix ];

  nixvm = {
    rootMode = "persistent";
    home.mode = "tmpfs";
    user.enable = true;
    allowlist = ((import ../modules/allowlist.nix).presets config.nixvm.user.name).workbench;
  };
  security.sudo.enable = false;
}
