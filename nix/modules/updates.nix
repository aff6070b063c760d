# Update mode "pull": the image can bring in a new system by itself (V-30 to V-42). What is done and when is in
# nix/guest/update and its units, which do nothing unless the seed says pull; here is how a system is had and how it
# takes over. Nothing here restarts the VM.
{ config, lib, pkgs, ... }:
let
  cfg = config.nixvm;
  nixvm = import ./lib.nix;
  text = import ./text.nix;
  wantedBy = unit: nixvm.wantedBy (builtins.readFile (../guest/units + "/nixvm-update.${unit}"));
  command = name: body: toString (pkgs.writeShellScript "nixvm-update-${name}" "set -eu\n${body}");
in
{
  imports = [ ./options.nix ];

  config = lib.mkIf (cfg.enable && cfg.update.mode == "pull") {
    nixvm.guestSettings = {
      NIXVM_UPDATE_FETCH = command "fetch" (text.updateFetch cfg.image.name);
      NIXVM_UPDATE_SWITCH = command "switch" text.updateSwitch;
    }
    # The one place where the image names its source (V-37).
    // lib.optionalAttrs (cfg.update.flake != null) { NIXVM_UPDATE_FLAKE = cfg.update.flake; };

    nix.settings.experimental-features = [
      "nix-command"
      "flakes"
    ];
    systemd.services.nixvm-update = {
      wantedBy = wantedBy "service";
      path = cfg.guestTools ++ [
        config.nix.package
        pkgs.gitMinimal
      ];
    };
    systemd.timers.nixvm-update.wantedBy = wantedBy "timer";
  };
}
