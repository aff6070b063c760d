# The Nix store by where it is (C-7). One that cannot be written to has no Nix (T-15); one that can needs a database of
# what is in it.
{ config, lib, ... }:
let
  cfg = config.nixvm;
  inherit (cfg) store;
  writable = store == "partition" || store == "dataset" || cfg.scratch.nixOverlay;
  # Made with the image, beside the store. With a pool only after a start that has brought in paths of the image.
  registration =
    {
      partition = "/nix/registration";
      dataset = "/run/nixvm/registration";
      overlay = "/nix/store/nixvm-registration";
    }
    .${store};
in
{
  imports = [ ./options.nix ];

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      { nix.enable = lib.mkDefault (writable || cfg.rootMode == "persistent"); }
      # In memory, but for a root that stays: there heavy builds find room on its disk, as /home may be in memory (C-6,
      # P-34).
      { boot.tmp.useTmpfs = lib.mkDefault (cfg.rootMode != "persistent"); }
      (lib.mkIf (config.nix.enable && store != "image") {
        systemd.services.nixvm-registration = {
          description = "Tell Nix what the image has brought into its store";
          wantedBy = [ "multi-user.target" ];
          before = [ "nix-daemon.service" ];
          unitConfig.ConditionPathExists = [
            registration
          ]
          ++ lib.optional (store != "dataset") "!/nix/var/nix/db/db.sqlite";
          serviceConfig.Type = "oneshot";
          script = "${config.nix.package}/bin/nix-store --load-db < ${registration}";
        };
      })
    ]
  );
}
