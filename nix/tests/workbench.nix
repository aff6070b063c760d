{ home-manager }:
{
  preset = "workbench";
  disks.persist = 512;
  modules = [
    home-manager.nixosModules.home-manager
    {
      home-manager.useGlobalPkgs = true;
      home-manager.users.user = {
        home.file.configured.text = "yes";
        home.stateVersion = "26.05";
      };
      # The first session is asked for long before this is over.
      systemd.services.home-manager-user.serviceConfig.ExecStartPre = "/run/current-system/sw/bin/sleep 10";
      services.getty.autologinUser = "user";
    }
  ];
  seed = {
    rootMode = "persistent";
    home = {
      mode = "tmpfs";
      sizeBytes = 67108864;
    };
    persist = {
      mount = "/persist";
      fs = "ext4";
      label = "persist";
    };
    accounts = [
      {
        name = "user";
        role = "user";
      }
    ];
  };
  script = ''
    machine.succeed("systemctl cat user@1000 | grep -A3 home-manager-user.service")
    machine.succeed("findmnt -n -o FSTYPE /home | grep tmpfs", "stat -c %a /home/user/.ssh | grep 700")
    kept = ["/home/user/Documents/marker", "/home/user/.ssh/known_hosts", "/etc/marker"]
    for path in kept + ["/home/user/.bash_history"]:
        machine.succeed(f"echo kept > {path}")
    machine.fail("dd if=/dev/zero of=/home/user/full bs=1M count=128")
    machine.succeed("systemctl is-active sshd", "sync")
    for _ in range(5):
        now = restart()
        assert now["healthy"], now["reasons"]
        machine.wait_until_succeeds("pgrep -u user bash")
        machine.succeed("test -e /home/user/configured")
        for path in kept:
            machine.succeed(f"grep kept {path}")
        machine.fail("test -e /home/user/.bash_history")
    machine.fail("su user -c 'sudo -n true'", "su user -c 'umount /home'")
  '';
}
