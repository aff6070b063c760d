# Preset "template": read-only root, /var and /home on the persistent disk, accounts admin and user from the seed, SSH
# with keys.
{
  imports = [ ./core.nix ];

  nixvm.rootMode = "readonly";
}
