# Pure functions and facts of the NixOS side. Only builtins, so that they can be evaluated and tested without nixpkgs.
rec {
  # Version of the guest contract these modules and scripts honour.
  contract = 1;

  rootModes = [
    "readonly"
    "tmpfs"
    "zfs-rollback"
    "persistent"
  ];

  # Where the Nix store of an image may be, by root mode; the first is the default (C-7).
  stores = {
    readonly = [ "image" ];
    persistent = [ "image" ];
    tmpfs = [
      "overlay"
      "image"
      "partition"
    ];
    zfs-rollback = [ "dataset" ];
  };

  # The name under which an image is known to a fleet; another closure is another image.
  imageId =
    { name, version, closure }:
    "nixvm-${name}-${version}-${builtins.substring 0 12 (builtins.hashString "sha256" closure)}";

  # Content of /etc/nixvm/image.json and of the sidecar beside the image file.
  imageRecord =
    { name, version, closure, modes ? [ "readonly" ] }:
    {
      schema = 1;
      id = imageId { inherit name version closure; };
      inherit version contract;
      rootModes = modes;
    };

  # Where the image has its record. A root that is made anew has none of the image's own /etc; the store is there in
  # every mode, and for a pool that may not open the record is copied to where it does not depend on it.
  imageJson =
    { rootMode, store }:
    if rootMode == "zfs-rollback" then
      "/run/nixvm/image.json"
    else if store == "partition" then
      "/nix/image.json"
    else if rootMode == "tmpfs" then
      "/nix/store/nixvm-image.json"
    else
      "/etc/nixvm/image.json";

  # /etc/nixvm/guest.env, read by the guest scripts. A value that is set already wins, as in the reference guest.
  guestEnv =
    values:
    builtins.concatStringsSep "" (map (name: ": \"\${${name}:=${values.${name}}}\"\n") (builtins.attrNames values));

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

  # What the [Install] section of a unit's text says, which no package brings into effect on NixOS.
  wantedBy =
    text:
    builtins.concatMap (
      line:
      let
        targets = if builtins.isString line then builtins.match "WantedBy=(.*)" line else null;
      in
      if targets == null then [ ] else builtins.filter builtins.isString (builtins.split " +" (builtins.head targets))
    ) (builtins.split "\n" text);

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

  # Label of the persistent volume when nothing names another; with ZFS the name of the pool (8.5).
  persistLabel =
    { mount, fs }:
    if fs == "zfs" then
      "rpool"
    else if mount == "/var" then
      "var"
    else
      "persist";

  # Where nix/guest/lib.sh keeps the identity (8.5). In memory without a persistent volume.
  identity =
    mount:
    let
      lib = if mount == null then "/run/nixvm/kept" else "${mount}/lib";
    in
    if mount == "/persist" then
      {
        hostKey = "/persist/etc/ssh/ssh_host_ed25519_key";
        passwords = "/persist/passwords";
      }
    else
      {
        hostKey = "${lib}/identity/ssh_host_ed25519_key";
        passwords = "${lib}/identity/passwords";
      };

  # The seed's keys; those that a user keeps, at home or on the volume; those of the configuration (V-21, V-22).
  keyFiles =
    mount:
    [
      "/run/nixvm/ssh/%u"
      ".ssh/authorized_keys"
    ]
    ++ (if mount == "/persist" then [ "/persist/home/%u/.ssh/authorized_keys" ] else [ ])
    ++ [ "/etc/ssh/authorized_keys.d/%u" ];

  # Datasets of the pool by mount point; `zfs open` of the guest scripts makes the same (Z-28 to Z-33).
  datasets = pool: {
    "/" = "${pool}/local/root";
    "/nix" = "${pool}/local/nix";
    "/boot" = "${pool}/local/boot";
    "/home" = "${pool}/safe/home";
    "/persist" = "${pool}/safe/persist";
  };

  # File-system label of the root in an image that is one file system, and partition label of a store that is a
  # squashfs.
  rootLabel = "nixvm-root";
  storeLabel = "nixvm-store";

  # What the initrd has to load: disks and network, and the CD-ROM with the seed on the q35 machine's SATA controller
  # (Z-94).
  initrdModules = [
    "ahci"
    "sr_mod"
    "isofs"
    "virtio_pci"
    "virtio_blk"
    "virtio_scsi"
    "virtio_net"
    "ext4"
  ];
}
