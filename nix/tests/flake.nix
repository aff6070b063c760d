{
  # nix flake check ./nix/tests: needs /dev/kvm, and a network or a cache
  description = "nixvm guests, booted: one test for each preset";

  inputs.nixvm.url = "path:..";
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
      pkgs = nixpkgs.legacyPackages.x86_64-linux;
      boot = import ./boot.nix { inherit pkgs nixvm; };
    in
    {
      checks.x86_64-linux = {
        rollback = boot (import ./rollback.nix);
        sealed = boot (import ./sealed.nix);
        template = boot (import ./template.nix);
        workbench = boot (import ./workbench.nix { inherit home-manager; });
        zvm = boot (import ./zvm.nix);
      };
    };
}
