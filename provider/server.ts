import * as grpc from "@grpc/grpc-js";
import { PluginInfo } from "@pulumi/pulumi/proto/plugin_pb";
import { ResourceProviderService } from "@pulumi/pulumi/proto/provider_grpc_pb";
import * as pb from "@pulumi/pulumi/proto/provider_pb";
import { Status } from "@pulumi/pulumi/proto/status_pb";
import { Any } from "google-protobuf/google/protobuf/any_pb";
import { Empty } from "google-protobuf/google/protobuf/empty_pb";
import { JavaScriptValue, Struct } from "google-protobuf/google/protobuf/struct_pb";
import { ResourceDiff } from "./diff";
import { Props } from "./inputs";
import { InitFailed } from "./lifecycle";
import { ResourceType } from "./resources";
import { pulumiSchema } from "./schema";

/** Behind the gRPC service: the resource types by token, and what the service itself needs. */
export interface Backend {
  version: string;
  types: ReadonlyMap<string, ResourceType>;
  /** The engine's address, told later than at the start when a provider is attached to. */
  attach(address: string): void;
  /** Aborts all waits. */
  cancel(): void;
  /** Resolves when all lines for the display are out. */
  flush(): Promise<void>;
}

/**
 * Serves Pulumi's `ResourceProvider` with the SDK's own stubs instead of `pulumi.provider.Provider`, which hides what a
 * gate needs: the time limit, whether it is a preview, and cancellation.
 */
export function addProvider(server: grpc.Server, backend: Backend): void {
  server.addService(ResourceProviderService, {
    getPluginInfo: unary(async (): Promise<PluginInfo> => new PluginInfo().setVersion(backend.version)),
    getSchema: unary(async () => new pb.GetSchemaResponse().setSchema(pulumiSchema(backend.version))),
    attach: unary(async (request: { getAddress(): string }) => {
      backend.attach(request.getAddress());
      return new Empty();
    }),
    cancel: unary(async () => {
      backend.cancel();
      return new Empty();
    }),
    // There is no provider config, so what is given is passed through.
    checkConfig: unary(async (request: pb.CheckRequest) => new pb.CheckResponse().setInputs(request.getNews())),
    diffConfig: unary(async () => new pb.DiffResponse().setChanges(pb.DiffResponse.DiffChanges.DIFF_NONE)),
    // Without acceptSecrets the engine hands us plain values and marks outputs secret that were secret as inputs.
    configure: unary(async () => new pb.ConfigureResponse().setAcceptsecrets(false).setSupportspreview(true)),

    check: unary(async (request: pb.CheckRequest) => {
      const type = typeOf(request.getUrn());
      const failures = type.check(request.getUrn(), props(request.getOlds()), props(request.getNews()));
      return new pb.CheckResponse()
        .setInputs(request.getNews())
        .setFailuresList(failures.map((f) => new pb.CheckFailure().setProperty(f.property).setReason(f.reason)));
    }),
    diff: unary(async (request: pb.DiffRequest) => {
      const olds = props(request.getOlds());
      const oldInputs = request.hasOldInputs() ? props(request.getOldInputs()) : olds;
      const target = { urn: request.getUrn(), id: request.getId() };
      return diffResponse(typeOf(request.getUrn()).diff(target, oldInputs, olds, props(request.getNews())));
    }),
    create: unary(async (request: pb.CreateRequest) => {
      const news = props(request.getProperties());
      const type = typeOf(request.getUrn());
      const { id, properties } = await type.create(request.getUrn(), news, request.getTimeout(), request.getPreview());
      return new pb.CreateResponse().setId(id).setProperties(struct(properties));
    }),
    update: unary(async (request: pb.UpdateRequest) => {
      const target = { urn: request.getUrn(), id: request.getId() };
      const [olds, news] = [props(request.getOlds()), props(request.getNews())];
      const type = typeOf(request.getUrn());
      const properties = await type.update(target, olds, news, request.getTimeout(), request.getPreview());
      return new pb.UpdateResponse().setProperties(struct(properties));
    }),
    read: unary(async (request: pb.ReadRequest) => {
      const target = { urn: request.getUrn(), id: request.getId() };
      const type = typeOf(request.getUrn());
      const found = await type.read(target, props(request.getInputs()), props(request.getProperties()));
      // An empty id tells the engine that the resource is gone.
      if (found === undefined) return new pb.ReadResponse();
      return new pb.ReadResponse()
        .setId(request.getId())
        .setProperties(struct(found.outputs))
        .setInputs(struct(found.inputs));
    }),
    delete: unary(async (request: pb.DeleteRequest) => {
      const target = { urn: request.getUrn(), id: request.getId() };
      const inputs = request.hasOldInputs() ? request.getOldInputs() : request.getProperties();
      await typeOf(request.getUrn()).delete(target, props(inputs), request.getTimeout());
      return new Empty();
    }),
  });

  function typeOf(urn: string): ResourceType {
    const token = urn.split("::")[2]?.split("$").pop() ?? "";
    const type = backend.types.get(token);
    if (type) return type;
    throw new Error(
      `the provider nixvm has no resource type "${token}"; it has ${[...backend.types.keys()].join(" and ")}`,
    );
  }

  /** Answers only after the display has all lines: the engine drops lines about steps that are over. */
  function unary<Request, Response>(handle: (request: Request) => Promise<Response>) {
    return (call: grpc.ServerUnaryCall<Request, Response>, callback: grpc.sendUnaryData<Response>): void => {
      handle(call.request).then(
        (response) => void backend.flush().then(() => callback(null, response)),
        (error: Error) => void backend.flush().then(() => callback(statusOf(error), null)),
      );
    };
  }
}

function props(value: Struct | undefined): Props {
  return value ? value.toJavaScript() : {};
}

/** Undefined values have no place in a protobuf struct. */
function struct(value: Props): Struct {
  const entries = Object.entries(value).filter(([, entry]) => entry !== undefined);
  return Struct.fromJavaScript(Object.fromEntries(entries) as Record<string, JavaScriptValue>);
}

function diffResponse(diff: ResourceDiff): pb.DiffResponse {
  const response = new pb.DiffResponse();
  const { DIFF_SOME, DIFF_NONE } = pb.DiffResponse.DiffChanges;
  const all = [...diff.replaces, ...diff.updates, ...diff.drift];
  response.setChanges(all.length > 0 ? DIFF_SOME : DIFF_NONE);
  response.setReplacesList(diff.replaces);
  // Two guests cannot run on one domain, nor two media have one name: the old one goes first.
  response.setDeletebeforereplace(diff.replaces.length > 0);
  response.setDiffsList([...new Set(all)]);
  response.setHasdetaileddiff(true);
  const { UPDATE, UPDATE_REPLACE } = pb.PropertyDiff.Kind;
  const details = response.getDetaileddiffMap();
  for (const key of diff.drift) details.set(key, new pb.PropertyDiff().setKind(UPDATE).setInputdiff(false));
  for (const key of diff.updates) details.set(key, new pb.PropertyDiff().setKind(UPDATE).setInputdiff(true));
  for (const key of diff.replaces) details.set(key, new pb.PropertyDiff().setKind(UPDATE_REPLACE).setInputdiff(true));
  return response;
}

/** The error as gRPC carries it; a partial failure travels in the details, the way the SDK's own server packs it. */
function statusOf(error: Error): Partial<grpc.StatusObject> {
  const metadata = new grpc.Metadata();
  if (error instanceof InitFailed) {
    const detail = new pb.ErrorResourceInitFailed()
      .setId(error.id)
      .setProperties(struct(error.properties))
      .setReasonsList([error.message]);
    const any = new Any();
    any.pack(detail.serializeBinary(), "pulumirpc.ErrorResourceInitFailed");
    const status = new Status().setCode(grpc.status.UNKNOWN).setMessage(error.message);
    status.addDetails(any);
    metadata.add("grpc-status-details-bin", Buffer.from(status.serializeBinary()));
  }
  return { code: grpc.status.UNKNOWN, details: error.message, metadata };
}
