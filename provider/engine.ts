import * as grpc from "@grpc/grpc-js";
import { EngineClient } from "@pulumi/pulumi/proto/engine_grpc_pb";
import { LogRequest, LogSeverity } from "@pulumi/pulumi/proto/engine_pb";

/** How loud a line is. `status` is ephemeral: live progress beside the resource, not kept. */
export type Level = "status" | "info" | "warning";

/** Sends lines to the display of the engine, each attributed to a resource. */
export interface Display {
  log(level: Level, urn: string, message: string): void;
  /** Resolves when all lines so far have arrived, or after a moment: a display is no reason to hold up a deployment. */
  flush(): Promise<void>;
}

/** The engine's own log service. Lines are sent one after the other, so that they arrive in order. */
export class EngineDisplay implements Display {
  private readonly client: EngineClient;
  private sent: Promise<void> = Promise.resolve();

  constructor(address: string) {
    this.client = new EngineClient(address, grpc.credentials.createInsecure());
  }

  log(level: Level, urn: string, message: string): void {
    const request = new LogRequest();
    request.setSeverity(level === "warning" ? LogSeverity.WARNING : LogSeverity.INFO);
    request.setEphemeral(level === "status");
    request.setUrn(urn);
    request.setMessage(message);
    this.sent = this.sent.then(
      () =>
        new Promise((resolve) => {
          const deadline = Date.now() + 2000;
          // An engine that is gone cannot be told so; the work itself must go on.
          this.client.log(request, new grpc.Metadata(), { deadline }, () => resolve());
        }),
    );
  }

  async flush(): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const moment = new Promise<void>((resolve) => (timer = setTimeout(resolve, 2000)));
    await Promise.race([this.sent, moment]);
    clearTimeout(timer);
  }
}

/** Used until the engine has told its address. */
export const noDisplay: Display = { log: () => undefined, flush: () => Promise.resolve() };
