import * as command from "@pulumi/command";
import * as pulumi from "@pulumi/pulumi";
import type { BuildHost } from "./flakes";

/** Arguments of {@link FlakeImage}. */
export interface FlakeImageArgs {
  /** Reference of Nix and attribute, `<flake>#<attribute>`. With a build host one that the build host can reach by itself. */
  flake: string;
  /**
   * Digest of all that is built from: another one builds again. `inputsDigest` of components/flakes.ts gives it, over the lock and
   * all files of a local flake.
   */
  inputs: string;
  /** Link to the result on the machine that builds; keeps it from Nix's garbage collection. An absolute path. */
  link: string;
  /** Where it is built, over SSH. Default: this machine. */
  buildHost?: Omit<BuildHost, "privateKey"> & { privateKey?: pulumi.Input<string> };
}

/**
 * An image built of a flake by the engine, through the `command` plugin. For a stack of its own, whose outputs say what was built: a
 * fleet has to know the digests of its images before anything of it is registered (docs/decisions/0012-images-before-the-run.md), so
 * the fleet's own program does not use it. `nixvm image build` is the way that needs no plugin.
 */
export class FlakeImage extends pulumi.ComponentResource {
  /** Disk image, on the machine that built it. */
  public readonly file: pulumi.Output<string>;
  /** Store path: what audits compare. */
  public readonly storePath: pulumi.Output<string>;
  /** SHA-256 of the disk image. */
  public readonly digest: pulumi.Output<string>;

  constructor(name: string, args: FlakeImageArgs, opts?: pulumi.ComponentResourceOptions) {
    super("nixvm:index:FlakeImage", name, {}, opts);
    const { buildHost } = args;
    const triggers = [args.inputs];
    const create = buildScript(args.flake, args.link);
    const made = buildHost
      ? new command.remote.Command(
          `${name}-build`,
          { connection: connectionOf(buildHost), create, triggers },
          { parent: this },
        )
      : new command.local.Command(
          `${name}-build`,
          { create, triggers, interpreter: ["/bin/sh", "-c"] },
          { parent: this },
        );
    const built = made.stdout.apply(readResult);
    this.file = built.apply(({ file }) => file);
    this.storePath = built.apply(({ storePath }) => storePath);
    this.digest = built.apply(({ digest }) => digest);
    this.registerOutputs({ file: this.file, storePath: this.storePath, digest: this.digest });
  }
}

function connectionOf(on: NonNullable<FlakeImageArgs["buildHost"]>): command.types.input.remote.ConnectionArgs {
  const { host, user, port, privateKey } = on;
  return {
    host,
    ...(user === undefined ? {} : { user }),
    ...(port === undefined ? {} : { port }),
    ...(privateKey === undefined ? {} : { privateKey: pulumi.secret(privateKey) }),
  };
}

const quote = (word: string): string => `'${word.replaceAll("'", `'\\''`)}'`;

/** Prints store path, disk image and its digest, a line each; what Nix says on the way goes to stderr. */
function buildScript(flake: string, link: string): string {
  return [
    "set -eu",
    `mkdir -p "$(dirname ${quote(link)})"`,
    `out=$(nix --extra-experimental-features 'nix-command flakes' build --no-write-lock-file --print-out-paths --out-link ${quote(link)} ${quote(flake)})`,
    'for file in "$out"/*.qcow2 "$out"/*.raw; do [ ! -f "$file" ] || break; done',
    '[ -f "$file" ] || { echo "$out has no disk image" >&2; exit 1; }',
    'printf "%s\\n%s\\n" "$out" "$file"',
    "sha256sum < \"$file\" | cut -d' ' -f1",
  ].join("\n");
}

function readResult(stdout: string): { storePath: string; file: string; digest: string } {
  const [storePath = "", file = "", digest = ""] = stdout.trim().split("\n").slice(-3);
  if (!/^[0-9a-f]{64}$/.test(digest))
    throw new Error(`flake image: the build did not say what it made: ${stdout.slice(-200)}`);
  return { storePath, file, digest };
}
