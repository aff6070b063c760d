# Pure functions of the NixOS side. Only builtins, so that they can be evaluated and tested without nixpkgs.
rec {
  # Version of the guest contract these modules and scripts honour.
  contract = 1;

  # Root modes that the contract knows, and those of them that can be built.
  knownRootModes = [
    "readonly"
    "tmpfs"
    "zfs-rollback"
    "persistent"
  ];
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

  # What a NixOS configuration has to be for these modules to keep the contract, as NixOS assertions. Each message names
  # the option, its value and what is allowed.
  demands =
    { rootMode, userborn, sysusers, etcOverlay, systemdInitrd }:
    let
      off = option: value: why: {
        assertion = !value;
        message = "${option} is true, allowed with nixvm.enable is false: ${why}";
      };
    in
    [
      {
        assertion = builtins.elem rootMode rootModes;
        message =
          "nixvm.rootMode is \"${rootMode}\", this release can build ${builtins.concatStringsSep ", " rootModes}; "
          + "choose one of these, or a release that can build the other";
      }
      (off "services.userborn.enable" userborn "account files come from the seed")
      (off "systemd.sysusers.enable" sysusers "account files come from the seed")
      (off "system.etc.overlay.enable" etcOverlay "/etc is part of the root, which is closed before the system starts")
      {
        assertion = systemdInitrd;
        message =
          "boot.initrd.systemd.enable is false, allowed with nixvm.enable is true: "
          + "units in the initrd take care of the seed and the persistent disk";
      }
    ];

  # The scripts and units below DIR (nix/guest), by name.
  guestFiles =
    dir:
    let
      regular = entries: builtins.filter (name: entries.${name} == "regular") (builtins.attrNames entries);
    in
    {
      scripts = regular (builtins.readDir dir);
      units = regular (builtins.readDir (dir + "/units"));
    };

  # Shell text that installs them below $out: the scripts byte for byte, the units with the path of the scripts filled
  # in. The reference guest's builder does the same.
  installGuest =
    { source, files }:
    let
      isPart = name: builtins.match ".*\\.(sh|jq|awk)" name != null;
      script = name: "install -m ${if isPart name then "644" else "755"} '${source}/${name}' \"$out/lib/nixvm/\"\n";
      unit =
        name:
        "sed \"s#@guest@#$out/lib/nixvm#g\" '${source}/units/${name}' "
        + "> \"$out/lib/systemd/system/${name}\"\n";
    in
    "mkdir -p \"$out/lib/nixvm\" \"$out/lib/systemd/system\"\n"
    + builtins.concatStringsSep "" (map script files.scripts ++ map unit files.units);

  # Files of /etc that differ between machines and come from the seed at each start. The first are links in the image
  # already. The others are made links in the initrd: the account files as NixOS writes them itself before the seed
  # takes them over, the machine id as the boot loader's installer fails where it finds a link that points nowhere.
  seedFiles = [
    "hostname"
    "hosts"
    "resolv.conf"
  ];
  accountFiles = [
    "passwd"
    "group"
    "shadow"
  ];
  lateFiles = accountFiles ++ [ "machine-id" ];
  seedFile = name: "/run/nixvm/etc/${name}";

  # What nix/guest/persist takes for granted when no seed says otherwise.
  persist = {
    label = "var";
    mount = "/var";
  };

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
