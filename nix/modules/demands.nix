# What a configuration has to be for these modules to keep the contract, as NixOS assertions and warnings made from
# plain facts. Each text names the host, the option, its value and what is allowed. Only builtins.
{
  host, # name of the host, else of its image
  rootMode,
  store,
  standalone, # nixvm.image.standalone
  home, # "persistent" or "tmpfs"
  mount, # of the persistent volume, or null
  fs,
  scratch, # whether the image can have a scratch disk
  nixOverlay,
  update, # "image" or "pull"
  otherUpdater, # system.autoUpgrade.enable
  hostId,
  zfsBroken, # whether the kernel lacks a ZFS module
  systemdInitrd,
  userborn,
  sysusers,
  etcOverlay,
  passwords, # names of users with a password in the configuration itself
  clearSwap, # swap devices that are not encrypted under a random key
  allowlistFaults,
  allowlistUsed,
  preservation, # whether its module is there
}:
let
  inherit (import ./lib.nix) stores;
  show = value: if value == null then "null" else builtins.toJSON value;
  words = builtins.concatStringsSep ", ";
  mode = "nixvm.rootMode ${rootMode}";
  zfs = rootMode == "zfs-rollback";
  inMemory = rootMode == "tmpfs" || home == "tmpfs" || scratch;
  demand = option: value: allowed: why: assertion: {
    inherit assertion;
    message = "host ${host}: ${option} is ${value}, allowed is ${allowed}: ${why}";
  };
  warn = condition: text: if condition then [ "host ${host}: ${text}" ] else [ ];
  fromSeed = "account files come from the seed";
in
{
  assertions = [
    (demand "nixvm.persist.mount" (show mount) "\"/var\"" "with ${mode} all that is written is below /var" (
      rootMode == "readonly" -> mount == "/var"
    ))
    (demand "nixvm.persist.mount" (show mount) "\"/persist\"" "the datasets of ${mode} are for it" (
      zfs -> mount == "/persist"
    ))
    (demand "nixvm.persist.fs" (show fs) "\"zfs\"" "${mode} has its pool on the persistent volume" (zfs -> fs == "zfs"))
    (demand "nixvm.persist.fs" (show fs) "\"ext4\"" "${mode} has no pool" (fs == "zfs" -> zfs))
    (demand "networking.hostId" (show hostId) "8 hexadecimal digits" "ZFS marks an open pool with it" (
      zfs -> hostId != null
    ))
    (demand "networking.hostId" (show hostId) "8 random hexadecimal digits"
      "this is the sample of a manual, and two machines with the same one may open one pool"
      (hostId != "a1b2c3d4")
    )
    (demand "boot.kernelPackages" "a kernel without ZFS" "one that ZFS supports, such as the default"
      "${mode} is on ZFS"
      (zfs -> !zfsBroken)
    )
    (demand "nixvm.store" (show store) (words (map show stores.${rootMode})) "that is what an image for ${mode} has" (
      builtins.elem store stores.${rootMode}
    ))
    (demand "nixvm.update.mode" (show update) "\"image\"" "${mode} never changes" (
      update == "pull" -> rootMode != "readonly"
    ))
    (demand "nixvm.update.mode" (show update) "\"image\""
      "a new system needs a store that can be written, and nixvm.store is \"image\""
      (update == "pull" -> store != "image")
    )
    (demand "system.autoUpgrade.enable" (show otherUpdater) "false"
      "nixvm.update brings in new systems, and two would fight"
      (!otherUpdater)
    )
    (demand "nixvm.scratch.nixOverlay" (show nixOverlay) "false"
      "it is a layer above a store that is read-only, and nixvm.store is ${show store}"
      (nixOverlay -> store == "image" || store == "overlay")
    )
    (demand "nixvm.image.standalone" (show standalone) "false"
      "only an image for rootMode tmpfs has room for what /persist keeps"
      (standalone -> rootMode == "tmpfs" && mount == "/persist")
    )
    (demand "nixvm.home.mode" (show home) "\"tmpfs\", or a persistent volume"
      "with ${mode} alone there is nowhere to keep it"
      (home == "persistent" && rootMode == "tmpfs" -> mount != null)
    )
    (demand "swapDevices" (show clearSwap) "none, or such with randomEncryption.enable"
      "what is in memory only would be written to a disk in clear"
      (inMemory -> clearSwap == [ ])
    )
    (demand "users.users" "with a password of ${words passwords}" "hashedPasswordFile" "an image holds no password" (
      passwords == [ ]
    ))
    (demand "nixvm.allowlist" "wrong (${words allowlistFaults})" "what these texts say"
      "nothing is kept from a wrong list"
      (allowlistFaults == [ ])
    )
    (demand "nixvm.persist.mount" "null" "\"/persist\" or \"/var\"" "nixvm.allowlist has nowhere to keep its paths" (
      allowlistUsed -> mount != null
    ))
    (demand "nixvm.allowlist" "not empty" "an empty list"
      "with ${mode} all of /var is kept, and no path can be mounted"
      (allowlistUsed -> rootMode != "readonly")
    )
    (demand "nixvm.allowlist" "not empty" "that with the module preservation"
      "it mounts the paths, and the flake's nixosModules.default has it"
      (allowlistUsed -> preservation)
    )
    (demand "boot.initrd.systemd.enable" (show systemdInitrd) "true"
      "units in the initrd look after root, seed and disks"
      systemdInitrd
    )
    (demand "services.userborn.enable" (show userborn) "false" fromSeed (!userborn))
    (demand "systemd.sysusers.enable" (show sysusers) "false" fromSeed (!sysusers))
    (demand "system.etc.overlay.enable" (show etcOverlay) "false"
      "/etc is a part of the root, made before the system starts"
      (!etcOverlay)
    )
  ];
  warnings =
    warn (rootMode == "tmpfs" && mount == null)
      "nixvm.persist.mount is null with ${mode}: the SSH host key is new at every start"
    ++ warn (scratch && rootMode == "persistent")
      "nixvm.scratch.enable is true, but ${mode} writes in clear: secrets may still end up on a disk"
    ++ warn (scratch && rootMode != "persistent" && home == "persistent")
      "nixvm.scratch.enable is true, but nixvm.home.mode persistent writes in clear: secrets may still end up on a disk";
}
