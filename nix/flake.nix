{
  description = "nixvm guests: NixOS images that honour the guest contract";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      system = "x86_64-linux";
      inherit (nixpkgs) lib;
      nixvm = import ./modules/lib.nix;

      # A profile is one file of profiles/; its name is the image's name.
      profileFiles = builtins.filter (lib.hasSuffix ".nix") (builtins.attrNames (builtins.readDir ./profiles));
      profiles = map (lib.removeSuffix ".nix") profileFiles;

      configuration =
        profile:
        lib.nixosSystem {
          modules = [
            self.nixosModules.default
            (./profiles + "/${profile}.nix")
            {
              nixvm.image.name = lib.mkDefault profile;
              nixpkgs.hostPlatform = lib.mkDefault system;
            }
          ];
        };
      images = lib.genAttrs profiles (profile: self.nixosConfigurations.${profile}.config.system.build.nixvmImage);
    in
    {
      lib = nixvm;
      nixosModules.default = ./modules;
      nixosConfigurations = lib.genAttrs profiles configuration;
      # nix build ./nix#template: result/template.qcow2 with its sidecar result/template.json
      packages.${system} = images // { default = images.template; };
    };
}
