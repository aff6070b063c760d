# The scripts of nix/guest, unchanged but for the path of their shell, and their units.
{ runCommand }:
runCommand "nixvm-guest" { } ''
  mkdir -p $out/lib/nixvm $out/lib/systemd/system
  for file in ${../guest}/*; do
    [ ! -f "$file" ] || cp "$file" $out/lib/nixvm/
  done
  patchShebangs $out/lib/nixvm
  for unit in ${../guest}/units/*.service; do
    substitute "$unit" $out/lib/systemd/system/$(basename "$unit") --replace-fail @guest@ $out/lib/nixvm
  done
''
