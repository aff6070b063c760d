# core with Podman and what goes with it.
{ pkgs, ... }:
{
  imports = [ ./core.nix ];

  virtualisation.podman.enable = true;
  environment.systemPackages = with pkgs; [
    buildah
    skopeo
  ];
}
