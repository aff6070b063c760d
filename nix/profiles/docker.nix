# core with Docker, for accounts of role admin (T-82).
{
  imports = [ ./core.nix ];

  virtualisation.docker.enable = true;
  nixvm.adminGroups = [
    "wheel"
    "docker"
  ];
}
