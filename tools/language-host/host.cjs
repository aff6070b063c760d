// A Node.js language host for the Pulumi engine, on the proto stubs of the project's own @pulumi/pulumi.
//
// The official host comes with Pulumi's releases only, and its last version that can be built as a Go module talks to
// an engine far older than ours. What the engine needs of a host is small: to be told how to run a program.
"use strict";

const { spawn } = require("node:child_process");
const { createRequire } = require("node:module");
const fs = require("node:fs");
const path = require("node:path");

const VERSION = "3.250.0";
// cmd/run ends with this code when it has told the user what is wrong: the engine must then add nothing.
const EXIT_BAIL = 32;

/** Modules are looked up from the program's folder first, so that host and program share one SDK version. */
function sdk(...from) {
  for (const dir of [...from, process.cwd(), __dirname]) {
    try {
      const require_ = createRequire(path.join(dir, "noop.js"));
      const root = path.dirname(require_.resolve("@pulumi/pulumi/package.json"));
      return { root, require: createRequire(path.join(root, "noop.js")) };
    } catch (err) {
      if (err.code !== "MODULE_NOT_FOUND") throw err;
    }
  }
  throw new Error(`@pulumi/pulumi is not installed for ${from[0] ?? process.cwd()}: run "npm ci" there`);
}

const own = sdk();
const grpc = own.require("@grpc/grpc-js");
const messages = own.require("./proto/language_pb.js");
const { LanguageRuntimeService } = own.require("./proto/language_grpc_pb.js");
const plugin = own.require("./proto/plugin_pb.js");
const { Empty } = own.require("google-protobuf/google/protobuf/empty_pb.js");

const children = new Set();

/** The program must not outlive its host: an engine that is gone can answer none of its calls. */
function stopChildren(signal) {
  for (const child of children) child.kill(signal);
}

function end(code) {
  stopChildren("SIGTERM");
  if (children.size === 0) process.exit(code);
  setTimeout(() => {
    stopChildren("SIGKILL");
    process.exit(code);
  }, 2000).unref();
  for (const child of children) child.once("exit", () => children.size === 0 && process.exit(code));
}

/** `runtime.options.nodeargs` as the official host reads it: words separated by blanks, quotes kept together. */
function words(text) {
  return [...text.matchAll(/(?:[^\s"']+|"[^"]*"|'[^']*')+/g)].map(([word]) =>
    word.replace(/"([^"]*)"|'([^']*)'/g, "$1$2"),
  );
}

function entryPoint(info, fallback) {
  const dir = info?.getProgramDirectory() || process.cwd();
  const entry = info?.getEntryPoint() || fallback || ".";
  return { dir, entry, root: info?.getRootDirectory() || dir };
}

/** The command line of `cmd/run` for one request, and the environment it needs. */
function runCommand(request) {
  const info = request.getInfo();
  const { dir, entry, root } = entryPoint(info, request.getProgram());
  const options = info?.getOptions()?.toJavaScript() ?? {};
  const packages = sdk(dir);
  const flag = (name, value) => (value ? [`--${name}`, String(value)] : []);
  const args = [
    ...words(typeof options.nodeargs === "string" ? options.nodeargs : ""),
    "--require",
    path.join(__dirname, "end-with-parent.cjs"),
    path.join(packages.root, "cmd", "run"),
    ...flag("monitor", request.getMonitorAddress()),
    ...flag("engine", engineAddress),
    ...flag("organization", request.getOrganization()),
    ...flag("project", request.getProject()),
    ...flag("root-directory", root),
    ...flag("stack", request.getStack()),
    ...flag("pwd", request.getPwd() || dir),
    ...(request.getDryrun() ? ["--dry-run"] : []),
    ...flag("parallel", request.getParallel()),
    // "." stands for the folder of package.json: its `main` field then names the program.
    entry,
    ...request.getArgsList(),
  ];
  const env = {
    ...process.env,
    PULUMI_CONFIG: JSON.stringify(Object.fromEntries(request.getConfigMap().entries())),
    PULUMI_CONFIG_SECRET_KEYS: JSON.stringify(request.getConfigsecretkeysList()),
  };
  env.PULUMI_NODEJS_TYPESCRIPT = String(options.typescript !== false);
  if (typeof options.tsconfig === "string" && options.tsconfig) env.PULUMI_NODEJS_TSCONFIG_PATH = options.tsconfig;
  return { args, env, cwd: request.getPwd() || dir };
}

function run(call, callback) {
  const response = new messages.RunResponse();
  let command;
  try {
    command = runCommand(call.request);
  } catch (err) {
    response.setError(err.message);
    return callback(null, response);
  }
  // The engine reads this process's own stdout and stderr as the program's output.
  const child = spawn(process.execPath, command.args, {
    cwd: command.cwd,
    env: command.env,
    stdio: ["ignore", "inherit", "inherit"],
  });
  children.add(child);
  call.on("cancelled", () => child.kill("SIGTERM"));
  let answered = false;
  const answer = (error, bail) => {
    if (answered) return;
    answered = true;
    children.delete(child);
    if (error) response.setError(error);
    response.setBail(bail);
    callback(null, response);
  };
  child.on("error", (err) => answer(`the program could not be started: ${err.message}`, false));
  child.on("close", (code, signal) => {
    if (code === 0) answer("", false);
    else if (code === EXIT_BAIL) answer("", true);
    else if (signal) answer(`Program was ended by ${signal}`, false);
    else answer(`Program exited with non-zero exit code: ${code}`, false);
  });
}

function pluginInfo(call, callback) {
  const info = new plugin.PluginInfo();
  info.setVersion(VERSION);
  callback(null, info);
}

/** Lists what package.json names, for `pulumi about` and for the record of an update. */
function programDependencies(call, callback) {
  const response = new messages.GetProgramDependenciesResponse();
  const { dir } = entryPoint(call.request.getInfo());
  for (const folder of [dir, path.dirname(dir)]) {
    const file = path.join(folder, "package.json");
    if (!fs.existsSync(file)) continue;
    const manifest = JSON.parse(fs.readFileSync(file, "utf8"));
    for (const [name, version] of Object.entries({ ...manifest.dependencies, ...manifest.devDependencies })) {
      const dependency = new messages.DependencyInfo();
      dependency.setName(name);
      dependency.setVersion(version);
      response.addDependencies(dependency);
    }
    break;
  }
  callback(null, response);
}

// Methods that are not here answer UNIMPLEMENTED, which the engine takes for "an older host": handshake and about
// are optional to it. No required packages are named: the SDKs ask for their plugins at first use.
const service = {
  run,
  getPluginInfo: pluginInfo,
  getProgramDependencies: programDependencies,
  getRequiredPlugins: (call, callback) => callback(null, new messages.GetRequiredPluginsResponse()),
  getRequiredPackages: (call, callback) => callback(null, new messages.GetRequiredPackagesResponse()),
  cancel(call, callback) {
    stopChildren("SIGTERM");
    callback(null, new Empty());
  },
};

const engineAddress = process.argv.slice(2).findLast((arg) => !arg.startsWith("-"));
const server = new grpc.Server({ "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 });
server.addService(LanguageRuntimeService, service);
server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (err, port) => {
  if (err) {
    console.error(`pulumi-language-nodejs: no port to listen on: ${err.message}`);
    process.exit(1);
  }
  process.stdout.write(`${port}\n`);
});

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => end(0));
// An engine that was killed cannot end its host; a changed parent is the only sign of it.
const parent = process.ppid;
setInterval(() => process.ppid !== parent && end(1), 1000).unref();
