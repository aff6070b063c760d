{
  preset = "template";
  disks.persist = 512;
  seed = {
    rootMode = "readonly";
    persist = {
      mount = "/var";
      fs = "ext4";
      label = "var";
    };
    accounts = [
      {
        name = "admin";
        role = "admin";
      }
      {
        name = "user";
        role = "user";
      }
    ];
  };
  script = ''
    refusal = machine.fail("ssh -o BatchMode=yes -o StrictHostKeyChecking=no root@localhost true 2>&1")
    assert "Permission denied (publickey)" in refusal, refusal
    for path in ["/x", "/etc/x", "/boot/x"]:
        machine.fail(f"touch {path}")
    machine.succeed("findmnt -n -o OPTIONS / | grep -w ro", "findmnt -n -o FSTYPE /tmp | grep tmpfs")
    machine.succeed("su admin -c 'sudo -n true'")
    machine.fail("su user -c 'sudo -n true'")
    machine.succeed("echo kept > /var/home/user/marker", "sync")
    key = now["sshHostKey"]
    now = restart()
    assert now["healthy"] and now["sshHostKey"] == key, now
    machine.succeed("grep kept /home/user/marker")
  '';
}
