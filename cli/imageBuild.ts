import type { ImageSource } from "../components/images";
import { type BuildHost, parseFlake } from "../components/flakes";
import { cacheDirOf, imageSources } from "../components/prepare";
import { type Context } from "./context";
import { CliError, EXIT, wrongInput } from "./errors";
import { buildFlake } from "./flakeBuild";
import { DEFAULT_PROFILE, flakeOf, profileOf, profilesOf } from "./profiles";

/** Options of `nixvm image build`. */
export interface BuildChoice {
  /** A name, or true for the default one. */
  profile?: string | true;
  allProfiles?: boolean;
  buildHost?: BuildHost;
  force: boolean;
}

/** One thing to build. */
interface Job {
  name: string;
  flake: string;
  on?: BuildHost;
}

/** What was built, or was there already. */
export interface BuiltImage {
  name: string;
  flake: string;
  file: string;
  storePath: string;
  builtAt: string;
  builtOn: string;
  made: boolean;
}

/** Reads `user@host:port`. */
export function parseBuildHost(text: string): BuildHost {
  const match =
    /^(?:([A-Za-z_][A-Za-z0-9_.-]*)@)?([A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?$/.exec(text);
  const port = match?.[3] === undefined ? undefined : Number(match[3]);
  if (!match?.[2] || (port !== undefined && (port < 1 || port > 65535))) {
    throw wrongInput("--build-host", text, "is not a build host", "[user@]host[:port], reached over SSH");
  }
  const host = match[2].replace(/^\[|\]$/g, "");
  return { host, ...(match[1] ? { user: match[1] } : {}), ...(port === undefined ? {} : { port }) };
}

/** Builds one after the other: each uses the whole machine. All others are built also when one fails. */
export async function buildImages(
  context: Context,
  names: readonly string[],
  choice: BuildChoice,
): Promise<BuiltImage[]> {
  const jobs = await jobsOf(context, names, choice);
  const done: BuiltImage[] = [];
  const failed: string[] = [];
  for (const { name, flake: text, on } of jobs) {
    context.note(`image ${name}: ${text}${on ? ` on ${on.host}` : ""}`);
    try {
      const { record, made } = await buildFlake(parseFlake(text, context.root), {
        cacheDir: cacheDirOf(context.root),
        ...(on ? { on } : {}),
        force: choice.force,
        signal: context.signal,
        note: (line) => context.note(line),
      });
      const { file, storePath, builtAt, builtOn } = record;
      done.push({ name, flake: text, file, storePath, builtAt, builtOn, made });
    } catch (error) {
      // With one job its own exit code says most, and after Ctrl-C nothing else is begun.
      if (jobs.length === 1 || context.signal.aborted || !(error instanceof CliError)) throw error;
      failed.push(`${name}: ${error.message}`);
      context.note(`image ${name}: failed`);
    }
  }
  if (failed.length === 0) return done;
  const built = done.map(({ name }) => name).join(", ") || "none";
  throw new CliError(
    `${failed.length} of ${jobs.length} images were not built (built: ${built}):\n${failed.join("\n")}`,
  );
}

async function jobsOf(context: Context, names: readonly string[], choice: BuildChoice): Promise<Job[]> {
  const { profile, allProfiles } = choice;
  if (names.length > 0 && (profile !== undefined || allProfiles)) {
    throw wrongInput("name", names[0], "stands beside a profile", "names of images, or --profile, or --all-profiles");
  }
  const ofProfile = (name: string): Job => job(name, flakeOf(context.root, profileOf(context.root, name)), choice);
  if (allProfiles) return profilesOf(context.root).map(({ name }) => ofProfile(name));
  if (profile !== undefined) return [ofProfile(profile === true ? DEFAULT_PROFILE : profile)];
  const images = await declared(context, names.length === 0);
  const flakes = Object.entries(images).filter(([, { flake }]) => flake !== undefined);
  if (names.length === 0) {
    if (flakes.length > 0) return flakes.map(([name, source]) => job(name, source.flake!, choice, source.buildHost));
    context.note(`no image of the stack is built of a flake: building profile ${DEFAULT_PROFILE}`);
    return [ofProfile(DEFAULT_PROFILE)];
  }
  return [...new Set(names)].map((name) => {
    const source = flakes.find(([one]) => one === name)?.[1];
    if (source?.flake) return job(name, source.flake, choice, source.buildHost);
    const what = images[name]
      ? "is not built of a flake: its file is there, or is downloaded"
      : "is no image of this stack";
    throw wrongInput("name", name, what, flakes.map(([one]) => one).join(", ") || "none: no image has a flake");
  });
}

function job(name: string, flake: string, choice: BuildChoice, own?: BuildHost): Job {
  const on = choice.buildHost ?? own;
  return { name, flake, ...(on ? { on } : {}) };
}

/** Images of the stack file. To build a profile no stack is needed. */
async function declared(context: Context, optional: boolean): Promise<Record<string, ImageSource>> {
  try {
    return imageSources(await context.config());
  } catch (error) {
    if (optional && error instanceof CliError && error.code === EXIT.input && error.details.field === "--stack")
      return {};
    throw error;
  }
}
