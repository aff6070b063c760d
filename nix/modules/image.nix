# config.system.build.nixvmImage: a folder with the disk image NAME.qcow2 and its sidecar NAME.json. It is made in a
# small VM of nixpkgs' own, so the machine that builds it needs /dev/kvm (Nix's system feature "kvm").
{ config, lib, pkgs, modulesPath, ... }:
let
  cfg = config.nixvm;
  nixvm = import ./lib.nix;
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
in
{
  config = lib.mkIf cfg.enable {
    boot.loader = {
      timeout = 0;
      efi.canTouchEfiVariables = false;
      systemd-boot = {
        enable = true;
        editor = false;
        consoleMode = "max";
      };
    };
    system.build.nixvmImage = import "${modulesPath}/../lib/make-disk-image.nix" {
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
      # Two plain files and no links, so that the folder can be copied to another machine as it is.
      postVM = ''
        mv "$diskImage" "$out/${cfg.image.name}.qcow2"
        cp ${recordFile} "$out/${cfg.image.name}.json"
        rm -rf "$out/nix-support"
      '';
    };
  };
}
