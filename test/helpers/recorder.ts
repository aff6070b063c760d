import * as pulumi from "@pulumi/pulumi";

/** A registration as the engine would get it: name, type, inputs and all resource options. */
export interface Registered {
  name: string;
  type: string;
  parent: string;
  inputs: Record<string, unknown>;
  protect: boolean;
  retainondelete: boolean;
  deletebeforereplace: boolean;
  replaceonchangesList: string[];
  additionalsecretoutputsList: string[];
  ignorechangesList: string[];
  dependenciesList: string[];
  propertydependenciesMap: [string, { urnsList: string[] }][];
  customtimeouts?: { create: string; update: string; pb_delete: string };
}

const SECRET_KEY = "4dabf18193072939515e22adb298388d";

/** Whether the engine would get the value as a secret. */
export function isSecret(value: unknown): boolean {
  return typeof value === "object" && value !== null && SECRET_KEY in value;
}

/** The value inside a secret, or the value itself. */
export function plain(value: unknown): unknown {
  return isSecret(value) ? (value as { value: unknown }).value : value;
}

/**
 * Sets mocks whose monitor records every registration with its options, which Pulumi's own mocks leave out. Ids and
 * computed outputs are made up from the inputs, so that what depends on them can be followed.
 */
export async function recordResources(): Promise<Map<string, Registered>> {
  const seen = new Map<string, Registered>();
  await pulumi.runtime.setMocks(
    {
      newResource: ({ name, type, inputs }) => {
        const given = inputs as Record<string, unknown>;
        const computed =
          type === "random:index/randomId:RandomId"
            ? { hex: "ab".repeat(Number(given.byteLength)) }
            : type === "random:index/randomPassword:RandomPassword"
              ? { result: "x".repeat(Number(given.length)) }
              : type.startsWith("command:")
                ? { stdout: `/nix/store/x\n/nix/store/x/core.qcow2\n${"a".repeat(64)}\n` }
                : {};
        const id = type.endsWith(":Volume") ? `/pool/${String(given.name)}` : `${name}-id`;
        return { id, state: { ...given, ...computed } };
      },
      call: () => ({}),
    },
    "nixvm",
    "test",
    false,
  );
  const monitor = pulumi.runtime.getMonitor() as unknown as {
    registerResource(
      req: { toObject(): Registered; getObject(): { toJavaScript(): Record<string, unknown> } },
      callback: unknown,
    ): unknown;
    registerResourceHook(req: unknown, callback: (error: null, answer: object) => void): void;
  };
  // Missing in the mocks of the SDK: a resource with a hook would never be registered.
  monitor.registerResourceHook = (_, callback) => callback(null, {});
  const original = monitor.registerResource.bind(monitor);
  monitor.registerResource = (req, callback) => {
    const registered = req.toObject();
    seen.set(registered.name, { ...registered, inputs: req.getObject().toJavaScript() });
    return original(req, callback);
  };
  return seen;
}

/** Resolves when every registration so far, and what they led to, is done. */
export async function settled(): Promise<void> {
  // Exported, but missing in the published types.
  await (pulumi.runtime as unknown as { waitForRPCs(): Promise<void> }).waitForRPCs();
}
