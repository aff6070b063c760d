import type { Argument, Command, Option } from "commander";

export const SHELLS = ["bash", "zsh", "fish"] as const;
export type Shell = (typeof SHELLS)[number];

/** A verb or a group of verbs, as a completion has to know it. */
export interface Node {
  /** Words that lead to it: empty for the program, `["image", "build"]`. */
  path: string[];
  about: string;
  /** Names of what is below it. */
  children: { name: string; about: string }[];
  options: { flags: string[]; about: string; takes: "nothing" | "word" | "choices"; choices: string[] }[];
  /** What its arguments are: names of VMs, one of some words, or files. */
  args: "none" | "vms" | "files" | string[];
}

const VM_ARGUMENTS = new Set(["vm", "vms", "name", "source"]);

/** All verbs of the program, the program itself first. */
export function nodesOf(program: Command): Node[] {
  const visit = (command: Command, path: string[]): Node[] => {
    const below = visible(command);
    return [
      {
        path,
        about: command.description(),
        children: below.flatMap((one) =>
          [one.name(), ...one.aliases()].map((name) => ({ name, about: one.description() })),
        ),
        options: optionsOf(command),
        args: argsOf(command.registeredArguments, path),
      },
      ...below.flatMap((one) => [one.name(), ...one.aliases()].flatMap((name) => visit(one, [...path, name]))),
    ];
  };
  return visit(program, []);
}

/** Commander has no public way to ask whether a command is hidden, but its help leaves those out. */
function visible(command: Command): Command[] {
  const help = command.createHelp();
  return help.visibleCommands(command).filter((one) => one.name() !== "help");
}

function optionsOf(command: Command): Node["options"] {
  const hidden = (option: Option): boolean => option.hidden;
  const own = command.options.filter((option) => !hidden(option));
  return [
    ...own.map((option) => ({
      flags: [option.short, option.long].filter((flag): flag is string => flag !== undefined && flag !== null),
      about: option.description,
      takes: option.argChoices
        ? ("choices" as const)
        : option.required || option.optional
          ? ("word" as const)
          : ("nothing" as const),
      choices: option.argChoices ?? [],
    })),
    { flags: ["-h", "--help"], about: "what it does, and its options", takes: "nothing" as const, choices: [] },
  ];
}

function argsOf(args: readonly Argument[], path: readonly string[]): Node["args"] {
  const [first] = args;
  if (first === undefined) return "none";
  if (first.argChoices) return first.argChoices;
  if (path[0] !== "image" && VM_ARGUMENTS.has(first.name())) return "vms";
  return "files";
}

/** The script that a shell sources. `names` is the command that prints the names of VMs, as words. */
export function completionScript(shell: Shell, program: Command, names: readonly string[]): string {
  const nodes = nodesOf(program);
  if (shell === "bash") return bash(nodes, names);
  return shell === "zsh" ? zsh(nodes, names) : fish(nodes, names);
}

/** A word that every one of these shells reads as it is. */
export function quoted(word: string): string {
  return /^[A-Za-z0-9_./:=@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

const keyOf = (node: Node): string => node.path.join(" ");
const wordsOf = (words: readonly string[]): string => quoted(words.join(" "));
const flagsOf = (node: Node): string[] => node.options.flatMap(({ flags }) => flags);
const valued = (node: Node): string[] =>
  node.options.filter(({ takes }) => takes !== "nothing").flatMap(({ flags }) => flags);

/** `case` arms of one function for bash and zsh: what may stand at the end of these words. */
function arms(nodes: readonly Node[], indent: string): string {
  return nodes
    .map((node) => {
      const choices = node.options
        .filter(({ takes }) => takes === "choices")
        .flatMap(({ flags, choices }) => flags.map((flag) => `${flag}) values=${wordsOf(choices)} ;;`));
      const lines = [
        `children=${wordsOf(node.children.map(({ name }) => name))}`,
        `flags=${wordsOf(flagsOf(node))}`,
        `valued=${wordsOf(valued(node))}`,
        `args=${Array.isArray(node.args) ? "words" : node.args}`,
        ...(Array.isArray(node.args) ? [`words=${wordsOf(node.args)}`] : []),
        ...(choices.length > 0 ? [`case "$before" in ${choices.join(" ")} esac`] : []),
      ];
      return `${indent}${quoted(keyOf(node))})\n${lines.map((line) => `${indent}  ${line}`).join("\n")}\n${indent}  ;;`;
    })
    .join("\n");
}

function bash(nodes: readonly Node[], names: readonly string[]): string {
  return `# Completion of nixvm for bash. Written by: nixvm completion bash
_nixvm_node() {
  children= flags= valued= args=none words= values=
  case "$1" in
${arms(nodes, "    ")}
  esac
}

_nixvm() {
  local current=\${COMP_WORDS[COMP_CWORD]} before=\${COMP_WORDS[COMP_CWORD-1]}
  local children flags valued args words values place= word skip= stack= i line
  COMPREPLY=()
  _nixvm_node ''
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    [ "$word" = = ] && continue
    if [ -n "$skip" ]; then [ "$skip" = --stack ] && stack=$word; skip=; continue; fi
    case " $valued " in *" $word "*) skip=$word; continue ;; esac
    case " $children " in *" $word "*) place="\${place:+$place }$word"; _nixvm_node "$place" ;; esac
  done
  [ "$before" = = ] && before=\${COMP_WORDS[COMP_CWORD-2]} && _nixvm_node "$place"
  if [ -n "$skip" ]; then
    if [ -n "$values" ]; then COMPREPLY=($(compgen -W "$values" -- "$current")); else COMPREPLY=($(compgen -f -- "$current")); fi
    return
  fi
  case "$current" in -*) COMPREPLY=($(compgen -W "$flags" -- "$current")); return ;; esac
  if [ -n "$children" ]; then COMPREPLY=($(compgen -W "$children" -- "$current")); return; fi
  case "$args" in
    vms) COMPREPLY=($(compgen -W "$(${names.map(quoted).join(" ")} "$stack" 2> /dev/null)" -- "$current")) ;;
    words) COMPREPLY=($(compgen -W "$words" -- "$current")) ;;
    files) while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$current") ;;
  esac
}
complete -o filenames -F _nixvm nixvm
`;
}

function zsh(nodes: readonly Node[], names: readonly string[]): string {
  return `#compdef nixvm
# Completion of nixvm for zsh. Written by: nixvm completion zsh
_nixvm_node() {
  children= flags= valued= args=none choice= values=
  case "$1" in
${arms(nodes, "    ").replaceAll(" words=", " choice=")}
  esac
}

_nixvm() {
  local current=\${words[CURRENT]} before=\${words[CURRENT-1]}
  local children flags valued args choice values place= word skip= stack= i
  _nixvm_node ''
  for ((i = 2; i < CURRENT; i++)); do
    word=\${words[i]}
    if [[ -n $skip ]]; then [[ $skip == --stack ]] && stack=$word; skip=; continue; fi
    if [[ " $valued " == *" $word "* ]]; then skip=$word; continue; fi
    if [[ " $children " == *" $word "* ]]; then place="\${place:+$place }$word"; _nixvm_node "$place"; fi
  done
  if [[ -n $skip ]]; then
    if [[ -n $values ]]; then compadd -- \${=values}; else _files; fi
    return
  fi
  if [[ $current == -* ]]; then compadd -- \${=flags}; return; fi
  if [[ -n $children ]]; then compadd -- \${=children}; return; fi
  case $args in
    vms) compadd -- \${=$(${names.map(quoted).join(" ")} "$stack" 2> /dev/null)} ;;
    words) compadd -- \${=choice} ;;
    files) _files ;;
  esac
}
if [[ $funcstack[1] == _nixvm ]]; then _nixvm "$@"; else compdef _nixvm nixvm; fi
`;
}

function fish(nodes: readonly Node[], names: readonly string[]): string {
  const lines = nodes.flatMap((node) => {
    const when = `-n ${fishQuoted(`__nixvm_at ${fishQuoted(keyOf(node))}`)}`;
    const children = node.children.map(
      ({ name, about }) => `complete -c nixvm -f ${when} -a ${fishQuoted(name)} -d ${fishQuoted(about)}`,
    );
    const options = node.options.map(({ flags, about, takes, choices }) => {
      const named = flags
        .map((flag) => (flag.startsWith("--") ? `-l ${flag.slice(2)}` : `-s ${flag.slice(1)}`))
        .join(" ");
      const value = takes === "nothing" ? "" : takes === "choices" ? ` -x -a ${fishQuoted(choices.join(" "))}` : " -r";
      return `complete -c nixvm ${when} ${named}${value} -d ${fishQuoted(about)}`;
    });
    const args = Array.isArray(node.args)
      ? [`complete -c nixvm -f ${when} -a ${fishQuoted(node.args.join(" "))}`]
      : node.args === "vms"
        ? [`complete -c nixvm -f ${when} -a '(__nixvm_names)'`]
        : node.args === "files"
          ? [`complete -c nixvm -F ${when}`]
          : [];
    return [...children, ...args, ...options];
  });
  const verbs = nodes.filter(({ path }) => path.length > 0).map((node) => fishQuoted(keyOf(node)));
  return `# Completion of nixvm for fish. Written by: nixvm completion fish
set -g __nixvm_verbs ${verbs.join(" ")}

# The verb that the words so far lead to.
function __nixvm_place
  set -l place ''
  for word in (commandline -opc)[2..-1]
    set -l longer (string trim -- "$place $word")
    contains -- "$longer" $__nixvm_verbs; and set place $longer
  end
  echo $place
end

function __nixvm_at
  test (__nixvm_place) = "$argv[1]"
end

function __nixvm_names
  ${names.map(fishQuoted).join(" ")} '' 2> /dev/null | string split ' '
end

complete -c nixvm -f
${lines.join("\n")}
`;
}

/** fish knows two escapes inside of single quotes. */
function fishQuoted(word: string): string {
  return `'${word.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
}
