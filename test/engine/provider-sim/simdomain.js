// The domain of the engine tests: behaves like the libvirt provider's (id is the uuid, another chassis replaces it, delete
// pulls the plug) on the folders that the simulated virsh reads. Bare gRPC, since loading the whole SDK takes a second
// at each start and the engine starts providers at each operation.
const { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } = require("node:fs");
const { join } = require("node:path");
const grpc = require("@grpc/grpc-js");
const { PluginInfo } = require("@pulumi/pulumi/proto/plugin_pb");
const { ResourceProviderService } = require("@pulumi/pulumi/proto/provider_grpc_pb");
const pb = require("@pulumi/pulumi/proto/provider_pb");
const { Empty } = require("google-protobuf/google/protobuf/empty_pb");
const { Struct } = require("google-protobuf/google/protobuf/struct_pb");

const sim = process.env.NIXVM_SIM;
const log = (line) => appendFileSync(join(sim, "virsh.log"), `# ${line}\n`);
const struct = (props) => Struct.fromJavaScript(props);

function create(inputs) {
  const dir = join(sim, inputs.uuid);
  mkdirSync(dir);
  const files = {
    name: inputs.name,
    state: "shut off (unknown)\n",
    "domain.xml": inputs.xml,
    seed: inputs.medium,
    medium: inputs.medium,
    boots: String(Date.now()),
    capacity: "1073741824",
    persist: "1072693248",
  };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text);
  log(`domain created`);
}

function remove(props) {
  const dir = join(sim, props.uuid);
  const state = existsSync(dir) ? readFileSync(join(dir, "state"), "utf8").trim() : "gone";
  log(`domain deleted while ${state}`);
  rmSync(dir, { recursive: true, force: true });
}

const unary = (handle) => (call, callback) => callback(null, handle(call.request));

const service = {
  getPluginInfo: unary(() => new PluginInfo().setVersion("0.0.1")),
  checkConfig: unary((request) => new pb.CheckResponse().setInputs(request.getNews())),
  diffConfig: unary(() => new pb.DiffResponse()),
  configure: unary(() => new pb.ConfigureResponse()),
  attach: unary(() => new Empty()),
  cancel: unary(() => new Empty()),
  check: unary((request) => new pb.CheckResponse().setInputs(request.getNews())),
  diff: unary((request) => {
    const [olds, news] = [request.getOlds().toJavaScript(), request.getNews().toJavaScript()];
    const replaces = ["xml", "uuid"].filter((key) => olds[key] !== news[key]);
    const { DIFF_SOME, DIFF_NONE } = pb.DiffResponse.DiffChanges;
    const changed = replaces.length > 0 || olds.medium !== news.medium;
    const response = new pb.DiffResponse().setChanges(changed ? DIFF_SOME : DIFF_NONE);
    return response.setReplacesList(replaces).setDeletebeforereplace(true);
  }),
  create: unary((request) => {
    const inputs = request.getProperties().toJavaScript();
    create(inputs);
    return new pb.CreateResponse().setId(inputs.uuid).setProperties(struct(inputs));
  }),
  read: unary((request) => new pb.ReadResponse().setId(request.getId()).setProperties(request.getProperties())),
  update: unary((request) => {
    const news = request.getNews().toJavaScript();
    writeFileSync(join(sim, request.getId(), "medium"), news.medium);
    return new pb.UpdateResponse().setProperties(struct(news));
  }),
  delete: unary((request) => {
    remove(request.getProperties().toJavaScript());
    return new Empty();
  }),
};

const server = new grpc.Server();
server.addService(ResourceProviderService, service);
server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  process.stdout.write(`${port}\n`);
});
