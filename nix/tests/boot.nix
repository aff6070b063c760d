# Boots the image of a preset as nixvm would: the disk on an overlay, the volume by its serial, the seed on a medium of
# its own.
{ pkgs, nixvm }:
{
  preset,
  seed, # what the key nixvm of the seed has beside what all have
  modules ? [ ],
  disks ? { }, # size in MiB by virtio serial
  script,
}:
let
  inherit (pkgs) lib;
  key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB8Ht8Z3j6yDWPBHQtOp/R9rjWvfMYo3MSA/K6q8D86r test";
  userData = pkgs.writeText "user-data" ''
    #cloud-config
    ${builtins.toJSON {
      hostname = preset;
      nixvm = {
        contract = 1;
        identity = { };
        rootPasswordHash = null;
        tcpPorts = [ 22 ];
        accounts = map (account: account // { authorizedKeys = [ key ]; passwordHash = null; }) seed.accounts;
      }
      // removeAttrs seed [ "accounts" ];
    }}
  '';
  metaData = pkgs.writeText "meta-data" (builtins.toJSON { instance-id = preset; local-hostname = preset; });
  networkConfig = pkgs.writeText "network-config" (builtins.toJSON { version = 2; });
  medium = pkgs.runCommand "seed.iso" { nativeBuildInputs = [ pkgs.cdrkit ]; } ''
    mkdir seed
    cp ${userData} seed/user-data
    cp ${metaData} seed/meta-data
    cp ${networkConfig} seed/network-config
    genisoimage -quiet -volid cidata -joliet -rock -output "$out" seed
  '';
in
pkgs.testers.runNixOSTest {
  name = "nixvm-${preset}";
  nodes.machine = {
    imports = [
      nixvm.nixosModules.default
      nixvm.nixosModules."profile-${preset}"
    ]
    ++ modules;
    nixvm.image.name = preset;
    # The seed names the machine; the driver knows it by this.
    networking.hostName = lib.mkForce "";
    system.name = "machine";
    virtualisation = {
      memorySize = 2048;
      # All of it comes from the image.
      directBoot.enable = false;
      mountHostNixStore = false;
      useEFIBoot = true;
      fileSystems = lib.mkForce { };
      emptyDiskImages = lib.mapAttrsToList (serial: size: {
        inherit size;
        driveConfig.deviceExtraOpts = { inherit serial; };
      }) disks;
      qemu.options = [ "-drive file=${medium},if=virtio,format=raw,readonly=on" ];
    };
  };
  testScript =
    { nodes, ... }:
    ''
      import json, os, subprocess, tempfile

      disk = tempfile.NamedTemporaryFile()
      subprocess.run(
          ["${nodes.machine.virtualisation.qemu.package}/bin/qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2",
           "-b", "${nodes.machine.system.build.nixvmImage}/${preset}.qcow2", disk.name],
          check=True)
      os.environ["NIX_DISK_IMAGE"] = disk.name


      def status():
          machine.wait_for_unit("nixvm-status.service")
          return json.loads(machine.succeed("cat /run/nixvm/status.json"))


      def restart():
          machine.shutdown()
          machine.start()
          return status()


      machine.start()
      now = status()
      assert now["healthy"], now["reasons"]
      assert now["rootMode"] == "${seed.rootMode}", now
      ${script}
    '';
}
