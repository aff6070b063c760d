{
  preset = "rollback";
  # room for the system, which the first start copies to the pool
  disks.persist = 8192;
  seed = {
    rootMode = "zfs-rollback";
    identity.hostId = "0f1e2d3c";
    persist = {
      mount = "/persist";
      fs = "zfs";
      label = "rpool";
    };
    accounts = [
      {
        name = "admin";
        role = "admin";
      }
    ];
  };
  script = ''
    gone = ["/etc/rollback-canary", "/imperm_test/testfile", "/var/lib/marker", "/root/marker"]
    kept = ["/home/marker", "/persist/marker", "/boot/marker", "/nix/marker"]
    assert machine.succeed("hostid").strip() == "0f1e2d3c"
    for path in gone + kept:
        machine.succeed(f"mkdir -p $(dirname {path}) && echo kept > {path}")
    machine.succeed("zfs snapshot rpool/local/root@later", "zfs snapshot rpool/safe/persist@later", "sync")
    for _ in range(2):
        now = restart()
        assert now["healthy"] and now["rollback"]["state"] == "done", now
        for path in gone:
            machine.fail(f"test -e {path}")
        for path in kept:
            machine.succeed(f"grep kept {path}")
    machine.fail("zfs list rpool/local/root@later")
    machine.succeed("zfs list rpool/safe/persist@later", "zfs destroy rpool/local/root@blank", "touch /etc/dirty")
    now = restart()
    assert not now["healthy"] and now["rollback"]["state"] == "failed", now
    machine.fail("test -e /etc/dirty")
    machine.succeed("findmnt -n -o FSTYPE / | grep tmpfs", "grep kept /persist/marker")
  '';
}
