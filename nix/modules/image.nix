# config.system.build.nixvmImage: the disk image NAME.qcow2 with its sidecar NAME.json.
{ config, lib, pkgs, modulesPath, ... }:
let
  cfg = config.nixvm;
  nixvm = import ./lib.nix;
  record = builtins.toJSON (
    nixvm.imageRecord {
      inherit (cfg.image) name version;
      # Of the derivation and not of its content: the record itself is not part of the system, so there is no circle.
      closure = builtins.unsafeDiscardStringContext "${config.system.build.toplevel}";
      modes = [ cfg.rootMode ];
    }
  );
  recordFile = pkgs.writeText "image.json" "${record}\n";
  disk = import "${modulesPath}/../lib/make-disk-image.nix" {
    inherit config lib pkgs;
    format = "qcow2-compressed";
    partitionTableType = "efi";
    label = nixvm.rootLabel;
    copyChannel = false;
    additionalSpace = "256M";
    contents = [
      {
        source = recordFile;
        target = "/etc/nixvm/image.json";
        mode = "444";
      }
    ];
  };
in
{
  config = {
    boot.loader = {
      timeout = 0;
      efi.canTouchEfiVariables = false;
      systemd-boot = {
        enable = true;
        editor = false;
        consoleMode = "max";
      };
    };
    system.build.nixvmImage = pkgs.runCommand "nixvm-${cfg.image.name}-${cfg.image.version}" { passthru = { inherit record; }; } ''
      mkdir -p $out
      ln -s ${disk}/nixos.qcow2 $out/${cfg.image.name}.qcow2
      cp ${recordFile} $out/${cfg.image.name}.json
    '';
  };
}
