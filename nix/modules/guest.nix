# The scripts of nix/guest, unchanged, and their units. The scripts begin with #!/bin/sh, which NixOS has.
{ runCommand }:
let
  nixvm = import ./lib.nix;
in
runCommand "nixvm-guest" { } (nixvm.installGuest {
  source = ../guest;
  files = nixvm.guestFiles ../guest;
})
