# base, an SSH server for the accounts of the seed, and what a person expects to find on a server (T-81).
{ pkgs, ... }:
{
  imports = [ ./base.nix ];

  services.openssh.enable = true;
  environment.systemPackages = with pkgs; [
    curl
    htop
    jq
    vim
  ];
}
