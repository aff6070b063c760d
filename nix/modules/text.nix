# Shell text that is not in nix/guest, as it concerns what only NixOS has. Only builtins, so that it can be run by a
# test.
{
  # The hook of releases whose stage 1 is a script, as its document has it: for `boot.initrd.postMountCommands =
  # lib.mkAfter (…)` (Z-55). These modules do not use it: a stage 1 of units refuses such hooks, and by then the
  # datasets below the root are mounted, whose mount points a rollback takes away.
  rollbackHook = pool: "zfs rollback -r ${pool}/local/root@blank\n";

  # Runs after the pool was opened and before the root is mounted. A root that was not emptied is never used: one in
  # memory takes its place, and the datasets are mounted below that. ACCEPTED are the states of `zfs open` that make the
  # dataset the root.
  rootGuard =
    { accepted, run, root }:
    ''
      state=unknown
      if [ -r "${run}/state/rollback" ]; then
        while IFS=$'\t' read -r key value; do
          if [ "$key" = state ]; then state=$value; fi
        done < "${run}/state/rollback"
      fi
      case " ${builtins.concatStringsSep " " accepted} " in
        *" $state "*) ;;
        *)
          echo "nixvm: the root dataset was not emptied ($state), the root is in memory" >&2
          mkdir -p "${root}"
          mount -t tmpfs -o mode=755 nixvm-root "${root}"
          ;;
      esac
    '';

  # Copies the account files FROM TO. With a seed the accounts that the configuration declares are the seed's: it says
  # whether they are there, with which role and number. Their names stay known to the configuration, which keeps paths
  # for them.
  shareAccounts =
    { names, run, from, to }:
    ''
      seeded=
      for plan in "${run}/seed/incoming/plan" "${run}/seed/found/plan"; do
        if [ -e "$plan" ]; then seeded=yes; fi
      done
      declared=" ${builtins.concatStringsSep " " names} "
      for file in passwd shadow group; do
        cp -p "${from}/$file" "${to}/$file"
        if [ -z "$seeded" ]; then continue; fi
        while IFS= read -r line; do
          case $declared in *" ''${line%%:*} "*) continue ;; esac
          if [ "$file" = group ]; then
            members=,''${line##*:},
            for name in $declared; do members=''${members//,$name,/,}; done
            members=''${members#,}
            line=''${line%:*}:''${members%,}
          fi
          printf '%s\n' "$line"
        done < "${from}/$file" > "${to}/$file"
      done
    '';

  # What nix/guest/update calls (NIXVM_UPDATE_FETCH, NIXVM_UPDATE_SWITCH): a system of a flake, and making it the one
  # that runs. An address without a name after # means the configuration that has the image's name.
  updateFetch = name: ''
    case $1 in
      *#*) flake=''${1%%#*} system=''${1#*#} ;;
      *) flake=$1 system=${name} ;;
    esac
    exec nix build --refresh --no-link --print-out-paths \
      "$flake#nixosConfigurations.\"$system\".config.system.build.toplevel"
  '';
  updateSwitch = ''
    nix-env --profile /nix/var/nix/profiles/system --set "$2"
    exec "$2/bin/switch-to-configuration" "$1"
  '';

  # Before a system of the image starts from the store of the pool: brings in what is not there yet, after the first
  # start and after each new image. The system itself comes last, so that a copy that was cut off is not taken for a
  # finished one. Without a pool, or without room in it, the image's own store is used as it is.
  payloadStore =
    { from, root, run, proc }:
    let
      to = "${root}/nix/store";
    in
    ''
      pool= system=
      while read -r _ _ _ _ at _; do
        if [ "$at" = "${root}/nix" ]; then pool=yes; fi
      done < "${proc}/self/mountinfo"
      read -r line < "${proc}/cmdline"
      for word in $line; do
        case $word in init=*) system=''${word%/init} system=''${system##*/} ;; esac
      done
      mkdir -p "${to}" "${run}"
      bring() {
        if [ -e "${to}/$1" ] || [ -L "${to}/$1" ]; then return 0; fi
        rm -rf "${to}/.nixvm-copy"
        cp -a "${from}/$1" "${to}/.nixvm-copy" && mv -T "${to}/.nixvm-copy" "${to}/$1"
      }
      fill() {
        chown 0:30000 "${to}" && chmod 1775 "${to}" || return 1
        for path in "${from}"/*; do
          name=''${path##*/}
          case $name in "$system" | nixvm-*) ;; *) bring "$name" || return 1 ;; esac
        done
        bring "$system" && cp "${from}/nixvm-registration" "${run}/registration"
      }
      if [ -z "$pool" ]; then
        mount --bind "${from}" "${to}"
      elif [ ! -e "${to}/$system" ] && [ -e "${from}/$system" ] && ! fill; then
        echo "nixvm: the image's system does not fit into the pool, it runs from the image" >&2
        mount --bind "${from}" "${to}"
      fi
    '';
}
