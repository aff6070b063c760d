{
  # nix build; result/own.qcow2 is what `images` of a stack file points to.
  inputs.nixvm.url = "git+https://example.org/nixvm?dir=nix";
  inputs.nixpkgs.follows = "nixvm/nixpkgs";

  outputs =
    { nixpkgs, nixvm, ... }:
    let
      own = nixpkgs.lib.nixosSystem {
        system = "x86_64-linux";
        modules = [
          nixvm.nixosModules.default
          nixvm.nixosModules.profile-core
          ./profile.nix
        ];
      };
    in
    {
      nixosConfigurations.own = own;
      packages.x86_64-linux.default = own.config.system.build.nixvmImage;
    };
}
