{
  preset = "sealed";
  disks.scratch = 512;
  seed = {
    rootMode = "tmpfs";
    home.mode = "tmpfs";
    persist = null;
    scratch.nixOverlay = true;
    accounts = [
      {
        name = "user";
        role = "user";
      }
    ];
  };
  script = ''
    def uuid():
        return machine.succeed("blkid -p -s UUID -o value /dev/disk/by-id/virtio-scratch").strip()


    assert now["scratch"]["state"] == "luks", now
    machine.succeed("findmnt -n -o SOURCE /scratch | grep /dev/mapper/nixvm-scratch")
    machine.succeed("findmnt -n -o OPTIONS /nix/store | grep upperdir=/scratch/")
    machine.succeed("echo x > /root/x", "test -e $(nix-store --add /root/x)")
    for path in ["/home", "/root", "/etc", "/run/nixvm"]:
        machine.fail(f"findmnt -n -o TARGET -T {path} | grep /scratch")
    machine.succeed("echo kept > /scratch/marker", "sync")
    first = uuid()
    now = restart()
    assert now["scratch"]["state"] == "luks" and uuid() != first, now
    machine.fail("test -e /scratch/marker")
  '';
}
