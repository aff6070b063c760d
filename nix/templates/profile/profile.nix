# What this image has beyond its profile.
{ pkgs, ... }:
{
  nixvm.image.name = "own";
  nixvm.image.version = "v1";

  environment.systemPackages = [ pkgs.git ];
}
