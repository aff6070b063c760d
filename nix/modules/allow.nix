# The allowlist of the configuration, by the module preservation (P-11 to P-19, C-12). The seed's list is the guest
# script's, which mounts it in the initrd; for a path that is on both, the second finds it mounted already.
{ config, lib, options, ... }:
let
  cfg = config.nixvm;
  inherit (cfg.persist) mount;
  allowlist = import ./allowlist.nix;
  good = mount != null && allowlist.faults mount cfg.allowlist == [ ];
  used = cfg.enable && good && allowlist.entries cfg.allowlist != [ ];
  kept = allowlist.render mount cfg.allowlist;
  # NixOS's activation gives out the numbers of accounts in the initrd, and reads there what it gave out before.
  early = entry: entry // lib.optionalAttrs (entry.directory == "/var/lib/nixos") { inInitrd = true; };
in
{
  imports = [ ./options.nix ];

  config = lib.optionalAttrs (options ? preservation) (
    lib.mkIf used {
      preservation.enable = true;
      preservation.preserveAt.${mount} = kept // {
        directories = map early kept.directories;
      };
    }
  );
}
