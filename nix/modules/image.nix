# config.system.build.nixvmImage: a folder with the disk image NAME.qcow2 and its sidecar NAME.json. nixvmRaw: the same
# as main.raw.
{ config, lib, pkgs, modulesPath, extendModules, ... }:
let
  cfg = config.nixvm;
  nixvm = import ./lib.nix;
  zfs = cfg.rootMode == "zfs-rollback";
  # The root of these is the image's own; all others have a root that is made at each start, and of the image only its
  # store.
  whole = cfg.rootMode == "readonly" || cfg.rootMode == "persistent";
  record = builtins.toJSON (
    nixvm.imageRecord {
      inherit (cfg.image) name version;
      # The store path of the system, which Nix makes of everything that goes into it and knows before anything is
      # built. The record is put beside the system and is no part of it, so that its id does not depend on itself.
      closure = builtins.unsafeDiscardStringContext "${config.system.build.toplevel}";
      modes = [ cfg.rootMode ];
    }
  );
  recordFile = pkgs.writeText "image.json" "${record}\n";
  # What `nixvm image diff` compares: the closure, a store path a line, as JSON. It is put beside the image and is no part of it.
  packagesFile = pkgs.runCommand "packages.json" { } ''
    {
      echo '{ "schema": 1, "kind": "nix", "paths": ['
      sort ${
        pkgs.closureInfo { rootPaths = [ config.system.build.toplevel ]; }
      }/store-paths | sed -e 's/.*/  "&"/' -e '$!s/$/,/'
      echo '] }'
    } > $out
  '';
  parts = import ./image-parts.nix {
    inherit config lib pkgs modulesPath extendModules recordFile packagesFile;
  };
in
{
  imports = [ ./options.nix ];

  config = lib.mkIf cfg.enable {
    boot.loader = {
      timeout = 0;
      efi.canTouchEfiVariables = zfs;
      efi.efiSysMountPoint = if zfs then "/boot/efi" else "/boot";
      systemd-boot = {
        enable = true;
        editor = false;
        consoleMode = "max";
      };
    };
    system.build = {
      nixvmImage =
        if whole then
          # Made in a small VM of nixpkgs' own, so the machine that builds it needs /dev/kvm (Nix's system feature
          # "kvm").
          import "${modulesPath}/../lib/make-disk-image.nix" {
            inherit config lib pkgs;
            name = "nixvm-${cfg.image.name}-${cfg.image.version}";
            format = "qcow2-compressed";
            partitionTableType = "efi";
            label = nixvm.rootLabel;
            copyChannel = false;
            # what the activation writes to the root at each start
            additionalSpace = "256M";
            contents = [
              {
                source = recordFile;
                target = "/etc/nixvm/image.json";
                mode = "444";
              }
            ];
            # Plain files and no links, so that the folder can be copied to another machine as it is.
            postVM = ''
              mv "$diskImage" "$out/${cfg.image.name}.qcow2"
              cp ${recordFile} "$out/${cfg.image.name}.json"
              cp ${packagesFile} "$out/${cfg.image.name}.packages.json"
              rm -rf "$out/nix-support"
            '';
          }
        else
          parts.qcow2;
    }
    // lib.optionalAttrs (!whole) { nixvmRaw = parts.raw; };
  };
}
