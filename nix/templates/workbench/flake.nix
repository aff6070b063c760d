{
  inputs.nixvm.url = "git+https://example.org/nixvm?dir=nix";
  inputs.nixpkgs.follows = "nixvm/nixpkgs";
  inputs.home-manager = {
    url = "github:nix-community/home-manager/release-26.05";
    inputs.nixpkgs.follows = "nixpkgs";
  };

  outputs =
    {
      home-manager,
      nixpkgs,
      nixvm,
      ...
    }:
    let
      workbench = nixpkgs.lib.nixosSystem {
        system = "x86_64-linux";
        modules = [
          nixvm.nixosModules.default
          nixvm.nixosModules.profile-workbench
          home-manager.nixosModules.home-manager
          ./home.nix
        ];
      };
    in
    {
      nixosConfigurations.workbench = workbench;
      packages.x86_64-linux.default = workbench.config.system.build.nixvmImage;
    };
}
