{
  description = "nixvm guests: NixOS images that honour the guest contract";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
  inputs.preservation.url = "github:nix-community/preservation";

  outputs =
    inputs@{ self, nixpkgs, ... }:
    let
      system = "x86_64-linux";
      inherit (nixpkgs) lib;
      nixvm = import ./modules/lib.nix;

      # A profile is one file of profiles/; its name is the image's name.
      files = dir: builtins.filter (lib.hasSuffix ".nix") (builtins.attrNames (builtins.readDir dir));
      names = dir: map (lib.removeSuffix ".nix") (files dir);
      profiles = names ./profiles;

      # Files of modules/ that are no modules by themselves: functions, data, and parts of one.
      inner = [
        "allowlist"
        "default"
        "demands"
        "guest"
        "image-parts"
        "in-root"
        "lib"
        "options"
        "options-access"
        "options-state"
        "text"
      ];
      withPreservation = module: { imports = [ inputs.preservation.nixosModules.preservation module ]; };

      configuration =
        profile: extra:
        lib.nixosSystem {
          modules = [
            self.nixosModules.default
            (./profiles + "/${profile}.nix")
            extra
            {
              nixvm.image.name = lib.mkDefault profile;
              nixpkgs.hostPlatform = lib.mkDefault system;
            }
          ];
        };
      built = name: self.nixosConfigurations.${name}.config.system.build;
      images = lib.genAttrs profiles (profile: (built profile).nixvmImage);
    in
    {
      lib = nixvm;
      # One module each beside the whole: a system takes what it wants, and nixvm.enable. And the profiles, for the
      # whole.
      nixosModules =
        lib.listToAttrs (
          map (name: lib.nameValuePair "profile-${name}" (./profiles + "/${name}.nix")) profiles
        )
        // lib.genAttrs (lib.subtractLists inner (names ./modules)) (
          name: withPreservation (./modules + "/${name}.nix")
        )
        // {
          default = withPreservation ./modules;
        };
      # Its image runs by itself: the persistent volume is a partition of the same disk.
      nixosConfigurations = lib.genAttrs profiles (profile: configuration profile { }) // {
        zvm-standalone = configuration "zvm" { nixvm.image.standalone = true; };
      };
      # nix build ./nix#template: result/template.qcow2 with its sidecar result/template.json
      packages.${system} = images // {
        default = images.template;
        zvm-raw = (built "zvm-standalone").nixvmRaw;
      };
      # Each profile as a whole, with its assertions, without building it. What it does when it runs is in
      # ./tests/flake.nix.
      checks.${system} = lib.genAttrs profiles (
        profile:
        nixpkgs.legacyPackages.${system}.writeText "nixvm-${profile}" (
          builtins.unsafeDiscardStringContext (built profile).toplevel.drvPath
        )
      );
      # nix flake init -t
      templates = {
        # ./templates/profile/flake.nix ./templates/profile/profile.nix
        profile = {
          path = ./templates/profile;
          description = "An image of one's own: a profile with additions";
        };
        # ./templates/workbench/flake.nix ./templates/workbench/home.nix
        workbench = {
          path = ./templates/workbench;
          description = "Preset workbench with home-manager";
        };
        default = self.templates.profile;
      };
    };
}
