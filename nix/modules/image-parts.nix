# The image of a system whose root is made at each start: an EFI partition and the store. Put together by
# systemd-repart, with identifiers and times that are the same in every build, and without a VM (V-44, V-51, V-62).
{ config, lib, pkgs, modulesPath, extendModules, recordFile, packagesFile }:
let
  cfg = config.nixvm;
  nixvm = import ./lib.nix;
  inherit (config.system.build) toplevel uki;
  inherit (config.system.boot.loader) ukiFile;
  registration = "${pkgs.closureInfo { rootPaths = [ toplevel ]; }}/registration";
  boot = "${pkgs.systemd}/lib/systemd/boot/efi/systemd-bootx64.efi";
  partitions = {
    "10-esp" = {
      contents = {
        "/EFI/BOOT/BOOTX64.EFI".source = boot;
        "/EFI/systemd/systemd-bootx64.efi".source = boot;
        "/EFI/Linux/${ukiFile}".source = "${uki}/${ukiFile}";
        "/loader/loader.conf".source = pkgs.writeText "loader.conf" "timeout 0\neditor no\nconsole-mode max\n";
      };
      repartConfig = {
        Type = "esp";
        Format = "vfat";
        Label = if cfg.rootMode == "zfs-rollback" then "EFI" else "ESP";
        SizeMinBytes = "1G";
      };
    };
    "20-store" =
      if cfg.store == "partition" then
        {
          storePaths = [ toplevel ];
          nixStorePrefix = "/store";
          contents = {
            "/image.json".source = recordFile;
            "/registration".source = registration;
          };
          repartConfig = {
            Type = "linux-generic";
            Format = "ext4";
            Label = "nix";
            # Room for the systems that the guest fetches, 20 GiB in all (V-44); what is not written takes no space.
            SizeMinBytes = if cfg.image.standalone then "14G" else "19G";
          };
        }
      else
        {
          storePaths = [ toplevel ];
          nixStorePrefix = "/";
          contents = {
            "/nixvm-image.json".source = recordFile;
            "/nixvm-registration".source = registration;
          };
          repartConfig = {
            Type = "linux-generic";
            Format = "squashfs";
            Label = nixvm.storeLabel;
            Minimize = "best";
          };
        };
  }
  // lib.optionalAttrs cfg.image.standalone {
    "30-persist".repartConfig = {
      Type = "linux-generic";
      Format = "ext4";
      Label = cfg.persist.label;
      SizeMinBytes = "5G";
    };
  };
  variant = extendModules {
    modules = [
      "${modulesPath}/image/repart.nix"
      {
        image.repart = {
          name = "main";
          version = null;
          inherit partitions;
        };
      }
    ];
  };
  disk = "${variant.config.system.build.image}/${variant.config.image.fileName}";
  folder =
    format: command:
    let
      name = "nixvm-${cfg.image.name}-${cfg.image.version}-${format}";
    in
    pkgs.runCommand name { nativeBuildInputs = [ pkgs.qemu-utils ]; } ''
      mkdir "$out"
      ${command}
      cp ${recordFile} "$out/${cfg.image.name}.json"
      cp ${packagesFile} "$out/${cfg.image.name}.packages.json"
    '';
in
{
  inherit partitions;
  qcow2 = folder "qcow2" "qemu-img convert -f raw -O qcow2 -c ${disk} \"$out/${cfg.image.name}.qcow2\"";
  raw = folder "raw" "cp --sparse=always ${disk} \"$out/main.raw\"";
}
