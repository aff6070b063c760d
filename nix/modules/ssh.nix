# The SSH server of a profile that has one: keys only, never root, with the host key of the machine's identity (Z-83 to
# Z-86, T-109).
{ config, lib, ... }:
let
  cfg = config.nixvm;
  nixvm = import ./lib.nix;
in
{
  imports = [ ./options.nix ];

  config = lib.mkIf (cfg.enable && config.services.openssh.enable) {
    services.openssh = {
      openFirewall = false;
      hostKeys = [
        {
          type = "ed25519";
          path = cfg.facts.identity.hostKey;
        }
      ];
      authorizedKeysFiles = lib.mkForce (nixvm.keyFiles cfg.persist.mount);
      settings = {
        PermitRootLogin = lib.mkDefault "no";
        PasswordAuthentication = false;
        KbdInteractiveAuthentication = false;
        AuthenticationMethods = "publickey";
      };
    };
    # The key in hostKeys is the seed's, or was made by its script. Only where both failed the second may make it.
    systemd.services.sshd.after = [ "nixvm-seed.service" ];
    systemd.services.sshd-keygen.after = [ "nixvm-seed.service" ];
  };
}
