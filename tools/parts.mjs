// The tool chain: what it consists of, and where each part lies below .nixvm/ (design D2).
const GO_ARCH = { x64: "amd64", arm64: "arm64" }[process.arch] ?? process.arch;

export const PULUMI = "3.250.0";
/** Hooks and gates of the program need this; a newer major may have another protocol. */
export const PULUMI_ACCEPTED = { atLeast: [3, 226, 0], belowMajor: 4 };
export const BRIDGE = "1.4.0";
export const LIBVIRT = "0.8.3";
/** The version of the npm package: the engine looks the plugin up by it. */
export const RANDOM = "4.15.0";
export const COMMAND = "1.1.0";
/** The oldest Go that the modules in tools/src ask for. */
export const GO = [1, 26];

export const OPENTOFU_ADDRESS = "registry.opentofu.org/dmacvicar/libvirt";

const plugin = (name, version) => `pulumi/plugins/resource-${name}-v${version}/pulumi-resource-${name}`;

/**
 * `file`: relative to .nixvm/. `source`: the folder in tools/src, the package to build there, and what the linker is
 * told. `verify`: a call that shows the right version; `ends` with that exit code. `hosts`: what the official way
 * talks to, keys of HOSTS.
 */
export const PARTS = [
  {
    name: "pulumi",
    label: `pulumi ${PULUMI}`,
    version: PULUMI,
    file: "bin/pulumi",
    source: {
      dir: "pulumi",
      package: "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
      ldflags: `-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=${PULUMI}`,
    },
    verify: { args: ["version"], shows: PULUMI, ends: 0 },
    hosts: ["pulumi"],
  },
  {
    name: "language-host",
    label: "Node.js language host",
    version: PULUMI,
    file: "bin/pulumi-language-nodejs",
    // Part of the official release: an own one is needed only beside a CLI that was built here.
    onlyFromSource: true,
    source: { copy: "language-host/pulumi-language-nodejs" },
  },
  {
    name: "terraform-provider",
    label: `terraform-provider plugin ${BRIDGE}`,
    version: BRIDGE,
    file: plugin("terraform-provider", BRIDGE),
    source: {
      dir: "bridge",
      package: "github.com/pulumi/pulumi-terraform-bridge/v3/dynamic",
      // Without it every generated SDK would name the base version 0.0.0-dev.
      ldflags: `-X github.com/pulumi/pulumi-terraform-bridge/v3/dynamic/version.version=${BRIDGE}`,
    },
    verify: { args: ["--version"], shows: BRIDGE, ends: 0 },
    plugin: ["terraform-provider", BRIDGE],
    hosts: ["pulumi"],
  },
  {
    name: "random",
    label: `random plugin ${RANDOM}`,
    version: RANDOM,
    file: plugin("random", RANDOM),
    source: { dir: "random", package: "./cmd/plugin", ldflags: "" },
    verify: { args: ["--version"], shows: RANDOM, ends: 0 },
    plugin: ["random", RANDOM],
    hosts: ["pulumi"],
  },
  {
    name: "libvirt",
    label: `libvirt provider ${LIBVIRT}`,
    version: LIBVIRT,
    // In this place the bridge finds it by its public name without asking the registry (notes: 3.11).
    file: `pulumi/dynamic_tf_plugins/${OPENTOFU_ADDRESS}/${LIBVIRT}/linux_${GO_ARCH}/terraform-provider-libvirt_v${LIBVIRT}`,
    source: { dir: "libvirt", package: "github.com/dmacvicar/terraform-provider-libvirt", ldflags: "" },
    // It has no version call; this line shows at least that it is whole and runs.
    verify: { args: [], shows: "This binary is a plugin", ends: 1 },
    hosts: ["pulumi", "opentofu", "github"],
  },
  {
    name: "command",
    label: `command plugin ${COMMAND}`,
    version: COMMAND,
    file: plugin("command", COMMAND),
    plugin: ["command", COMMAND],
    // Not obtainable as a Go module, and nothing on the default path needs it.
    optional: true,
    hosts: ["pulumi"],
  },
];

/** What is asked to learn whether the official way is open: a small answer of each host that it uses. */
export const HOSTS = {
  pulumi: `https://get.pulumi.com/releases/sdk/pulumi-v${PULUMI}-linux-${process.arch}.tar.gz`,
  opentofu: "https://registry.opentofu.org/.well-known/terraform.json",
  github: "https://github.com/dmacvicar/terraform-provider-libvirt",
};
