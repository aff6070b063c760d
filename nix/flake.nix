{
  description = "nixvm guests: NixOS images that honour the guest contract";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.05";

  outputs =
    { self, nixpkgs }:
    let
      system = "x86_64-linux";
      inherit (nixpkgs) lib;
      nixvm = import ./modules/lib.nix;

      # A profile is one file of profiles/; its name is the image's name.
      profiles = map (lib.removeSuffix ".nix") (builtins.filter (lib.hasSuffix ".nix") (builtins.attrNames (builtins.readDir ./profiles)));

      configuration =
        profile:
        lib.nixosSystem {
          inherit system;
          modules = [
            self.nixosModules.default
            (./profiles + "/${profile}.nix")
            { nixvm.image.name = lib.mkDefault profile; }
          ];
        };
    in
    {
      lib = nixvm;
      nixosModules.default = ./modules;
      nixosConfigurations = lib.genAttrs profiles configuration;
      # nix build .#template: result/template.qcow2 with its sidecar result/template.json
      packages.${system} = lib.genAttrs profiles (profile: self.nixosConfigurations.${profile}.config.system.build.nixvmImage);
    };
}
