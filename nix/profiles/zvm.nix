# Preset "zvm": root in memory, seven paths that stay, one account that cannot become root, updates pulled from a flake
# (V rows).
{ config, lib, ... }:
{
  imports = [ ./core.nix ];

  nixvm = {
    rootMode = "tmpfs";
    store = "partition";
    user.enable = true;
    user.name = lib.mkDefault "zvm";
    hardening.enable = true;
    netbird.enable = true;
    update.mode = "pull";
    allowlist = ((import ../modules/allowlist.nix).presets config.nixvm.user.name).zvm;
  };
}
