# What is kept and what is not: root, store, /home, persistent volume, allowlist, scratch disk.
{ config, lib, ... }:
let
  cfg = config.nixvm;
  nixvm = import ./lib.nix;
  inherit (lib) mkOption types;
  list = types.listOf (types.either types.str (types.attrsOf types.anything));
  paths = kind: {
    ${kind} = mkOption {
      type = list;
      default = [ ];
      example = [ "/var/lib/service" ];
      description = ''
        Paths that are kept, in the form of preservation: a path, or a record with `directory` or `file` and any of `user`,
        `group`, `mode`, `how` and `inInitrd`. Those of an account are relative to its home.
      '';
    };
  };
in
{
  options.nixvm = {
    rootMode = mkOption {
      type = types.enum nixvm.rootModes;
      default = "readonly";
      example = "tmpfs";
      description = ''
        How / is made at each start: `readonly`, `tmpfs` (empty, in memory), `zfs-rollback` (a dataset put back to its
        empty snapshot) or `persistent`. The seed of a machine has to ask for the same mode.
      '';
    };
    store = mkOption {
      type = types.enum [
        "image"
        "partition"
        "dataset"
        "overlay"
      ];
      default = builtins.head nixvm.stores.${cfg.rootMode};
      defaultText = "image; for tmpfs overlay, for zfs-rollback dataset";
      example = "partition";
      description = ''
        Where the Nix store is: in the `image`, in its own writable `partition`, in a `dataset` of the pool, or read-only
        with a writable layer on the scratch disk above it (`overlay`).
      '';
    };
    home = {
      mode = mkOption {
        type = types.enum [
          "persistent"
          "tmpfs"
        ];
        default = if cfg.rootMode == "tmpfs" then "tmpfs" else "persistent";
        defaultText = "persistent, for rootMode tmpfs tmpfs";
        example = "tmpfs";
        description = "Whether /home is kept, or in memory and gone at power-off but for the allowlist.";
      };
      size = mkOption {
        type = types.strMatching "[0-9]+[KMG]?|[0-9]+%";
        default = "4G";
        example = "25%";
        description = "Limit of a /home in memory. The size that a seed gives wins.";
      };
    };
    persist = {
      mount = mkOption {
        type = types.nullOr (
          types.enum [
            "/var"
            "/persist"
          ]
        );
        default = if cfg.rootMode == "readonly" then "/var" else "/persist";
        defaultText = "/var with rootMode readonly, else /persist";
        example = null;
        description = "Where the persistent volume is mounted; `null`: there is none. A seed has to ask for the same.";
      };
      fs = mkOption {
        type = types.enum [
          "ext4"
          "zfs"
        ];
        default = if cfg.rootMode == "zfs-rollback" then "zfs" else "ext4";
        defaultText = "zfs with rootMode zfs-rollback, else ext4";
        example = "ext4";
        description = "What a blank persistent volume is formatted with.";
      };
      label = mkOption {
        type = types.strMatching "[A-Za-z0-9_.-]{1,16}";
        default = nixvm.persistLabel { inherit (cfg.persist) mount fs; };
        defaultText = "var, persist or rpool, by mount point and file system";
        example = "data";
        description = "Label of the volume, or name of its pool.";
      };
    };
    zfs.rollback = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = "Whether the root dataset is emptied at each start. Off for one in which a system is installed.";
    };
    allowlist =
      paths "directories"
      // paths "files"
      // {
        users = mkOption {
          type = types.attrsOf (types.submodule { options = paths "directories" // paths "files"; });
          default = { };
          example = {
            alice.directories = [ "Documents" ];
          };
          description = "Paths in the homes of accounts, by account. Each account has to be one of `users.users`.";
        };
      };
    scratch = {
      enable = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = "Whether there can be a scratch disk, encrypted under a key that only this boot's memory holds.";
      };
      nixOverlay = mkOption {
        type = types.bool;
        default = cfg.store == "overlay" && cfg.scratch.enable;
        defaultText = "with store overlay";
        example = true;
        description = "Whether programs may write to the store, to a layer that the seed asks for on the scratch disk.";
      };
    };
  };
}
