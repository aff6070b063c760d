import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";
import type { Context } from "./context";
import { wrongState } from "./errors";

/** A lock in a backend of files: of a run that goes on, or of one that was killed. */
export interface RunLock {
  file: string;
  /** `user@host (pid 123) at <time>`, as far as the lock says it. */
  by: string;
  pid?: number;
  hostname?: string;
}

/** Locks of a stack. `undefined`: the backend is none of files, and only it knows. */
export function locksOf(stack: string, backend = process.env.PULUMI_BACKEND_URL ?? ""): RunLock[] | undefined {
  if (!backend.startsWith("file://")) return undefined;
  const root = backend.startsWith("file:///") ? backendPath(backend) : path.resolve(backend.slice("file://".length));
  const folder = path.join(root, ".pulumi", "locks", "organization", "nixvm", stack);
  const names = fs.existsSync(folder) ? fs.readdirSync(folder).filter((name) => name.endsWith(".json")) : [];
  return names.map((name) => {
    const file = path.join(folder, name);
    try {
      const { pid, username, hostname, timestamp } = JSON.parse(fs.readFileSync(file, "utf8")) as Record<
        string,
        unknown
      >;
      const by = `${String(username)}@${String(hostname)} (process ${String(pid)}) since ${String(timestamp)}`;
      return {
        file,
        by,
        ...(typeof pid === "number" ? { pid } : {}),
        ...(typeof hostname === "string" ? { hostname } : {}),
      };
    } catch {
      return { file, by: "somebody" };
    }
  });
}

/** A path of this machine may hold characters that a URL would have escaped. */
function backendPath(backend: string): string {
  try {
    return fileURLToPath(encodeURI(decodeURI(backend)));
  } catch {
    return backend.slice("file://".length);
  }
}

/** What a run has just uploaded is not in the state yet, and nothing uses it. @throws CliError */
export async function refuseWhileRunning(context: Context): Promise<void> {
  const stack = await context.stack();
  const [lock] = locksOf(stack) ?? [];
  if (lock) {
    throw wrongState(
      `stack ${stack} is locked by ${lock.by}: a run goes on, or was killed; wait for it, or "pulumi cancel"`,
    );
  }
  const state = JSON.parse(await context.pulumi(["stack", "export"])) as {
    deployment?: { pending_operations?: unknown[] } | null;
  };
  if ((state.deployment?.pending_operations ?? []).length > 0) {
    throw wrongState(
      `a run of stack ${stack} goes on, or was broken off: what it has begun is not in the state; run "pulumi up" first`,
    );
  }
}
