# The allowlist of a NixOS image, rendered to the options of the module `preservation` (C-12). Only builtins, so that it can be
# evaluated and tested without nixpkgs. A list has preservation's own shape, the same as `allowlist` in a stack file:
#
#   { directories ? [ "/var/lib/x" { directory = "/var/log"; user, group, mode, how, inInitrd ? … } ]
#   , files ? [ "/etc/x.conf" { file = "/etc/y.conf"; … } ]
#   , users ? { alice = { directories ? [ ".ssh" ]; files ? [ ]; }; } }
#
#   render MOUNT LIST   -> the value for `preservation.preserveAt.<MOUNT>`: { directories; files; users; } with every default
#                          written out. Paths in /home/<name> are all below users.<name>, so <name> has to be in `users.users`.
#                          Throws with all faults of the list at once.
#   faults MOUNT LIST   -> the faults as texts, such as `directories[0]: "x" is not an absolute path`, none when the list is good:
#                          for NixOS assertions, which add the name of the option.
#   entries LIST        -> what has to be done, path by path, as the seed of a stack file would say it.
#   presets USER        -> the lists of the presets that have one, for the account USER (P-19).
#
# MOUNT is where the persistent volume is, /persist or /var (for `faults` also null: not known). SSH host key, machine id and password hashes are accepted and left
# out: they are kept with the identity (C-13). The tables of test/tables/allowlist.json hold for this file and for the planner.
rec {
  presets = user: {
    # V-13 to V-20: these seven, and no other
    zvm = {
      directories = [
        "/etc/ssh"
        "/var/lib/nixos"
        "/var/lib/netbird"
        "/var/log"
      ];
      files = [
        "/etc/machine-id"
        "/persist/passwords/${user}"
      ];
      users.${user}.directories = [ ".config/netbird" ];
    };
    # P-14, P-15
    workbench.users.${user}.directories = [
      "Documents"
      {
        directory = ".ssh";
        mode = "0700";
      }
    ];
  };

  entries =
    list: builtins.sort (a: b: a.path < b.path) (builtins.filter (entry: !(keptByIdentity entry.path)) (expand list));

  faults =
    mount: list:
    let
      all = expand list;
      double =
        entry:
        let
          first = builtins.head (builtins.filter (other: other.path == entry.path) all);
        in
        if first.at == entry.at then [ ] else [ (fault entry "is listed twice, also as ${first.at}") ];
      overlap =
        inner:
        let
          wrong = builtins.filter (
            outer: isBelow outer.path inner.path && (outer.kind == "file" || outer.how == "symlink" || inner.how == "symlink")
          ) all;
          outer = builtins.head wrong;
        in
        if wrong == [ ] then
          [ ]
        else if outer.kind == "file" then
          [ (fault inner "is below ${outer.path}, and ${outer.path} is listed as a file") ]
        else
          [ (fault inner "is below ${outer.path}, and one of the two is a symlink") ];
      alone = entry: pathFaults mount entry ++ modeFaults entry;
    in
    builtins.concatMap (entry: if alone entry != [ ] then alone entry else double entry ++ overlap entry) all;

  render =
    mount: list:
    let
      wrong = faults mount list;
      all = entries list;
      home = entry: builtins.match "/home/([^/]+)/(.*)" entry.path;
      of = kind: builtins.filter (entry: entry.kind == kind && home entry == null) all;
      ofUser = name: kind: builtins.filter (entry: entry.kind == kind && inHome name entry) all;
      inHome = name: entry: home entry != null && builtins.head (home entry) == name;
      owners = builtins.concatMap (entry: if home entry == null then [ ] else [ (builtins.head (home entry)) ]) all;
      option =
        path: entry:
        {
          ${entry.kind} = path;
          inherit (entry)
            user
            group
            mode
            how
            inInitrd
            ;
        }
        # a directory that is listed is there
        // (if entry.how == "symlink" && entry.kind == "directory" then { createLinkTarget = true; } else { });
      top =
        entry:
        let
          parent = builtins.match "(/.+)/[^/]+" entry.path;
        in
        option entry.path entry
        # A file behind a link can only be made where there is a folder; one that is there already keeps its owner and mode (":").
        // (
          if entry.how == "symlink" && parent != null then
            {
              configureParent = true;
              parent = {
                user = ":root";
                group = ":root";
                mode = ":0755";
              };
            }
          else
            { }
        );
      below = entry: option (builtins.elemAt (home entry) 1) entry;
    in
    if wrong != [ ] then
      throw "allowlist: ${builtins.concatStringsSep "; " wrong}"
    else
      {
        directories = map top (of "directory");
        files = map top (of "file");
        users = builtins.listToAttrs (
          map (name: {
            inherit name;
            value = {
              home = "/home/${name}";
              directories = map below (ofUser name "directory");
              files = map below (ofUser name "file");
            };
          }) owners
        );
      };

  # Every entry as written, with its path written out and the defaults of preservation.
  expand =
    list:
    let
      read =
        account: kind: at: items:
        builtins.genList (
          index:
          let
            item = builtins.elemAt items index;
            said = if builtins.isAttrs item then item else { ${kind} = item; };
            owner = if account == null then "root" else account;
            mode = said.mode or (if kind == "directory" then "0755" else "0644");
            path = "/" + builtins.concatStringsSep "/" (names said.${kind});
            inside = account != null && builtins.substring 0 1 said.${kind} != "/";
          in
          {
            inherit kind account;
            written = said.${kind};
            at = "${at}[${toString index}]" + (if builtins.isAttrs item then ".${kind}" else "");
            path = if inside then "/home/${account}${path}" else path;
            user = said.user or owner;
            group = said.group or owner;
            mode = if builtins.stringLength mode == 3 then "0${mode}" else mode;
            how = said.how or "bindmount";
            inInitrd = said.inInitrd or false;
          }
        ) (builtins.length items);
      lists =
        account: at: value:
        read account "directory" "${at}directories" (value.directories or [ ])
        ++ read account "file" "${at}files" (value.files or [ ]);
      users = list.users or { };
    in
    lists null "" list
    ++ builtins.concatMap (name: lists name "users.${name}." users.${name}) (builtins.attrNames users);

  names = path: builtins.filter (part: builtins.isString part && part != "") (builtins.split "/" path);
  isBelow = outer: inner: builtins.substring 0 (builtins.stringLength outer + 1) inner == "${outer}/";
  keptByIdentity =
    path:
    builtins.match "/etc/machine-id|/etc/ssh(/ssh_host_ed25519_key(\\.pub)?)?|/persist/passwords(/[^/]+)?" path != null;
  fault = entry: text: "${entry.at}: ${builtins.toJSON entry.written} ${text}";

  modeFaults =
    entry: if builtins.match "[0-7]{4}" entry.mode != null then [ ] else [ (fault entry "has no octal mode") ];

  # What is wrong with one path by itself; the planner's texts.
  pathFaults =
    mount: entry:
    let
      inherit (entry) account path written;
      is = pattern: builtins.match pattern path != null;
      relative = builtins.substring 0 1 written != "/";
      text =
        if builtins.match "[^[:cntrl:]]*" written == null then
          "is not a path without control characters"
        else if written == "" then
          "is not a path"
        else if account == null && relative then
          "is not an absolute path"
        else if account != null && builtins.substring 0 1 written == "~" then
          "is not a path without ~"
        else if builtins.any (name: name == "." || name == "..") (names written) then
          "is not a path without . and .."
        else if account != null then
          if isBelow "/home/${account}" path then null else "is not in /home/${account}"
        else if keptByIdentity path then
          null
        else if is "/(nix|proc|sys|dev|run)(/.*)?" then
          "is made anew at each start, by the image or the kernel"
        else if is "/persist(/.*)?" || (mount != null && isBelow mount path) then
          "is on the persistent volume itself"
        else if is "/home(/[^/]+)?" then
          "is a home as a whole"
        else if is "/(bin|boot|etc|lib|lib64|sbin|usr|var)?" then
          "is a part of the system as a whole"
        else
          null;
    in
    if text == null then [ ] else [ (fault entry text) ];
}
