# Preset "rollback": root on ZFS, emptied at each start; /nix, /boot, /home and /persist stay (Z rows). No SSH server: a
# system that wants one sets services.openssh.enable.
{ config, lib, ... }:
let
  inherit (config.nixvm) image user;
in
{
  imports = [ ./base.nix ];

  nixvm = {
    rootMode = "zfs-rollback";
    user.enable = true;
    user.name = lib.mkDefault "admin";
    user.role = lib.mkDefault "admin";
    # A link to the folder of all password files, by the name that the preset's document gives it.
    user.passwordFile = "/persist/etc/nixos-secrets/passwords/${user.name}";
  };
  # Until the seed brings the machine's own.
  networking.hostId = lib.mkDefault (builtins.substring 0 8 (builtins.hashString "sha256" image.name));
}
