# docker with development tools, and Docker for every account (T-83).
{ pkgs, ... }:
{
  imports = [ ./docker.nix ];

  nixvm.userGroups = [ "docker" ];
  environment.systemPackages = with pkgs; [
    gcc
    git
    gnumake
    nodejs
    python3
    ripgrep
    tmux
  ];
}
