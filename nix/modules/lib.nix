# Pure functions of the NixOS side. Only builtins, so that they can be evaluated and tested without nixpkgs.
rec {
  # Version of the guest contract these modules and scripts honour.
  contract = 1;

  # Root modes that can be built.
  rootModes = [ "readonly" ];

  # The name under which an image is known to a fleet; another closure is another image.
  imageId =
    { name, version, closure }:
    "nixvm-${name}-${version}-${builtins.substring 0 12 (builtins.hashString "sha256" closure)}";

  # Content of /etc/nixvm/image.json and of the sidecar beside the image file.
  imageRecord =
    { name, version, closure, modes ? rootModes }:
    {
      schema = 1;
      id = imageId { inherit name version closure; };
      inherit version contract;
      rootModes = modes;
    };

  # /etc/nixvm/guest.env, read by the guest scripts. A value that is set already wins, as in the reference guest.
  guestEnv =
    values:
    builtins.concatStringsSep "" (map (name: ": \"\${${name}:=${values.${name}}}\"\n") (builtins.attrNames values));

  # Files of /etc that differ between machines and come from the seed at each start. Account files are not among them: NixOS
  # writes those itself before the seed takes them over.
  seedFiles = [
    "hostname"
    "hosts"
    "machine-id"
    "resolv.conf"
  ];
  accountFiles = [
    "passwd"
    "group"
    "shadow"
  ];
  seedFile = name: "/run/nixvm/etc/${name}";

  # File-system label of the root in the image.
  rootLabel = "nixvm-root";

  # What the initrd has to load: the disks, and the CD-ROM with the seed on the q35 machine's SATA controller.
  initrdModules = [
    "ahci"
    "sr_mod"
    "isofs"
    "virtio_pci"
    "virtio_blk"
    "virtio_scsi"
    "ext4"
  ];
}
