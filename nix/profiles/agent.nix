# dev with a coding agent (T-84). It is not free software, so this one package is allowed by name.
{ lib, pkgs, ... }:
{
  imports = [ ./dev.nix ];

  nixpkgs.config.allowUnfreePredicate = package: lib.getName package == "claude-code";
  environment.systemPackages = [ pkgs.claude-code ];
}
