{
  preset = "zvm";
  disks.persist = 512;
  # An address that gives nothing: the start does not depend on it.
  modules = [ { nixvm.update.flake = "git+https://example.invalid/systems"; } ];
  seed = {
    rootMode = "tmpfs";
    home.mode = "tmpfs";
    persist = {
      mount = "/persist";
      fs = "ext4";
      label = "persist";
    };
    update.mode = "pull";
    accounts = [
      {
        name = "zvm";
        role = "user";
      }
    ];
  };
  script = ''
    refusal = machine.fail("ssh -o BatchMode=yes -o StrictHostKeyChecking=no root@localhost true 2>&1")
    assert "Permission denied (publickey)" in refusal, refusal
    gone = ["/etc/marker", "/var/lib/marker", "/root/marker", "/home/zvm/marker", "/opt/marker"]
    kept = ["/var/lib/nixos/marker", "/var/lib/netbird/marker", "/var/log/marker", "/home/zvm/.config/netbird/marker"]
    machine.succeed("findmnt -n -o FSTYPE / | grep tmpfs")
    machine.fail("command -v sudo", "su zvm -c 'touch /persist/x'", "su zvm -c 'nix-store --gc'")
    for path in gone + kept:
        machine.succeed(f"mkdir -p $(dirname {path}) && echo kept > {path}")
    key = now["sshHostKey"]
    machine.succeed("sync")
    for _ in range(2):
        now = restart()
        assert now["sshHostKey"] == key, now
        for path in gone:
            machine.fail(f"test -e {path}")
        for path in kept:
            machine.succeed(f"grep kept {path}")
    machine.wait_until_succeeds("grep -q cannot.be.fetched /run/nixvm/state/update")
    machine.succeed("systemctl is-active multi-user.target", "systemctl list-timers --all | grep nixvm-update")
  '';
}
