# Preset "sealed": nothing is kept. Root and /home are in memory, bulk data on a disk encrypted under a key of this boot
# (E rows).
{
  imports = [ ./core.nix ];

  nixvm = {
    rootMode = "tmpfs";
    store = "overlay";
    persist.mount = null;
    scratch.enable = true;
    user.enable = true;
  };
  security.sudo.enable = false;
}
