# The account, what is kept of its home, and what home-manager makes there at each start, before the first session.
{ config, ... }:
{
  nixvm.image.name = "workbench";
  nixvm.user.name = "alice";
  nixvm.allowlist.users.alice.directories = [ "src" ];

  home-manager.useGlobalPkgs = true;
  home-manager.users.${config.nixvm.user.name} = {
    programs.fish.enable = true;
    home.stateVersion = "26.05";
  };
}
